# SPDX-License-Identifier: Apache-2.0
"""PS/2 keyboard and mouse of a whole machine: what both monitors type and move, by the virtual clock."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.ps2_guest import Ps2Guest
from tests.framework.qtest import QmpFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

MS = 1_000_000
HELD_MAX_MS = 12_000  # by any test here
ANSWER_LIMIT_S = 5.0  # for a thousand commands on a busy host


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ps2Guest]:
    with Ps2Guest("vmmd", tmp_path_factory.mktemp("ps2")) as machine:
        yield machine


@pytest.fixture
def guest(machine: Ps2Guest) -> Ps2Guest:
    """The one machine, after a reset, with no key held."""
    machine.vm.clock_step(HELD_MAX_MS * MS)
    machine.button("left", down=False)
    machine.vm.qmp("system_reset")
    machine.vm.wait_event("RESET")
    machine.edges()
    return machine


def keys(*names: str | int) -> list[dict[str, Any]]:
    return [{"type": "qcode" if isinstance(name, str) else "number", "data": name} for name in names]


def typed(guest: Ps2Guest, until_ms: int) -> list[tuple[int, str]]:
    """(milliseconds from now, bytes) of all that comes, a millisecond at a time."""
    found = []
    for now_ms in range(until_ms + 1):
        if text := guest.text():
            found.append((now_ms, text))
        guest.vm.clock_step(MS)
    return found


def test_send_key_presses_in_order_and_releases_in_reverse(guest: Ps2Guest) -> None:
    guest.vm.qmp("send-key", keys=keys("ctrl", 0x1E), hold_time=50)
    guest.vm.qmp("send-key", keys=keys("b"))
    assert typed(guest, 300) == [(0, "14"), (50, "1c"), (100, "f0 1c"), (150, "f0 14"), (200, "32"), (210, "f0 32")]


def test_sendkey_of_the_monitor_for_people(guest: Ps2Guest) -> None:
    assert guest.vm.hmp("sendkey alt-print 20") == ""
    assert typed(guest, 100) == [(0, "11"), (20, "f0 11 11 84"), (40, "f0 84 f0 11 11"), (60, "f0 11")]


def test_events_that_are_sent_do_not_wait_for_keys_that_are_held(guest: Ps2Guest) -> None:
    guest.vm.qmp("send-key", keys=keys("a"), hold_time=1000)
    guest.key("b", down=True)
    assert guest.text() == "1c 32"


def test_a_thousand_combinations_are_bounded_and_nothing_blocks(guest: Ps2Guest) -> None:
    begin = time.monotonic()
    refusals = [each for each in (_refusal(guest) for _ in range(1000)) if each]
    assert {each.partition(";")[0] for each in refusals} == {"too many keys are waiting"}
    taken = 1000 - len(refusals)
    assert taken == 512
    assert time.monotonic() - begin < ANSWER_LIMIT_S
    assert guest.text() == "1c"
    guest.vm.clock_step(2 * taken * 10 * MS)
    assert len(guest.text().split()) <= 16
    guest.vm.qmp("send-key", keys=keys("b"))
    assert guest.text() == "32"


@pytest.mark.parametrize(("hold_ms", "refused"), [(-1, True), (1 << 40, True), (0, False)])
def test_how_long_keys_are_held_is_checked(guest: Ps2Guest, hold_ms: int, refused: bool) -> None:
    if refused:
        with pytest.raises(QmpFailure, match="hold-time"):
            guest.vm.qmp("send-key", keys=keys("a"), hold_time=hold_ms)
    else:
        guest.vm.qmp("send-key", keys=keys("a"), hold_time=hold_ms)
    assert guest.text() == ("" if refused else "1c")


def test_a_stopped_machine_takes_no_input(guest: Ps2Guest) -> None:
    guest.vm.qmp("send-key", keys=keys("a"))
    guest.vm.qmp("stop")
    guest.vm.qmp("send-key", keys=keys("b"))
    with pytest.raises(QmpFailure, match="VM not running"):
        guest.key("c", down=True)
    assert guest.text() == "1c"
    guest.vm.qmp("cont")
    assert typed(guest, 50) == [(10, "f0 1c")]


def test_a_reset_silences_both(guest: Ps2Guest) -> None:
    guest.mouse(0xF4)
    guest.key("a", down=True)
    guest.move(1, 1)
    guest.vm.qmp("system_reset")
    guest.vm.wait_event("RESET")
    assert guest.text() == ""
    guest.edges()
    guest.move(1, 1)
    assert guest.text() == ""
    guest.key("a", down=True)
    assert guest.edges() == [(1, 1)]


def test_throttled_bytes_of_the_keyboard(tmp_path) -> None:
    with Ps2Guest("vmmd", tmp_path, "-global", "i8042.kbd-throttle=on") as guest:
        guest.key("right", down=True)
        assert typed(guest, 3) == [(0, "e0"), (1, "74")]


def test_events_of_one_command_are_bounded(guest: Ps2Guest) -> None:
    move = {"type": "rel", "data": {"axis": "x", "value": 1}}
    guest.mouse(0xF4)
    with pytest.raises(QmpFailure, match="too many events: 257; at most 256 at once"):
        guest.send(*[move] * 257)
    guest.send(*[move] * 127)
    assert guest.text() == "08 7f 00"


def test_objects_have_qemus_places(guest: Ps2Guest) -> None:
    tree = guest.vm.hmp("info qom-tree")
    controller = tree.index("(i8042)")
    assert controller < tree.index("/ps2kbd (ps2-kbd)") < tree.index("/ps2mouse (ps2-mouse)")
    assert guest.vm.hmp("info qtree").index("dev: ps2-mouse") < guest.vm.hmp("info qtree").index("dev: ps2-kbd")


def test_floods_from_both_sides_leave_the_devices_usable(guest: Ps2Guest) -> None:
    dice = random.Random(4)
    for _ in range(100):
        names = keys("pause", "print", dice.randrange(300))
        buttons = ("left", "wheel-up", "extra")
        events = [
            {"type": "rel", "data": {"axis": dice.choice("xy"), "value": dice.randint(-(1 << 40), 1 << 40)}},
            {"type": "btn", "data": {"button": dice.choice(buttons), "down": dice.random() < 0.5}},
            *({"type": "key", "data": {"down": True, "key": each}} for each in names),
        ]
        guest.send(*dice.choices(events, k=200))
        for _ in range(5):
            guest.vm.outb(0x64, dice.choice((0x20, 0xA8, 0xAE, 0xD4, 0xD2)))
            guest.vm.outb(0x60, dice.choice((0xF4, 0xE9, 0xEB, 0xF2, 0xEE)))
    guest.command(0x60, 0x03)
    guest.drain()
    guest.mouse(0xFF)
    guest.keyboard(0xFF)
    guest.drain()
    assert [byte for _, byte in guest.mouse(0xF2)[0]] == [0xFA, 0x00]
    guest.key("a", down=True)
    assert guest.text() == "1c"


def _refusal(guest: Ps2Guest) -> str:
    """How another key is refused; "" when it is not."""
    try:
        guest.vm.qmp("send-key", keys=keys("a"))
    except QmpFailure as failure:
        return failure.desc
    return ""

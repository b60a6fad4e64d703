# SPDX-License-Identifier: Apache-2.0
"""Keyboard controller, keyboard and mouse: the same commands, keys and movements to QEMU and vmmd give the same bytes,
status bits and interrupt edges.

Left out of the random script, because vmmd differs on purpose:
- more in a queue than it holds: QEMU tears the codes of keys, and loses answers and the end of movements;
- input while the device is disabled, remote mode, and resets with movement left: QEMU keeps stale state;
- F7h-FDh and FEh to the keyboard, bytes that are no commands to the mouse, scaling 2:1, buttons in its status, status
  before the first reset: QEMU answers with an error, not at all, or without effect;
- the knock of a wheel behind another rate of 200: QEMU does not hear it;
- commands 21h-3Fh, 61h-7Fh, E0h of the controller: unknown to QEMU;
- a command between one with data and its data: QEMU keeps waiting for the data;
- codes from 80h on in translated set 3: QEMU's break bit ends up in the next byte; LANG1 and LANG2: QEMU lacks them.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.framework.ps2_guest import Ps2Guest
from tests.framework.qtest import QmpFailure
from vmmd.core.keycodes import scan_codes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.qemu

STEPS = 400
HIGH_CODES = 0x80
SPECIAL = ("alt", "alt_r", "ctrl", "shift", "print", "pause", "sysrq")
KEYS = [
    name for name, codes in scan_codes().items() if codes.set3 < HIGH_CODES and name not in ("lang1", "lang2")
]  # fmt: skip
CONTROLLER = (0x20, 0xA9, 0xAB, 0xAA, 0xC0, 0xD0, 0xA7, 0xA8, 0xAD, 0xAE)
COMMAND_BYTES = (0x03, 0x43, 0x47, 0x00, 0x13, 0x23, 0x53, 0x63)
KEYBOARD = ((0xEE,), (0xF2,), (0xF4,), (0xF5, 0xF4), (0xF6,), (0xFF,), (0,), (5,), (0x77,), (0xED, 7), (0xF3, 0x2B))
SETS = (0, 1, 2, 3, 3, 4)
WHEEL_KNOCK, EXPLORER_KNOCK = (0xF3, 200, 0xF3, 100, 0xF3, 80), (0xF3, 200, 0xF3, 200, 0xF3, 80)
MOUSE = (
    (0xE6,), (0xE8, 0), (0xE8, 3), (0xE9,), (0xF2,), (0xF3, 10), (0xF3, 100), (0xF3, 200), (0xF4,), (0xF4,), (0xF4,),
    (0xF3, 10, *WHEEL_KNOCK), (0xF3, 10, *EXPLORER_KNOCK), (0xEE, 0x12, 0xEC), (0xFF, 0xF4), (0xF5, 0xF4), (0xF6, 0xF4),
)  # fmt: skip
#: what the keyboard's buffer has room for besides an answer
KEY_BYTES = 13
REPORTS = 4

Step = tuple[str, tuple[int | str, ...]]


class Script:
    """Random steps that keep within what both do alike."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._held: list[str] = []
        self._key_bytes = self._reports = 0

    def steps(self) -> Iterator[Step]:
        choices = [self._key, self._move, self._mouse, self._keyboard, self._controller, self._read]
        for kind in self._dice.choices(choices, (35, 8, 4, 9, 12, 35), k=STEPS):
            yield from kind()

    def _empty(self) -> Iterator[Step]:
        """Both clocks on, and everything read."""
        self._key_bytes = self._reports = 0
        yield "command", (0xAE,)
        yield "command", (0xA8,)
        yield "drain", ()

    def _key(self) -> Iterator[Step]:
        dice = self._dice
        is_down = not self._held or dice.random() < 0.5
        name = dice.choice((*KEYS, *SPECIAL * 5)) if is_down else self._held.pop(dice.randrange(len(self._held)))
        length = 8 if name in SPECIAL else 3
        if self._key_bytes + length > KEY_BYTES:
            yield from self._empty()
        self._key_bytes += length
        if is_down:
            self._held.append(name)
        yield ("press" if is_down else "release"), (name,)

    def _move(self) -> Iterator[Step]:
        if self._reports == REPORTS:
            yield from self._empty()
        self._reports += 1
        yield "move", (self._dice.randint(-127, 127), self._dice.randint(-127, 127))

    def _mouse(self) -> Iterator[Step]:
        yield from self._empty()
        yield "mouse", self._dice.choice(MOUSE)

    def _keyboard(self) -> Iterator[Step]:
        dice = self._dice
        yield "keyboard", dice.choice(KEYBOARD) if dice.random() < 0.7 else (0xF0, dice.choice(SETS))

    def _controller(self) -> Iterator[Step]:
        dice = self._dice
        choice = dice.random()
        if choice < 0.6:
            yield "command", (dice.choice(CONTROLLER),)
        elif choice < 0.85:
            yield "command", (0x60, dice.choice(COMMAND_BYTES))
        else:
            yield "command", (dice.choice((0xD2, 0xD3)), dice.randrange(0x100))

    def _read(self) -> Iterator[Step]:
        yield self._dice.choice(("read", "read", "drain")), ()


def _do(guest: Ps2Guest, step: Step) -> object:
    kind, words = step
    if kind == "press" or kind == "release":
        guest.key(str(words[0]), down=kind == "press")
        return None
    numbers = [int(each) for each in words]
    if kind == "read":
        return guest.status, guest.read(), guest.status
    actions = {"move": guest.move, "mouse": guest.mouse, "keyboard": guest.keyboard, "command": guest.command}
    return guest.drain() if kind == "drain" else actions[kind](*numbers)


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Ps2Guest]]:
    directory = tmp_path_factory.mktemp("ps2")
    with ExitStack() as stack:
        yield [stack.enter_context(Ps2Guest(name, directory)) for name in ("qemu", "vmmd")]


def _start(guest: Ps2Guest) -> None:
    guest.command(0xAA)
    guest.command(0x60, 0x03)
    guest.drain()
    for name in SPECIAL:
        guest.key(name, down=False)
        guest.drain()
    guest.keyboard(0xFF)
    guest.mouse(0xFF)
    guest.drain()
    guest.edges()


@pytest.mark.parametrize("seed", range(3))
def test_random_commands_and_input_give_the_same_bytes_and_interrupts(guests: list[Ps2Guest], seed: int) -> None:
    _replay(guests, seed)


def test_the_controller_without_extended_state_does_the_same(tmp_path: Path) -> None:
    with ExitStack() as stack:
        option = ("-global", "i8042.extended-state=off")
        pair = [stack.enter_context(Ps2Guest(name, tmp_path, *option)) for name in ("qemu", "vmmd")]
        _replay(pair, 3)


def _replay(guests: list[Ps2Guest], seed: int) -> None:
    for guest in guests:
        _start(guest)
    done: list[Step] = []
    for step in Script(seed).steps():
        done.append(step)
        qemus, ours = ((_do(guest, step), guest.edges()) for guest in guests)
        assert ours == qemus, done[-20:]


@pytest.mark.parametrize("name", [name for name in scan_codes() if name not in ("lang1", "lang2")])
def test_each_key_sends_the_same(guests: list[Ps2Guest], name: str) -> None:
    sent = []
    for guest in guests:
        _start(guest)
        found = []
        for number in (1, 2, 3):
            guest.keyboard(0xF0, number)
            guest.drain()
            for is_down in (True, False):
                guest.key(name, down=is_down)
                found.append(guest.text())
        sent.append(found)
    assert sent[0] == sent[1]


def test_each_number_is_the_same_key(guests: list[Ps2Guest]) -> None:
    sent = []
    for guest in guests:
        _start(guest)
        found = {}
        for number in (*range(0x100), -1, 0x100, 1 << 40):
            for is_down in (True, False):
                guest.send({"type": "key", "data": {"down": is_down, "key": {"type": "number", "data": number}}})
                found[number, is_down] = guest.text()
        sent.append(found)
    korean = {(number, is_down) for number in (0x71, 0x72) for is_down in (True, False)}
    assert {key for key in sent[0] if sent[0][key] != sent[1][key]} <= korean


@pytest.mark.parametrize(
    "knock",
    [(), WHEEL_KNOCK, EXPLORER_KNOCK],
    ids=["standard", "wheel", "explorer"],
)
def test_buttons_and_wheels_report_the_same(guests: list[Ps2Guest], knock: tuple[int, ...]) -> None:
    sent = []
    for guest in guests:
        _start(guest)
        found: list[object] = [guest.mouse(*knock, 0xF2, 0xF4)]
        for name in ("left", "right", "middle", "side", "extra", "wheel-up", "wheel-down", "wheel-left", "wheel-right"):
            for is_down in (True, False):
                guest.button(name, down=is_down)
                found.append((guest.drain(), guest.edges()))
        for line in (
            "mouse_move 3 4",
            "mouse_move 3 -4 1",
            "mouse_move 0x10 0 -5",
            *(f"mouse_button {n}" for n in range(8)),
        ):
            text = guest.vm.hmp(line)
            found.append((text, guest.drain()))
        guest.vm.hmp("mouse_button 0")
        sent.append([*found, guest.drain()])
    assert sent[0] == sent[1]


def test_keyboard_properties(tmp_path: Path) -> None:
    sent = []
    for name in ("qemu", "vmmd"):
        with Ps2Guest(name, tmp_path, "-global", "i8042.kbd-irq=12", "-global", "i8042.mouse-irq=1") as guest:
            guest.mouse(0xF4)
            guest.edges()
            guest.key("a", down=True)
            guest.drain()
            guest.move(1, 1)
            guest.drain()
            sent.append(guest.edges())
    assert sent[0] == sent[1]
    assert sent[0][0] == (12, 1)


TRACED = (
    "input_event_key_qcode", "input_event_btn", "input_event_rel", "pckbd_kbd_read_data", "pckbd_kbd_write_data",
    "pckbd_kbd_write_command",
)  # fmt: skip
REFUSED = (
    {"events": [{"type": "abs", "data": {"axis": "x", "value": 1}}]},
    {"device": "x", "events": []},
    {"events": [{"type": "foo", "data": {}}]},
    {"events": [{"type": "btn", "data": {"button": "nose", "down": True}}]},
    {"events": [{"type": "key", "data": {"down": True}}]},
    {"events": [{"type": "key", "data": {"down": True, "key": {"type": "qcode", "data": "nokey"}}}]},
    {"events": []},
    {"head": 3, "events": [{"type": "rel", "data": {"axis": "y", "value": 1 << 40}}]},
)


@pytest.mark.parametrize("arguments", REFUSED, ids=str)
def test_input_send_event_answers_the_same(guests: list[Ps2Guest], arguments: dict[str, object]) -> None:
    qemus, ours = (_answer(guest, "input-send-event", arguments) for guest in guests)
    assert ours.split("; ")[0] == qemus


def test_mice_are_the_same(guests: list[Ps2Guest], tmp_path: Path) -> None:
    qemus, ours = (guest.vm.qmp("query-mice") for guest in guests)
    assert ours == qemus
    for name in ("qemu", "vmmd"):
        with Ps2Guest(name, tmp_path, "-machine", "i8042=off") as guest:
            assert guest.vm.qmp("query-mice") == []
            assert guest.vm.hmp("info mice") == "No mouse devices connected\r\n"
            for kind, data in (
                ("key", {"down": True, "key": {"type": "qcode", "data": "a"}}),
                ("rel", {"axis": "x", "value": 1}),
            ):
                refused = _answer(guest, "input-send-event", {"events": [{"type": kind, "data": data}]})
                assert refused.split("; ")[0] == f"GenericError: Input handler not found for event type {kind}"


def test_traces_say_the_same(tmp_path: Path) -> None:
    said = []
    for name in ("qemu", "vmmd"):
        log = tmp_path / f"{name}.log"
        patterns = [word for each in TRACED for word in ("-trace", each)]
        with Ps2Guest(name, tmp_path, *patterns, "-D", str(log)) as guest:
            guest.mouse(0xF4)
            guest.key("kp_enter", down=True)
            guest.move(3, -4)
            guest.button("left", down=True)
            guest.keyboard(0xED, 2)
            guest.command(0x60, 0x43)
            guest.drain()
        said.append([line for line in log.read_text().splitlines() if line.startswith(TRACED)])
    assert said[0] == said[1]
    assert len(said[0]) > len(TRACED)


def _answer(guest: Ps2Guest, command: str, arguments: dict[str, object]) -> str:
    try:
        return str(guest.vm.qmp_raw(command, arguments))
    except QmpFailure as failure:
        return f"{failure.error_class}: {failure.desc}"

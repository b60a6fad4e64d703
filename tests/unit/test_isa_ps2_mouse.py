# SPDX-License-Identifier: Apache-2.0
"""PS/2 mouse behind its controller: three protocols."""

from __future__ import annotations

import random

import pytest

from tests.unit.ps2_rig import Ps2Rig
from vmmd.core.device import ResetKind
from vmmd.core.input import BUTTONS, ButtonEvent, KeyEvent, RelativeEvent

WHEEL_KNOCK = (0xF3, 200, 0xF3, 100, 0xF3, 80)
EXPLORER_KNOCK = (0xF3, 200, 0xF3, 200, 0xF3, 80)


@pytest.fixture
def rig() -> Ps2Rig:
    rig = Ps2Rig()
    assert rig.mouse(0xF4) == "fa"
    return rig


def test_commands_are_answered(rig: Ps2Rig) -> None:
    assert rig.mouse(0xFF) == "fa aa 00"
    assert rig.mouse(0xF2) == "fa 00"
    assert rig.mouse(0xE9) == "fa 00 02 64"
    assert rig.mouse(0xE8, 3, 0xE7, 0xF3, 40, 0xF4, 0xE9) == "fa fa fa fa fa fa fa 30 03 28"
    assert rig.mouse(0xF6, 0xE9) == "fa fa 00 02 64"
    assert rig.mouse(0xF0, 0xE9) == "fa fa 40 02 64"
    assert rig.mouse(0xE1) == "fe"
    assert rig.mouse(0xFE) == "fa 40 02 64"


def test_reports_have_sign_and_buttons(rig: Ps2Rig) -> None:
    rig.move(5, 5)
    assert rig.reports() == "28 05 fb"
    rig.move(-1, -2)
    assert rig.reports() == "18 ff 02"
    for name, first in (("left", "09"), ("right", "0a"), ("middle", "0c"), ("side", "08")):
        rig.button(name, down=True)
        assert rig.reports() == f"{first} 00 00"
        rig.button(name, down=False)
        assert rig.reports() == "08 00 00"
    rig.send(RelativeEvent("x", 3), ButtonEvent("left", down=True), RelativeEvent("x", 4))
    assert rig.reports() == "09 07 00"


def test_a_long_way_goes_out_in_whole_reports(rig: Ps2Rig) -> None:
    rig.move(1000, -300)
    reports = rig.reports().split()
    assert len(reports) == 8 * 3
    assert sum(int(each, 16) for each in reports[1::3]) == 1000
    assert sum(int(each, 16) for each in reports[2::3]) == 300
    rig.move(1 << 60)
    assert len(rig.reports().split()) == 3 * 259  # 32767 counts at most
    rig.move(1)
    assert rig.reports() == "08 01 00"


def test_what_finds_no_room_is_merged_and_follows(rig: Ps2Rig) -> None:
    for _ in range(20):
        rig.move(3)
    rig.button("left", down=True)
    assert rig.reports() == " ".join(["08 03 00"] * 5 + ["09 2d 00"])
    for number in range(21):
        rig.button("left", down=number % 2 == 0)
    assert rig.reports().split()[-3:] == ["09", "00", "00"]


def test_a_command_finds_room_behind_a_full_queue(rig: Ps2Rig) -> None:
    for _ in range(6):
        rig.move(2)
    rig.read()
    rig.command(0xD4, 0xE9)
    assert rig.reports() == "02 00 " + "08 02 00 " * 4 + "fa 20 02 64 08 02 00"


def test_an_answer_of_the_controller_waits_for_a_byte_of_a_mouse_that_has_more(rig: Ps2Rig) -> None:
    """As Linux does it at start-up, with a mouse that moves: it reads the command byte, and writes it back."""
    rig.mouse(0xF4)
    rig.command(0x60, 0x47)
    for _ in range(8):
        rig.move(3)  # more than the queue has room for
    rig.command(0x20)
    assert rig.drain().startswith("m08 47 m03 m00 ")


def test_its_own_reset_forgets_what_nobody_has_read(rig: Ps2Rig) -> None:
    rig.mouse(0xF4)
    rig.move(2)
    rig.read()
    rig.command(0xD4, 0xFF)
    assert rig.reports() == "fa aa 00"


def test_disabled_it_tells_nothing(rig: Ps2Rig) -> None:
    rig.mouse(0xF5)
    rig.move(5)
    rig.button("wheel-up", down=True)
    assert rig.reports() == ""
    rig.mouse(0xF4)
    rig.move(1)
    assert rig.reports() == "08 01 00"


def test_remote_mode_tells_when_it_is_asked(rig: Ps2Rig) -> None:
    rig.mouse(0xF0)
    rig.move(9)
    rig.move(200)
    rig.button("right", down=True)
    assert rig.reports() == ""
    assert rig.mouse(0xEB) == "fa 0a 7f 00"
    assert rig.mouse(0xE9) == "fa 61 02 64"
    assert rig.mouse(0xEB, 0xEB) == "fa 0a 52 00 fa 0a 00 00"
    rig.mouse(0xEA)
    rig.move(1)
    assert rig.reports() == "0a 01 00"


def test_wrap_mode_echoes_all_but_two(rig: Ps2Rig) -> None:
    assert rig.mouse(0xEE, 0x12, 0xF4, 0xEE, 0xEC, 0xF2) == "fa 12 f4 ee fa fa 00"
    assert rig.mouse(0xEE, 0xFF, 0xF2) == "fa fa aa 00 fa 00"


def test_scaling_is_for_stream_mode(rig: Ps2Rig) -> None:
    rig.mouse(0xE7)
    for moved, told in ((1, 1), (2, 1), (3, 3), (4, 6), (5, 9), (6, 12), (-2, -1), (-5, -9), (-100, -200)):
        rig.move(moved)
        first, x, _ = (int(each, 16) for each in rig.reports().split())
        assert x - (256 if first & 0x10 else 0) == told
    rig.mouse(0xF0)
    rig.move(4)
    assert rig.mouse(0xEB) == "fa 08 04 00"


def test_a_knock_makes_it_a_wheel_mouse(rig: Ps2Rig) -> None:
    assert rig.mouse(*WHEEL_KNOCK, 0xF2).endswith("fa 03")
    for button, turned in (("wheel-up", "ff"), ("wheel-down", "01"), ("wheel-left", "00")):
        rig.button(button, down=True)
        assert rig.reports() == f"08 00 00 {turned}"
        rig.button(button, down=False)
        assert rig.reports() == "08 00 00 00"
    assert rig.mouse(0xFF, 0xF2) == "fa aa 00 fa 00"


def test_another_knock_makes_it_an_explorer(rig: Ps2Rig) -> None:
    assert rig.mouse(*EXPLORER_KNOCK, 0xF2).endswith("fa 04")
    for button, pressed, released in (
        ("wheel-up", "0f", "00"), ("wheel-down", "01", "00"), ("wheel-left", "41", "00"), ("wheel-right", "7f", "00"),
        ("side", "10", "00"), ("extra", "20", "00"),
    ):  # fmt: skip
        rig.button(button, down=True)
        assert rig.reports() == f"08 00 00 {pressed}"
        rig.button(button, down=False)
        assert rig.reports() == f"08 00 00 {released}"
    rig.send(*[ButtonEvent("wheel-up", down=True)] * 16, ButtonEvent("wheel-left", down=True))
    assert rig.reports().split()[3::4] == ["41", "09", "09", "0e"]


def test_keyboard_and_mouse_take_turns(rig: Ps2Rig) -> None:
    rig.move(1)
    rig.send(KeyEvent("right", down=True), KeyEvent("a", down=True))
    assert rig.drain() == "m08 e0 m01 74 m00 1c"


def test_each_byte_is_an_edge_of_interrupt_12(rig: Ps2Rig) -> None:
    rig.machine.interrupts.edges.clear()
    rig.move(1)
    rig.drain()
    assert rig.machine.interrupts.edges == [(12, 1), (12, 0)] * 3


def test_a_reset_clears_it(rig: Ps2Rig) -> None:
    rig.mouse(*EXPLORER_KNOCK)
    for _ in range(20):
        rig.move(100)
    rig.button("left", down=True)
    for _ in range(2):
        rig.controller.reset(ResetKind.COLD)
        assert rig.drain() == ""
    assert rig.mouse(0xF2, 0xE9) == "fa 00 fa 00 02 64"


def test_any_commands_and_events_leave_it_bounded(rig: Ps2Rig) -> None:
    dice = random.Random(12)
    for _ in range(20_000):
        choice = dice.random()
        if choice < 0.4:
            rig.button(dice.choice(BUTTONS), down=dice.random() < 0.5)
            rig.move(0, dice.randrange(-999, 999))
        elif choice < 0.7:
            rig.command(0xD4, dice.randrange(0x100))
        else:
            rig.read()
    rig.mouse(0xFF)
    rig.mouse(0xFF)
    assert rig.mouse(0xF2) == "fa 00"

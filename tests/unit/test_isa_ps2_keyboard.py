# SPDX-License-Identifier: Apache-2.0
"""PS/2 keyboard behind its controller."""

from __future__ import annotations

import random

import pytest

from tests.unit.ps2_rig import Ps2Rig
from vmmd.core.device import ResetKind
from vmmd.core.input import KeyEvent, Leds
from vmmd.core.keycodes import key_of_number, scan_codes
from vmmd.devices.isa.ps2 import translate


@pytest.fixture
def rig() -> Ps2Rig:
    return Ps2Rig()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ((0xEE,), "ee"), ((0xF2,), "fa ab 83"), ((0xFF,), "fa aa"), ((0xF4,), "fa"), ((0xF6,), "fa"),
        ((0xF3, 0x20), "fa"), ((0xED, 0x07), "fa"), ((0xF0, 0), "fa 02"), ((0xF0, 9), "fe"),
        ((0x01,), "fe"), ((0xEF,), "fe"), ((0,), "fa"),
        ((0xF7,), "fa"), ((0xFA,), "fa"), ((0xFB, 0x1C, 0x1B, 0xEE), "ee"),
    ],
)  # fmt: skip
def test_commands_are_answered(rig: Ps2Rig, sent: tuple[int, ...], answer: str) -> None:
    """An answer that nobody has read is replaced by the next."""
    assert rig.keyboard(*sent) == answer


def test_a_parameter_is_acknowledged_by_itself(rig: Ps2Rig) -> None:
    assert rig.keyboard(0xED) == "fa"
    assert rig.keyboard(0x02) == "fa"


@pytest.mark.parametrize(
    ("words", "set1", "set2", "set3"),
    [
        ("a -a", "1e 9e", "1c f0 1c", "1c f0 1c"),
        ("a a -a", "1e 1e 9e", "1c 1c f0 1c", "1c 1c f0 1c"),
        ("right -right", "e0 4d e0 cd", "e0 74 e0 f0 74", "6a f0 6a"),
        ("f7 -f7", "41 c1", "83 f0 83", "37 f0 37"),
        ("print -print", "e0 2a e0 37 e0 b7 e0 aa", "e0 12 e0 7c e0 f0 7c e0 f0 12", "57 f0 57"),
        ("pause -pause", "e1 1d 45 e1 9d c5", "e1 14 77 e1 f0 14 f0 77", "62 f0 62"),
        ("volumeup -volumeup", "e0 30 e0 b0", "e0 32 e0 f0 32", "95 f0 95"),
        ("sleep -sleep", "e0 5f e0 df", "e0 3f e0 f0 3f", ""),
        ("yen -yen", "7d fd", "6a f0 6a", "5d f0 5d"),
        ("unmapped -unmapped", "", "", ""),
    ],
)
def test_a_key_has_its_code_in_each_set(rig: Ps2Rig, words: str, set1: str, set2: str, set3: str) -> None:
    for number, expected in ((1, set1), (2, set2), (3, set3)):
        rig.keyboard(0xF0, number)
        assert rig.keys(words) == expected, f"set {number}"


@pytest.mark.parametrize(
    ("held", "key", "set1", "set2"),
    [
        ("alt", "print", "b8 38 54", "f0 11 11 84"),
        ("alt_r", "print", "e0 b8 e0 38 54", "e0 f0 11 e0 11 84"),
        ("shift", "print", "e0 37", "e0 7c"),
        ("ctrl", "print", "e0 37", "e0 7c"),
        ("ctrl", "pause", "e0 46 e0 c6", "e0 7e e0 f0 7e"),
        ("shift", "pause", "e1 1d 45 e1 9d c5", "e1 14 77 e1 f0 14 f0 77"),
    ],
)
def test_print_and_pause_depend_on_what_is_held(rig: Ps2Rig, held: str, key: str, set1: str, set2: str) -> None:
    for number, expected in ((1, set1), (2, set2)):
        rig.keyboard(0xF0, number)
        rig.keys(held)
        assert rig.keys(key) == expected
        rig.keys(f"-{key} -{held}")


def test_sysrq_is_released_before_alt_is_pressed_again(rig: Ps2Rig) -> None:
    rig.keys("alt")
    rig.keys("print")
    assert rig.keys("-print") == "f0 84 f0 11 11"
    assert rig.keys("-alt") == "f0 11"


def test_korean_keys_make_only(rig: Ps2Rig) -> None:
    assert rig.keys("lang1 -lang1 lang2 -lang2") == "f2 f1"


def test_the_controller_translates_to_set_1(rig: Ps2Rig) -> None:
    rig.command(0x60, 0x43)
    assert rig.keys("a -a right -right") == "1e 9e e0 4d e0 cd"
    assert rig.keys("f7 -f7 pause") == "41 c1 e1 1d 45 e1 9d c5"
    assert rig.keyboard(0xF2) == "fa ab 41"
    assert rig.keyboard(0xF0, 0) == "fa 41"
    assert rig.keyboard(0xEE) == "ee"


def test_every_code_of_set_2_is_translated_to_its_code_in_set_1() -> None:
    for name, codes in scan_codes().items():
        if codes.set2 and name not in ("pause", "lang1", "lang2"):
            made = translate(bytes((codes.set2 & 0xFF,)))[0]
            assert made == codes.set1 & 0xFF, name
            assert codes.set1 >> 8 == codes.set2 >> 8, name
            assert translate(bytes((0xF0, codes.set2 & 0xFF)))[0] == made | 0x80


def test_keys_have_numbers() -> None:
    assert [key_of_number(number) for number in (0x1E, 0x9C, 0x1D, 0x9D, 0xC6, 0x54)] == [
        "a", "kp_enter", "ctrl", "ctrl_r", "pause", "sysrq",
    ]  # fmt: skip
    assert key_of_number(0) is key_of_number(-1) is key_of_number(1 << 70) is None


def test_a_full_buffer_takes_no_half_keys(rig: Ps2Rig) -> None:
    assert rig.keys(" ".join(["right"] * 1000)) == " ".join(["e0 74"] * 8)
    assert rig.keys("a " * 7 + "pause b") == " ".join(["1c"] * 7 + ["e1 14 77 e1 f0 14 f0 77", "32"])
    assert rig.keys("a " * 9 + "pause b") == " ".join(["1c"] * 9 + ["32"])


def test_an_answer_overtakes_keys_and_has_room_when_they_fill_the_buffer(rig: Ps2Rig) -> None:
    for _ in range(20):
        rig.send(KeyEvent("a", down=True))
    assert rig.keyboard(0xF2) == "fa ab 83 " + " ".join(["1c"] * 16)


def test_disabled_it_sends_nothing_and_forgets_its_buffer(rig: Ps2Rig) -> None:
    rig.send(KeyEvent("a", down=True))
    assert rig.keyboard(0xF5) == "fa"
    assert rig.keys("b -b") == ""
    rig.keyboard(0xF4)
    assert rig.keys("b") == "32"


def test_defaults_bring_back_set_2(rig: Ps2Rig) -> None:
    for command in (0xF5, 0xF6, 0xFF):
        rig.keyboard(0xF0, 1)
        rig.keyboard(command)
        assert rig.keyboard(0xF0, 0) == "fa 02"


def test_resend_repeats_the_last_byte(rig: Ps2Rig) -> None:
    rig.command(0x60, 0x43)
    assert rig.keys("a") == "1e"
    assert rig.keyboard(0xFE) == "1e"
    assert rig.keyboard(0xFE) == "1e"
    assert rig.keyboard(0x01) == "fe"
    assert rig.keyboard(0xFE) == "1e"


def test_modes_of_keys_in_set_3(rig: Ps2Rig) -> None:
    rig.keyboard(0xF0, 3)
    for command, expected in ((0xF7, "1c 1c"), (0xF8, "1c f0 1c"), (0xF9, "1c"), (0xFA, "1c 1c f0 1c")):
        assert rig.keyboard(command) == "fa"
        assert rig.keys("a a -a") == expected
    assert rig.keyboard(0xFD) == "fa"
    assert rig.keyboard(0x1C) == "fa"
    assert rig.keyboard(0xF4) == "fa"  # the end of the list
    assert rig.keys("a a -a b b -b") == "1c 32 32 f0 32"
    rig.keyboard(0xF0, 2)
    assert rig.keys("a a -a") == "1c 1c f0 1c"


def test_lamps_are_shown(rig: Ps2Rig) -> None:
    seen: list[Leds] = []
    rig.machine.inputs.on_leds.append(seen.append)
    rig.keyboard(0xED, 0x06)
    rig.keyboard(0xED, 0x06)
    rig.keyboard(0xFF)
    assert seen == [Leds(num_lock=True, caps_lock=True), Leds()]


def test_a_reset_lets_all_go(rig: Ps2Rig) -> None:
    rig.keyboard(0xF0, 1)
    rig.command(0x60, 0x43)
    rig.keys("alt a a")
    rig.send(KeyEvent("b", down=True))
    rig.keyboard(0xED)
    for _ in range(2):
        rig.controller.reset(ResetKind.COLD)
        assert rig.drain() == ""
    assert rig.keys("print") == "e0 12 e0 7c"


def test_each_byte_is_an_edge_of_interrupt_1(rig: Ps2Rig) -> None:
    rig.send(KeyEvent("right", down=True))
    edges = rig.machine.interrupts.edges
    assert edges == [(1, 1)]
    rig.drain()
    assert edges == [(1, 1), (1, 0), (1, 1), (1, 0)]


def test_throttled_keys_come_a_millisecond_apart() -> None:
    rig = Ps2Rig(kbd_throttle="on")
    assert rig.keys("a b") == "1c"
    assert rig.machine.interrupts.levels[1] == 0
    rig.machine.clock.advance(999_999)
    assert rig.drain() == ""
    rig.machine.clock.advance(1)
    assert rig.machine.interrupts.levels[1] == 1
    assert rig.drain() == "32"


def test_any_commands_and_keys_leave_it_bounded(rig: Ps2Rig) -> None:
    dice = random.Random(8042)
    names = list(scan_codes())
    for _ in range(20_000):
        choice = dice.random()
        if choice < 0.4:
            rig.send(KeyEvent(dice.choice(names), down=dice.random() < 0.5))
        elif choice < 0.8:
            rig.machine.pio.write(0x60, 1, dice.randrange(0x100))
        elif choice < 0.9:
            rig.command(0x60, dice.randrange(0x100))
        else:
            rig.read()
    rig.command(0x60, 0x03)
    assert len(rig.drain().split()) <= 32
    rig.keyboard(0xFF)
    assert rig.keys("a") == "1c"

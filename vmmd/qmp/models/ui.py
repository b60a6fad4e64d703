# SPDX-License-Identifier: Apache-2.0
"""QAPI types of displays and of input."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged


class DisplayNone(TypedDict):
    """No window and no server (-display none)."""

    type: Literal["none"]


DisplayOptions = Annotated[DisplayNone, Tagged("type")]

QKeyCode = Literal[
    "unmapped", "shift", "shift_r", "alt", "alt_r", "ctrl", "ctrl_r", "menu", "esc", "1", "2", "3", "4", "5", "6",
    "7", "8", "9", "0", "minus", "equal", "backspace", "tab", "q", "w", "e", "r", "t", "y", "u", "i", "o", "p",
    "bracket_left", "bracket_right", "ret", "a", "s", "d", "f", "g", "h", "j", "k", "l", "semicolon",
    "apostrophe", "grave_accent", "backslash", "z", "x", "c", "v", "b", "n", "m", "comma", "dot", "slash",
    "asterisk", "spc", "caps_lock", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f10", "num_lock",
    "scroll_lock", "kp_divide", "kp_multiply", "kp_subtract", "kp_add", "kp_enter", "kp_decimal", "sysrq", "kp_0",
    "kp_1", "kp_2", "kp_3", "kp_4", "kp_5", "kp_6", "kp_7", "kp_8", "kp_9", "less", "f11", "f12", "print", "home",
    "pgup", "pgdn", "end", "left", "up", "down", "right", "insert", "delete", "stop", "again", "props", "undo",
    "front", "copy", "open", "paste", "find", "cut", "lf", "help", "meta_l", "meta_r", "compose", "pause", "ro",
    "hiragana", "henkan", "yen", "muhenkan", "katakanahiragana", "kp_comma", "kp_equals", "power", "sleep",
    "wake", "audionext", "audioprev", "audiostop", "audioplay", "audiomute", "volumeup", "volumedown",
    "mediaselect", "mail", "calculator", "computer", "ac_home", "ac_back", "ac_forward", "ac_refresh",
    "ac_bookmarks", "lang1", "lang2",
]  # fmt: skip
InputButton = Literal["left", "middle", "right", "wheel-up", "wheel-down", "side", "extra", "wheel-left", "wheel-right"]
InputAxis = Literal["x", "y"]


class KeyNumber(TypedDict):
    """A key by its number: its code in set 1, with 128 added when that has the prefix E0h."""

    type: Literal["number"]
    data: int


class KeyQcode(TypedDict):
    """A key by its name."""

    type: Literal["qcode"]
    data: QKeyCode


KeyValue = Annotated[KeyNumber | KeyQcode, Tagged("type")]


class InputKeyEvent(TypedDict):
    """A key goes down or up."""

    key: KeyValue
    down: bool


class InputBtnEvent(TypedDict):
    """A button goes down or up."""

    button: InputButton
    down: bool


class InputMoveEvent(TypedDict):
    """A movement along an axis, or a place on it."""

    axis: InputAxis
    value: int


class InputKey(TypedDict):
    """An event of a keyboard."""

    type: Literal["key"]
    data: InputKeyEvent


class InputBtn(TypedDict):
    """An event of a button or wheel."""

    type: Literal["btn"]
    data: InputBtnEvent


class InputRel(TypedDict):
    """A movement by so much."""

    type: Literal["rel"]
    data: InputMoveEvent


class InputAbs(TypedDict):
    """A movement to a place, 0 to 32767."""

    type: Literal["abs"]
    data: InputMoveEvent


InputEvent = Annotated[InputKey | InputBtn | InputRel | InputAbs, Tagged("type")]


class MouseInfo(TypedDict):
    """A pointing device of the guest."""

    name: str
    index: int
    current: bool
    absolute: bool

# SPDX-License-Identifier: Apache-2.0
"""Keys by name, and what a PS/2 keyboard sends for them.

Names are QAPI's ``QKeyCode``. Scan codes: sets 1 and 2 after Microsoft's "Keyboard Scan Code Specification" 1.3a (with
the ACPI and multimedia keys), set 3 after the IBM PS/2 Hardware Interface Technical Reference; LANG1 and LANG2 of
Korean keyboards send F2h and F1h in set 2. Keys that no PS/2 keyboard has in a set (those of Sun keyboards in set 2)
have no code there. Pure data; any thread.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

PREFIX = 0xE0  # high byte of an extended code
#: in the number of a key: its code has the prefix
NUMBER_EXTENDED = 0x80

#: name, and its codes in the sets 1, 2 and 3; "-" for none. Pause is a sequence of its own in sets 1 and 2 ("e1")
_TABLE = """
unmapped - - - | shift 2a 12 12 | shift_r 36 59 59 | alt 38 11 19 | alt_r e038 e011 39 | ctrl 1d 14 11
ctrl_r e01d e014 58 | menu e01e - 91 | esc 01 76 08 | 1 02 16 16 | 2 03 1e 1e | 3 04 26 26 | 4 05 25 25
5 06 2e 2e | 6 07 36 36 | 7 08 3d 3d | 8 09 3e 3e | 9 0a 46 46 | 0 0b 45 45 | minus 0c 4e 4e | equal 0d 55 55
backspace 0e 66 66 | tab 0f 0d 0d | q 10 15 15 | w 11 1d 1d | e 12 24 24 | r 13 2d 2d | t 14 2c 2c | y 15 35 35
u 16 3c 3c | i 17 43 43 | o 18 44 44 | p 19 4d 4d | bracket_left 1a 54 54 | bracket_right 1b 5b 5b
ret 1c 5a 5a | a 1e 1c 1c | s 1f 1b 1b | d 20 23 23 | f 21 2b 2b | g 22 34 34 | h 23 33 33 | j 24 3b 3b
k 25 42 42 | l 26 4b 4b | semicolon 27 4c 4c | apostrophe 28 52 52 | grave_accent 29 0e 0e | backslash 2b 5d 5c
z 2c 1a 1a | x 2d 22 22 | c 2e 21 21 | v 2f 2a 2a | b 30 32 32 | n 31 31 31 | m 32 3a 3a | comma 33 41 41
dot 34 49 49 | slash 35 4a 4a | asterisk 37 7c 7e | spc 39 29 29 | caps_lock 3a 58 14 | f1 3b 05 07
f2 3c 06 0f | f3 3d 04 17 | f4 3e 0c 1f | f5 3f 03 27 | f6 40 0b 2f | f7 41 83 37 | f8 42 0a 3f | f9 43 01 47
f10 44 09 4f | num_lock 45 77 76 | scroll_lock 46 7e 5f | kp_divide e035 e04a 4a | kp_multiply 37 7c 7e
kp_subtract 4a 7b 4e | kp_add 4e 79 7c | kp_enter e01c e05a 79 | kp_decimal 53 71 71 | sysrq e037 e07c 57
kp_0 52 70 70 | kp_1 4f 69 69 | kp_2 50 72 72 | kp_3 51 7a 7a | kp_4 4b 6b 6b | kp_5 4c 73 73 | kp_6 4d 74 74
kp_7 47 6c 6c | kp_8 48 75 75 | kp_9 49 7d 7d | less 56 61 13 | f11 57 78 56 | f12 58 07 5e | print e037 e07c 57
home e047 e06c 6e | pgup e049 e07d 6f | pgdn e051 e07a 6d | end e04f e069 65 | left e04b e06b 61
up e048 e075 63 | down e050 e072 60 | right e04d e074 6a | insert e052 e070 67 | delete e053 e071 64
stop e068 e028 0a | again e005 - 0b | props e006 - 0c | undo e007 - 10 | front e00c - - | copy e078 - 18
open 64 - 20 | paste 65 - 28 | find e041 - 30 | cut e03c - 38 | lf 5b - - | help e075 - 09 | meta_l e05b e01f 8b
meta_r e05c e027 8c | compose e05d e02f 8d | pause e1 e1 62 | ro 73 51 - | hiragana 77 62 87 | henkan 79 64 86
yen 7d 6a 5d | muhenkan 7b 67 85 | katakanahiragana 70 13 87 | kp_comma 7e 6d - | kp_equals 59 0f -
power e05e e037 - | sleep e05f e03f - | wake e063 e05e - | audionext e019 e04d 93 | audioprev e010 e015 94
audiostop e024 e03b 98 | audioplay e022 e034 - | audiomute e020 e023 9c | volumeup e030 e032 95
volumedown e02e e021 9d | mediaselect e06d e050 - | mail e06c e048 - | calculator e021 e02b a3
computer e06b e040 - | ac_home e032 e03a 97 | ac_back e06a e038 - | ac_forward e069 e030 -
ac_refresh e067 e020 - | ac_bookmarks e066 e018 - | lang1 72 f2 - | lang2 71 f1 -
"""

#: numbers of keys that are not their code in set 1
_SPECIAL_NUMBERS = {0x54: "sysrq", 0xB7: "print", 0xC6: "pause"}


class ScanCodes(NamedTuple):
    """The make codes of a key in the sets 1 to 3; E0xxh with the prefix, 0 for none."""

    set1: int
    set2: int
    set3: int


def _code(text: str) -> int:
    return 0 if text == "-" else int(text, 16)


@cache
def scan_codes() -> dict[str, ScanCodes]:
    """All keys, in QAPI's order."""
    found: dict[str, ScanCodes] = {}
    for cell in _TABLE.replace("\n", "|").split("|"):
        if cell.strip():
            name, *codes = cell.split()
            found[name] = ScanCodes(*map(_code, codes))
    return found


@cache
def _numbers() -> dict[int, str]:
    found: dict[int, str] = {}
    for name, codes in scan_codes().items():
        code = codes.set1
        if code and code != PAUSE_CODE:
            found[code & 0xFF | (NUMBER_EXTENDED if code >> 8 else 0)] = name
    return found | _SPECIAL_NUMBERS


#: what the table has for the key that sends a sequence
PAUSE_CODE = 0xE1


def key_of_number(number: int) -> str | None:
    """The key of a number as ``sendkey`` and QMP take them: the code in set 1, with 80h added for the prefix."""
    return _numbers().get(number)

# SPDX-License-Identifier: Apache-2.0
"""How values look: items of memory dumps, and what ``print`` shows."""

from __future__ import annotations

from vmmd.qmp.hmp.arguments import signed

_CHARACTERS = {0x0A: "\\n", 0x0D: "\\r", 0x27: "\\'", 0x5C: "\\\\"}
#: columns of an unsigned number by its size in bytes
_DECIMAL_WIDTH = {1: 3, 2: 5, 4: 10, 8: 20}


def character(value: int) -> str:
    """A value as a quoted character."""
    if value in _CHARACTERS:
        return f"'{_CHARACTERS[value]}'"
    return f"'{chr(value)}'" if 0x20 <= value < 0x7F else f"'\\x{value:02x}'"


def cell(value: int, letter: str, size: int) -> str:
    """One item of a memory dump, as wide as every item of its kind."""
    if letter == "x":
        return f"0x{value:0{2 * size}x}"
    if letter == "o":
        return f"{_octal(value):>{(8 * size + 2) // 3}}"
    if letter == "c":
        return character(value)
    if letter == "d" and size == 8:
        value = signed(value)
    return f"{value:>{_DECIMAL_WIDTH[size]}}"


def single(value: int, letter: str) -> str:
    """A value as ``print`` shows it."""
    if letter == "x":
        return f"0x{value:x}" if value else "0"
    if letter == "o":
        return _octal(value)
    if letter == "c":
        return character(value)
    return str(value if letter == "u" else signed(value))


def _octal(value: int) -> str:
    return f"0{value:o}" if value else "0"

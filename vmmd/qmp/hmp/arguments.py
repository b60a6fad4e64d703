# SPDX-License-Identifier: Apache-2.0
"""Arguments of the monitor for people: flags, ``/4xw`` formats, and expressions with registers.

    sum     = logic (("+" | "-") logic)*        logic = product (("&" | "|" | "^") product)*
    product = unary (("*" | "/" | "%") unary)*  unary = ("+" | "-" | "~") unary | "(" sum ")" | number | 'c' | $register

Values are 64 bits wide. Precedence, spellings and error sentences are those of QEMU 7.2, by black-box comparison.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import VmmdError
from vmmd.units import U64_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

#: of parentheses and signs
MAX_DEPTH = 64
#: numbers, registers and signs of one expression
MAX_TERMS = 256

_number = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*").match
_register = re.compile(r"[A-Za-z0-9_.]*").match
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8, "L": 8}
_FORMATS = "xduoci"
_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"', "": ""}


class ArgumentError(VmmdError):
    """A mistake in the arguments; the monitor adds «Try "help …"»."""


class Format(NamedTuple):
    """``/COUNT FORMAT SIZE``."""

    items: int = 1
    letter: str = "x"
    size: int = 4


class Arguments:
    """Reads the arguments of one command from left to right."""

    def __init__(self, text: str, command: str, registers: Callable[[], dict[str, int]]) -> None:
        self._text = text
        self._pos = 0
        self._command = command
        self._registers = registers
        self._terms = 0

    def _skip(self) -> str:
        """The next character that is not blank, "" at the end."""
        text = self._text
        while self._pos < len(text) and text[self._pos].isspace():
            self._pos += 1
        return text[self._pos : self._pos + 1]

    @property
    def at_end(self) -> bool:
        return not self._skip()

    def done(self) -> None:
        """Nothing may follow."""
        if not self.at_end:
            raise ArgumentError(f"{self._command}: extraneous characters at the end of line")

    def string(self, what: str = "string") -> str:
        """The next word, which must be there (it may be "" in quotes). ``what`` it is, errors say."""
        if self.at_end:
            raise ArgumentError(f"{self._command}: {what} expected")
        return self.word()

    def on_off(self) -> bool:
        word = self.word()
        if word not in ("on", "off"):
            raise ArgumentError("Expected 'on' or 'off'")
        return word == "on"

    def rest(self) -> str:
        """Everything that is left, without the blanks around it; something must be."""
        if self.at_end:
            raise ArgumentError(f"{self._command}: string expected")
        text, self._pos = self._text[self._pos :].rstrip(), len(self._text)
        return text

    def sign(self, sign: str) -> bool:
        """Whether the character ``sign`` comes next; it is taken then."""
        found = self._skip() == sign
        self._pos += found
        return found

    def word(self) -> str:
        """The next word, "" at the end. It ends at a blank, or is in double quotes with escapes like \\n."""
        if self._skip() == '"':
            return self._quoted()
        start = self._pos
        while self._pos < len(self._text) and not self._text[self._pos].isspace():
            self._pos += 1
        return self._text[start : self._pos]

    def _quoted(self) -> str:
        characters = []
        self._pos += 1
        while (character := self._text[self._pos : self._pos + 1]) != '"':
            if character == "\\":
                self._pos += 1
                code = self._text[self._pos : self._pos + 1]
                if code not in _ESCAPES:
                    raise ArgumentError(f"unsupported escape code: '\\{code}'")
                character = _ESCAPES[code]
            if not character:
                raise ArgumentError("unterminated string")
            characters.append(character)
            self._pos += 1
        self._pos += 1
        return "".join(characters)

    def flags(self, accepted: str) -> set[str]:
        """Leading ``-x`` options."""
        found: set[str] = set()
        while self._skip() == "-":
            letter = self._text[self._pos + 1 : self._pos + 2]
            if not letter or letter not in accepted:
                raise ArgumentError(f"{self._command}: unsupported option -{letter}")
            self._pos += 2
            found.add(letter)
        return found

    def format(self, default: Format) -> Format:
        """A leading ``/4xw``."""
        if self._skip() != "/":
            return default
        self._pos += 1
        text = self._text
        start = self._pos
        while text[self._pos : self._pos + 1].isdecimal() and text[self._pos].isascii():
            self._pos += 1
        count = int(text[start : self._pos][:12]) if self._pos > start else 1
        letter, size = default.letter, default.size
        while self._pos < len(text) and not text[self._pos].isspace():
            character = text[self._pos]
            if character in _FORMATS:
                letter = character
            elif character in _SIZES:
                size = _SIZES[character]
            else:
                raise ArgumentError(f"invalid char in format: '{character}'")
            self._pos += 1
        return Format(count, letter, size)

    def expression(self) -> int:
        """An expression, as an unsigned 64-bit number."""
        self._terms = 0
        return self._sum(0) & U64_MAX

    def integer(self) -> int:
        """An expression that is a number of 32 bits, not negative."""
        value = self.expression()
        if value >> 32:
            # QEMU-COMPAT: the sentence
            raise ArgumentError(f"'{self._command}' has failed: integer is for 32-bit values")
        return value

    def _sum(self, depth: int) -> int:
        value = self._logic(depth)
        while (operator := self._skip()) in ("+", "-") and operator:
            self._pos += 1
            other = self._logic(depth)
            value = value + other if operator == "+" else value - other
        return signed(value)

    def _logic(self, depth: int) -> int:
        value = self._product(depth)
        while (operator := self._skip()) in ("&", "|", "^") and operator:
            self._pos += 1
            other = self._product(depth)
            value = value & other if operator == "&" else value | other if operator == "|" else value ^ other
        return value

    def _product(self, depth: int) -> int:
        value = self._unary(depth)
        while (operator := self._skip()) in ("*", "/", "%") and operator:
            self._pos += 1
            other = self._unary(depth)
            if operator == "*":
                value = signed(value * other)
                continue
            if other == 0:
                raise ArgumentError("division by zero")
            quotient = abs(value) // abs(other) * (1 if (value < 0) == (other < 0) else -1)
            value = signed(quotient if operator == "/" else value - quotient * other)
        return value

    def _unary(self, depth: int) -> int:
        first = self._skip()
        if depth > MAX_DEPTH:
            raise ArgumentError("the expression is nested too deeply")
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise ArgumentError(f"the expression has more than {MAX_TERMS} terms")
        if not first:
            raise ArgumentError("unexpected end of expression")
        if first in "+-~":
            self._pos += 1
            value = self._unary(depth + 1)
            return signed(value if first == "+" else -value if first == "-" else ~value)
        if first == "(":
            self._pos += 1
            value = self._sum(depth + 1)
            if self._skip() != ")":
                raise ArgumentError("')' expected")
            self._pos += 1
            return value
        if first == "'":
            return self._character()
        if first == "$":
            return self._register_value()
        return self._number()

    def _number(self) -> int:
        found = _number(self._text, self._pos)
        if found is None:
            raise ArgumentError(f"invalid char '{self._text[self._pos]}' in expression")
        self._pos = found.end()
        digits = found.group()[:40]
        octal = digits[0] == "0" and digits[1:2] not in ("x", "X")
        value = int(digits, 8 if octal else 0)
        if value > U64_MAX:
            raise ArgumentError("number too large")
        return signed(value)

    def _character(self) -> int:
        character = self._text[self._pos + 1 : self._pos + 2]
        if not character:
            raise ArgumentError("character constant expected")
        if self._text[self._pos + 2 : self._pos + 3] != "'":
            raise ArgumentError("missing terminating ' character")
        self._pos += 3
        return ord(character)

    def _register_value(self) -> int:
        found = _register(self._text, self._pos + 1)
        name = found.group() if found is not None else ""
        value = self._registers().get(name)
        if value is None:
            raise ArgumentError("unknown register")
        self._pos += 1 + len(name)
        return signed(value)


def signed(value: int) -> int:
    value &= U64_MAX
    return value - (1 << 64) if value >> 63 else value

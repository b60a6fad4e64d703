# SPDX-License-Identifier: Apache-2.0
"""The exact JSON parser of the QMP wire: slower than orjson, but with QEMU's grammar, limits and error sentences.

Used for messages that ``wire.decode_simple`` does not vouch for. Iterative, so that nesting costs no interpreter stack.
"""

from __future__ import annotations

import re

from vmmd.qmp.wire import MAX_NESTING, ParseFault, stray, syntax_fault

_token = re.compile(
    rb"[ \t\r\n]*+(?:([{}\[\],:])"
    rb'|("(?:[^"\\\x00-\x1f\xff]++|\\[^\x00-\x1f\xff])*+")'
    rb"|('(?:[^'\\\x00-\x1f\xff]++|\\[^\x00-\x1f\xff])*+')"
    rb"|(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+)(?![0-9.eE])"
    rb"|([a-z]++)"
    rb"|(.)|$)",
    re.DOTALL,
).match
_PUNCTUATION, _DOUBLE_QUOTED, _SINGLE_QUOTED, _NUMBER, _WORD, _STRAY = range(1, 7)

_WORDS: dict[bytes, object] = {b"true": True, b"false": False, b"null": None}
_ESCAPES = {'"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_escape = re.compile(r"\\(?:u([0-9a-fA-F]{4})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?|(.))", re.DOTALL)
#: U+FDD0..U+FDEF and the last two of every plane are no characters
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef" + "".join(chr((p << 16) | n) for p in range(17) for n in (0xFFFE, 0xFFFF)) + "]"
)
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1

_Container = dict[str, object] | list[object]


def read_json(text: bytes) -> object:
    """The value of a whole JSON text. Raises ParseFault."""
    return _Reader(text).read()


class _Reader:
    __slots__ = ("_pos", "_text")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._pos = 0

    def read(self) -> object:
        value = self._value_or_container(*self._next())
        if isinstance(value, dict | list):
            self._fill(value)
        if self._next()[0]:
            raise syntax_fault("expecting value")
        return value

    def _next(self) -> tuple[int, bytes]:
        """Kind and bytes of the next token; kind 0 at the end."""
        found = _token(self._text, self._pos)
        if found is None or found.lastindex is None:
            return 0, b""
        self._pos = found.end()
        if found.lastindex == _STRAY:
            raise stray(found.group(_STRAY))
        return found.lastindex, found.group(found.lastindex)

    def _value_or_container(self, kind: int, token: bytes) -> object:
        """A scalar, or an empty container that is to be filled."""
        if kind == _NUMBER:
            return _number(token)
        if kind in (_DOUBLE_QUOTED, _SINGLE_QUOTED):
            return _string(token)
        if kind == _WORD:
            if token not in _WORDS:
                raise syntax_fault(f"invalid keyword '{token.decode()}'")
            return _WORDS[token]
        if token == b"{":
            return {}
        if token == b"[":
            return []
        raise syntax_fault("expecting value")

    def _fill(self, root: _Container) -> None:
        stack: list[_Container] = []
        current = root
        first = True
        while True:
            kind, token = self._next()
            is_dict = isinstance(current, dict)
            if token == (b"}" if is_dict else b"]") and kind == _PUNCTUATION:
                if not stack:
                    return
                current = stack.pop()
                first = False
                continue
            if not first:
                if token != b"," or kind != _PUNCTUATION:
                    raise syntax_fault("expected separator in " + ("dict" if is_dict else "list"))
                kind, token = self._next()
            opened = (
                self._member(current, kind, token) if isinstance(current, dict) else self._item(current, kind, token)
            )
            first = False
            if opened is not None:
                stack.append(current)
                if len(stack) >= MAX_NESTING:
                    raise ParseFault("JSON nesting depth limit exceeded")
                current = opened
                first = True

    def _item(self, target: list[object], kind: int, token: bytes) -> _Container | None:
        value = self._value_or_container(kind, token)
        target.append(value)
        return value if isinstance(value, dict | list) else None

    def _member(self, target: dict[str, object], kind: int, token: bytes) -> _Container | None:
        if kind not in (_DOUBLE_QUOTED, _SINGLE_QUOTED):
            self._value_or_container(kind, token)
            raise syntax_fault("key is not a string in object")
        key = _string(token)
        kind, token = self._next()
        if token != b":" or kind != _PUNCTUATION:
            raise syntax_fault("missing : in object pair")
        value = self._value_or_container(*self._next())
        if key in target:
            raise syntax_fault("duplicate key")
        target[key] = value
        return value if isinstance(value, dict | list) else None


def _number(token: bytes) -> int | float:
    if b"." not in token and b"e" not in token and b"E" not in token and len(token) <= 20:
        value = int(token)
        if _INT_MIN <= value <= _INT_MAX:
            return value
    number = float(token)
    if number in (float("inf"), float("-inf")):
        # QEMU accepts it and answers «inf», which is no JSON
        raise syntax_fault(f"number '{token[:40].decode()}' is too large")
    return number


def _string(token: bytes) -> str:
    try:
        text = token[1:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise syntax_fault("invalid UTF-8 sequence in string") from None
    if not text.isascii() and _NONCHARACTER.search(text):
        raise syntax_fault("invalid UTF-8 sequence in string")
    if "\\" not in text:
        return text
    quoted = text + chr(token[-1])  # an error may quote the end of the string, too
    return _escape.sub(lambda found: _unescape(found, quoted), text)


def _unescape(found: re.Match[str], text: str) -> str:
    first, second, other = found.groups()
    if first is None:
        if other == "u":
            raise _no_character(text, found.start())
        if other not in _ESCAPES:
            raise syntax_fault("invalid escape sequence in string")
        return _ESCAPES[other]
    code = int(first, 16)
    if second is not None:
        if not 0xD800 <= code < 0xDC00:
            raise _no_character(text, found.start() + (6 if code < 0xD800 or code > 0xDFFF else 0))
        code = 0x10000 + ((code - 0xD800) << 10) + (int(second, 16) - 0xDC00)
    character = chr(code)
    if 0xD800 <= code <= 0xDFFF or (code > 0x7F and _NONCHARACTER.match(character)):
        raise _no_character(text, found.start())
    return character


def _no_character(text: str, start: int) -> ParseFault:
    return syntax_fault(f"{text[start : start + 6]} is not a valid Unicode character")

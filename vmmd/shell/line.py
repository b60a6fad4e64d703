# SPDX-License-Identifier: Apache-2.0
"""A command line cut into tokens: a command, ``name=value`` pairs and JSON objects, each with its place in the line.

A value is bare (up to white space), quoted by ' or ", or JSON when it starts with { or [. A token that the line
does not finish is ``open``: the parser refuses it, completion works on it. Pure.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

Form = Literal["bare", "quoted", "json"]
_DECODER = json.JSONDecoder()


class LineError(ValueError):
    """A line that is not understood: what is wrong, from where to where, and what to do instead."""

    def __init__(self, message: str, start: int, end: int, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.start = start
        self.end = max(end, start + 1)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


@contextmanager
def places_in(line: str, end: str) -> Iterator[None]:
    """Mistakes found in ``end``, with which the line ends, get their places in the line."""
    try:
        yield
    except LineError as error:
        by = len(line) - len(end)
        raise LineError(error.message, error.start + by, error.end + by, error.hint) from None


class Token(NamedTuple):
    """One part of the line, from ``start`` to ``end``.

    ``key`` is None for a word or a JSON object of its own. ``value`` is the text, or what the JSON says. ``open`` is
    the reason why the token is not complete, at ``end``.
    """

    start: int
    end: int
    key: str | None
    value_start: int
    value: Any
    form: Form
    open: str = ""


def tokens(line: str) -> list[Token]:
    """The tokens of the line; only the last can be open."""
    found: list[Token] = []
    at = _skip(line, 0)
    while at < len(line):
        token = _token(line, at)
        found.append(token)
        if token.open:
            break
        at = _skip(line, token.end)
    return found


def _skip(line: str, at: int) -> int:
    while at < len(line) and line[at].isspace():
        at += 1
    return at


def _token(line: str, start: int) -> Token:
    if line[start] in "{[\"'":
        return _value(line, start, None, start)
    at = start
    while at < len(line) and not line[at].isspace() and line[at] != "=":
        at += 1
    if at == len(line) or line[at] != "=":
        return Token(start, at, None, start, line[start:at], "bare")
    return _value(line, start, line[start:at], at + 1)


def _value(line: str, start: int, key: str | None, at: int) -> Token:
    first = line[at : at + 1]
    if first in ("{", "["):
        return _json(line, start, key, at)
    if first == '"':
        return _json(line, start, key, at)._replace(form="quoted")
    if first == "'":
        return _single_quoted(line, start, key, at)
    end = at
    while end < len(line) and not line[end].isspace():
        end += 1
    return Token(start, end, key, at, line[at:end], "bare")


def _json(line: str, start: int, key: str | None, at: int) -> Token:
    try:
        value, end = _DECODER.raw_decode(line, at)
    except json.JSONDecodeError as error:
        place, fault = _json_fault(line, at, error)
        return Token(start, place, key, at, line[at:], "json", fault)
    except RecursionError:
        return Token(start, len(line), key, at, line[at:], "json", "JSON is nested too deep")
    return _closed(line, Token(start, end, key, at, value, "json"))


def _json_fault(line: str, at: int, error: json.JSONDecodeError) -> tuple[int, str]:
    """Where JSON that begins at ``at`` is wrong, and why."""
    if error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated"):
        return len(line), 'the closing " is missing' if line[at] == '"' else "the JSON is not complete"
    if error.msg.startswith("Invalid"):  # within a string
        return error.pos, r"this is no string of JSON; a control character is written \u0001, a \ as \\"
    return error.pos, "this is not JSON; strings and names of members have double quotes"


def _single_quoted(line: str, start: int, key: str | None, at: int) -> Token:
    text, end = "", at + 1
    while end < len(line) and line[end] != "'":
        end += line[end] == "\\" and line[end + 1 : end + 2] in ("'", "\\")
        text += line[end]
        end += 1
    if end >= len(line):
        return Token(start, len(line), key, at, text, "quoted", "the closing ' is missing")
    return _closed(line, Token(start, end + 1, key, at, text, "quoted"))


def _closed(line: str, token: Token) -> Token:
    """A quoted or JSON value must be followed by white space."""
    if token.end < len(line) and not line[token.end].isspace():
        return token._replace(open="white space is missing between two arguments")
    return token


def quote(text: str) -> str:
    """The text as a value that is read back as the same string."""
    plain = text != "" and text[0] not in "{[\"'" and not any(c.isspace() or not c.isprintable() for c in text)
    return text if plain else json.dumps(text, ensure_ascii=False)

# SPDX-License-Identifier: Apache-2.0
"""Single values of a line as JSON values: by the schema's type, or by a guess. Pure."""

from __future__ import annotations

import json
from typing import Any

from vmmd.units import TooLarge, parse_size

INT_MIN = -(1 << 63)
INT_MAX = (1 << 64) - 1
_RANGE = f"is from {INT_MIN} to {INT_MAX}"
_WHOLE = "is a whole number such as 5, 0x10 or 64M"
TRUE_TEXTS = ("true", "on", "yes")
FALSE_TEXTS = ("false", "off", "no")


def scalar(value: Any, kind: str, is_text: bool, quoted: bool) -> Any:
    """The value as JSON type ``kind``: string, int, number, boolean, null, value or int-or-string.

    ``is_text`` tells that the value was typed as text, not as JSON. Raises ValueError whose text follows the name.
    """
    if kind == "string":
        return _string(value)
    if kind == "value":
        return guess(value) if is_text and not quoted else value
    if kind == "int-or-string":
        return _int_or_string(value, quoted)
    if quoted and isinstance(value, str):
        raise ValueError(f"is {_ARTICLES.get(kind, kind)}, so it has no quotes")
    if isinstance(value, str):
        return _READERS[kind](value) if kind in _READERS else value
    if not _is(value, kind):
        raise ValueError(f"is {_ARTICLES.get(kind, kind)}")
    return _in_range(value) if kind == "int" else value


_ARTICLES = {"int": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is a string, so this needs quotes")
    return value


def _int_or_string(value: Any, quoted: bool) -> Any:
    """A property with a number may also take a text: ``addr=06.0``, ``size=1G`` of a type that reads sizes."""
    if not isinstance(value, str) or quoted:
        return value
    try:
        return _integer(value)
    except ValueError:
        return value


def _is(value: Any, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits[-1:].isdigit() and "." in digits:  # half a byte
        raise ValueError(_WHOLE)
    try:
        value = sign * parse_size(digits)
    except TooLarge:
        raise ValueError(_RANGE) from None
    except ValueError:
        raise ValueError(_WHOLE) from None
    return _in_range(value)


def _in_range(value: int) -> int:
    if not INT_MIN <= value <= INT_MAX:
        raise ValueError(_RANGE)
    return value


def _number(text: str) -> int | float:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not _is(value, "number") or value != value or value in (float("inf"), float("-inf")):  # NaN differs from itself
        raise ValueError("is a number such as 1.5")
    return value  # type: ignore[no-any-return]


def _boolean(text: str) -> bool:
    if text in TRUE_TEXTS:
        return True
    if text in FALSE_TEXTS:
        return False
    raise ValueError("is true or false")


def _null(text: str) -> None:
    if text != "null":
        raise ValueError("is null")


_READERS = {"int": _integer, "number": _number, "boolean": _boolean, "null": _null}


def guess(text: str) -> Any:
    """A value whose type is not known: JSON when it is JSON, else the text itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, float) and not _finite(value) else value


def _finite(value: float) -> bool:
    return value == value and value not in (float("inf"), float("-inf"))

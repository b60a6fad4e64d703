# SPDX-License-Identifier: Apache-2.0
"""The text of one option argument, taken apart: ``value,key=a,,b,flag`` → items. No meaning is given to keys here.

Two dialects exist on the command line, and options differ in which one they speak:

* *flags*: a key without ``=`` is a switch: ``server`` means ``server=on`` and ``nowait`` means ``wait=off``;
* *strict*: every key needs its ``=`` (``-blockdev``, ``-object``, ``-audiodev``).

In both a doubled comma inside a value stands for one comma, and the first word may leave out its key when the option
has an implied one. ``-device``, ``-netdev``, ``-object``, ``-blockdev`` and ``-audiodev`` also take a JSON object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.errors import UsageError
from vmmd.options.fields import shown

if TYPE_CHECKING:
    from vmmd.options.fields import Items

KEY_CHARS_MAX = 127


def split(text: str, implied: str | None = None, *, strict: bool = False, where: str = "") -> Items:
    """Keys and texts in order. ``where`` starts the error sentence. Raises UsageError."""
    items: Items = []
    position = 0
    while position < len(text):
        word_end = _next_of(text, position, "=,")
        if word_end < len(text) and text[word_end] == "=":
            key = text[position:word_end]
            value, position = _value(text, word_end + 1)
        elif not items and implied is not None:
            key = implied
            value, position = _value(text, position)
        else:
            key, value = _flag(text[position:word_end], strict, where)
            position = word_end + 1
        if not key or len(key) > KEY_CHARS_MAX:
            raise UsageError(f"{where}: Invalid parameter '{shown(key)}'", "a key has a name")
        items.append((key, value))
    return items


def _next_of(text: str, start: int, stops: str) -> int:
    for position in range(start, len(text)):
        if text[position] in stops:
            return position
    return len(text)


def _value(text: str, start: int) -> tuple[str, int]:
    """The value that starts at ``start`` and where the next item starts."""
    end = text.find(",", start)
    if end < 0:
        return text[start:], len(text)
    if text[end + 1 : end + 2] != ",":  # the usual case
        return text[start:end], end + 1
    parts = []
    while end >= 0 and text[end + 1 : end + 2] == ",":
        parts.append(text[start : end + 1])
        start = end + 2
        end = text.find(",", start)
    if end < 0:
        end = len(text)
    parts.append(text[start:end])
    return "".join(parts), end + 1


def _flag(word: str, strict: bool, where: str) -> tuple[str, str]:
    if strict:
        # QEMU-COMPAT: the phrase
        raise UsageError(f"{where}: Expected '=' after parameter '{shown(word)}'")
    if word.startswith("no") and len(word) > 2:
        return word[2:], "off"
    return word, "on"


def join(items: Items) -> str:
    """The text that ``split`` takes apart into the same items."""
    return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in items)


def wants_help(text: str) -> bool:
    """``help`` and ``?`` ask for a list of what an option takes."""
    return text in ("help", "?")


def is_json(text: str) -> bool:
    """A JSON object instead of keys and values."""
    return text.startswith("{")


def load_json(text: str, where: str) -> dict[str, Any]:
    """The JSON object of an option. Raises UsageError: syntax, a key given twice, or no object."""
    import json

    try:
        loaded = json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_no_constant)
    except RecursionError:
        raise UsageError(f"{where}: JSON parse error, nested too deeply") from None
    except json.JSONDecodeError as error:
        rest = text[error.pos :]
        what = f" at character {error.pos + 1}, '{shown(rest)}'" if rest.strip() else ", it ends too early"
        raise UsageError(f"{where}: JSON parse error{what}") from None
    except ValueError as error:
        raise UsageError(f"{where}: JSON parse error, {error}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f'{where}: JSON parse error, an object like {{"key": "value"}} is expected')
    return loaded


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"duplicate key '{twice}'")
    return made


def _no_constant(word: str) -> Any:
    raise ValueError(f"invalid keyword '{word}'")

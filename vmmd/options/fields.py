# SPDX-License-Identifier: Apache-2.0
"""Base of every option model, and the kinds of values that only the command line knows.

An ``OptionSet`` is a ``PropSet`` (one declared, typed key per attribute) whose errors name option, key, value and what
is accepted:  ``-smp cpus=x: 'cpus' takes a number from 1 to 2147483647``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmmd.core.props import SIZE, PropSet, PropType, int_type
from vmmd.errors import UsageError, nearest
from vmmd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

#: what ``OptionSet.later`` says of a key: no value of it is there, or only the one that asks for nothing
NOTHING: tuple[object, ...] = ()
ONLY_OFF: tuple[object, ...] = (False, "off")

#: What a user gave, in order: key and text (or, from a JSON form, a JSON value).
Items = list[tuple[str, Any]]

_SHOWN_CHARS = 80  # a value longer than this is cut in error sentences


def shown(value: object) -> str:
    """A user's value as error sentences show it: one line, control characters escaped, cut when very long."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = value if isinstance(value, str) else _json_text(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _json_text(value: object) -> str:
    import json

    return json.dumps(value)


def listed(names: Iterable[str], *, limit: int = 24) -> str:
    """Names for an error sentence; cut when there are very many."""
    every = sorted(names)
    return ", ".join(every[:limit]) + (", …" if len(every) > limit else "")


def unknown_name(prefix: str, name: str, known: Iterable[str], what: str) -> UsageError:
    """``prefix: 'name' is not a …`` with the nearest valid name, or else all of them."""
    candidates = list(known)
    near = nearest(name, candidates)
    every = "known are: " + listed(candidates) if candidates else "there is none"
    return UsageError(f"{prefix}: {what}", f"did you mean '{near}'?" if near else every)


def at(where: str, key: str, value: object) -> str:
    """``-smp cpus=x`` or, when ``where`` already has an argument, ``-device x,key=value``."""
    return f"{where}{',' if ' ' in where else ' '}{shown(key)}={shown(value)}"


class OptionSet(PropSet):
    """The keys of one option, typed. Subclasses declare them with ``prop``."""

    #: other spellings of keys, as QEMU takes them
    aliases: ClassVar[dict[str, str]] = {}
    #: keys that may come several times; the value is a tuple
    repeatable: ClassVar[frozenset[str]] = frozenset()
    #: keys of QEMU that this version does not have, each with the values that ask for nothing (and are accepted)
    later: ClassVar[dict[str, tuple[object, ...]]] = {}

    @classmethod
    def from_items(cls, items: Items, where: str, *, is_json: bool = False) -> Self:
        """A filled and checked model. ``where`` starts every error sentence: ``-chardev socket``."""
        made = cls()
        made.take(items, where, is_json=is_json)
        made.check(where)
        return made

    def take(self, items: Items, where: str, *, is_json: bool = False) -> None:
        """Set the keys in order; a later one of the same name wins. ``is_json``: strings are no numbers or booleans.
        Raises UsageError."""
        for key, value in items:
            wire = self.aliases.get(key, key)
            declared = self.declared.get(wire)
            if declared is None:
                offered = [name for name in self.declared if self.later.get(name) != ()]
                raise unknown_name(at(where, key, value), key, offered, f"Invalid parameter '{shown(key)}'")
            parsed = _parsed(declared.kind, at(where, key, value), key, value, is_json)
            if wire in self.repeatable:
                parsed = (*self.values.get(declared.name, ()), *(parsed if isinstance(parsed, tuple) else (parsed,)))
            self.values[declared.name] = parsed
            self.given.add(wire)

    def check(self, where: str) -> None:
        """Check required keys, and what keys say together (subclasses). Raises UsageError."""
        for declared in self.declared.values():
            if declared.required and self.values.get(declared.name) is None:
                # QEMU-COMPAT: "Parameter 'x' is missing" is the phrase clients know
                sentence = f"{where}: Parameter '{declared.wire_name}' is missing"
                raise UsageError(sentence, f"{declared.wire_name} = {declared.doc}")

    def first_unavailable(self) -> str | None:
        """``key=value`` of the first key given that this version does not have."""
        for key, harmless in self.later.items():
            if key in self.given:
                value = self.values[self.declared[key].name]
                if value not in harmless:
                    return f"{key}={shown(value)}"
        return None

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{type(self).__name__}({inside})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.values == self.values

    __hash__ = None  # type: ignore[assignment]  # mutable


_JSON_WORDS = {bool: "boolean", int: "integer", list: "array", dict: "object"}


def _parsed(kind: PropType[Any], prefix: str, key: str, value: object, is_json: bool) -> Any:
    """``value`` as ``kind``. ``prefix`` starts the error sentence."""
    if is_json and isinstance(value, str) and kind.json_kinds and str not in kind.json_kinds:
        # QEMU-COMPAT: the phrase
        expected = _JSON_WORDS.get(kind.json_kinds[0], "value")
        raise UsageError(f"{prefix}: Invalid parameter type for '{key}', expected: {expected}")
    try:
        return kind.parse(value) if isinstance(value, str) else kind.from_json(value)
    except ValueError:
        if kind is SIZE:  # QEMU-COMPAT: the phrase
            raise UsageError(f"{prefix}: Parameter '{key}' expects size", f"it takes {kind.accepts}") from None
        raise UsageError(f"{prefix}: '{key}' takes {kind.accepts}") from None


def is_identifier(text: str) -> bool:
    """QEMU's rule for ids: a letter, then letters, digits, ``-``, ``.`` and ``_``."""
    return text[:1].isalpha() and text.isascii() and all(c.isalnum() or c in "-._" for c in text)


def _parse_identifier(text: str) -> str:
    if not is_identifier(text):
        raise ValueError(IDENTIFIER_ACCEPTS)
    return text


IDENTIFIER_FORM = "letters, digits, '-', '.', '_', starting with a letter"
IDENTIFIER_ACCEPTS = f"an identifier: {IDENTIFIER_FORM}"
IDENTIFIER: PropType[str] = PropType("str", IDENTIFIER_ACCEPTS, _parse_identifier, json_kinds=())


def _parse_uuid(text: str) -> str:
    hexadecimal = text.replace("-", "")
    shape = [len(part) for part in text.split("-")]
    if shape != [8, 4, 4, 4, 12] or not all(c in "0123456789abcdefABCDEF" for c in hexadecimal):
        raise ValueError(UUID_ACCEPTS)
    return text.lower()


UUID_ACCEPTS = "a UUID like 550e8400-e29b-41d4-a716-446655440000"
UUID: PropType[str] = PropType("str", UUID_ACCEPTS, _parse_uuid, json_kinds=())


def _parse_ranges(text: str) -> tuple[int, ...]:
    """``0-3`` or ``7``, and lists of these with ``:`` or ``,`` between."""
    numbers: list[int] = []
    for part in text.replace(":", ",").split(","):
        low, dash, high = part.partition("-")
        first = _decimal(low)
        last = _decimal(high) if dash else first
        if last < first:
            raise ValueError(RANGES_ACCEPTS)
        numbers.extend(range(first, last + 1))
    return tuple(numbers)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > _RANGE_MAX:
        raise ValueError(RANGES_ACCEPTS)
    return int(text)


_RANGE_MAX = 4095
RANGES_ACCEPTS = f"a number or a range like 0-3, up to {_RANGE_MAX}"
RANGES: PropType[tuple[int, ...]] = PropType(
    "int", RANGES_ACCEPTS, _parse_ranges, json_kinds=(int, list), from_json=lambda value: _ranges_from_json(value)
)


def _ranges_from_json(value: int | list[Any]) -> tuple[int, ...]:
    parts = value if isinstance(value, list) else [value]
    return tuple(number for part in parts for number in _parse_ranges(str(part)))


def _parse_mebibytes(text: str) -> int:
    return parse_size(text, "M")


#: a size whose plain number means MiB; the value is in bytes
SIZE_MIB: PropType[int] = PropType(
    "size", "a size such as 1024 (MiB), 64k, 512M or 2G", _parse_mebibytes, json_kinds=(int,), from_json=int
)
COUNT = int_type("int", 1, 0x7FFF_FFFF)
NUMBER = int_type("int", 0, 0x7FFF_FFFF)
FD = int_type("fd", 0, 0x7FFF_FFFF)
PORT_16 = int_type("port", 0, 65535)

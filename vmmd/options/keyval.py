# SPDX-License-Identifier: Apache-2.0
"""Arguments of options as items, whichever way they were written: text, dotted keys, or JSON.

``cache.direct=on`` and ``{"cache": {"direct": true}}`` say the same; here both become the flat key ``cache.direct``.
The values of the first are text, those of the second JSON values. ``Argument`` carries which it was, because JSON is
typed: ``"on"`` is no boolean there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.errors import UsageError
from vmmd.options import lexer
from vmmd.options.fields import IDENTIFIER_FORM, is_identifier, shown

if TYPE_CHECKING:
    from vmmd.options.fields import Items

NESTING_MAX = 16


class Argument(NamedTuple):
    """One option's argument taken apart. ``option`` has its dash."""

    option: str
    items: Items
    is_json: bool = False

    def take(self, key: str) -> Any:
        """Remove ``key`` and return its value (the last one given), or None."""
        found = None
        for position in range(len(self.items) - 1, -1, -1):
            if self.items[position][0] == key:
                value = self.items.pop(position)[1]
                found = value if found is None else found
        return found

    def peek(self, key: str) -> Any:
        """The value of ``key`` (the last one given), or None."""
        found = None
        for name, value in self.items:
            if name == key:
                found = value
        return found


def parse(option: str, text: str, implied: str | None = None, *, strict: bool = False, json: bool = False) -> Argument:
    """The argument of ``option``. ``json`` says that the option also takes a JSON object."""
    where = f"{option} {shown(text)}"
    if json and lexer.is_json(text):
        return Argument(option, flatten(lexer.load_json(text, where), where), is_json=True)
    argument = Argument(option, lexer.split(text, implied, strict=strict, where=where))
    check_id(argument)
    return argument


def check_id(argument: Argument) -> None:
    """An ``id`` must be an identifier, whatever the option."""
    value = argument.peek("id")
    if isinstance(value, str) and not is_identifier(value):
        # QEMU-COMPAT: the phrase
        sentence = f"{argument.option} id={shown(value)}: Parameter 'id' expects an identifier"
        raise UsageError(sentence, IDENTIFIER_FORM)


def flatten(value: dict[str, Any], where: str, prefix: str = "", depth: int = 0) -> Items:
    """Nested objects as dotted keys; arrays and plain values stay what they are."""
    if depth > NESTING_MAX:
        raise UsageError(f"{where}: nested too deeply")
    items: Items = []
    for key, member in value.items():
        if isinstance(member, dict) and member:
            items.extend(flatten(member, where, f"{prefix}{key}.", depth + 1))
        else:
            items.append((prefix + key, member))
    return items


def split_prefix(items: Items, prefix: str) -> tuple[Items, Items]:
    """Items whose key starts with ``prefix`` (which is removed), and the others."""
    inside: Items = []
    outside: Items = []
    for key, value in items:
        if key.startswith(prefix):
            inside.append((key[len(prefix) :], value))
        else:
            outside.append((key, value))
    return inside, outside

# SPDX-License-Identifier: Apache-2.0
"""From the checked arguments of a boxed command to the option model that the command line fills:

    made = read_options(OBJECTS, "qom-type", arguments, "object-add")

The types of such arguments are made of the same models: ``models.options``, which is loaded when they are checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmmd.options.fields import Items, OptionSet

T = TypeVar("T", bound="OptionSet")


def read_options(table: Mapping[str, type[T]], tag: str, arguments: Mapping[str, Any], where: str) -> T:
    """The checked arguments of a boxed command as the option model. Raises UsageError for what keys say together."""
    items: Items = [item for key, value in arguments.items() if key != tag for item in _flat(key, value)]
    return table[arguments[tag]].from_items(items, where, is_json=True)


def _flat(key: str, value: Any) -> Items:
    """Inner objects become keys with a dot."""
    if isinstance(value, dict):
        return [item for name, inner in value.items() for item in _flat(f"{key}.{name}", inner)]
    return [(key, value)]

# SPDX-License-Identifier: Apache-2.0
"""From the option models of the command line (``options.backends``), which are the only declaration, to QAPI types:

    ObjectOptions = option_union(__name__, "qom-type", OBJECTS)   # what object-add takes

A key that this version does not have is not in the type, nor are values that it does not have.
"""

from __future__ import annotations

import operator
import typing
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

import typing_extensions

from vmmd.qmp.models.unions import Tagged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmmd.core.props import Prop, PropType
    from vmmd.options.fields import OptionSet

# made at run time: no types to mypy
_TypedDict: Any = typing_extensions.TypedDict
_Literal: Any = typing.Literal


def option_union(
    module: str, tag: str, table: Mapping[str, type[OptionSet]], special: Mapping[PropType[Any], str] | None = None
) -> Any:
    """The union of all option models of a table; the member ``tag`` is the key of the table. ``module`` is the name of
    the module that gives the union its name; ``special``: names of types there, for kinds of value that have a
    structure of their own (child nodes)."""
    references = {kind: typing.ForwardRef(name, module=module) for kind, name in (special or {}).items()}
    arms = [option_type(cls, tag, word, references) for word, cls in table.items()]
    return Annotated[reduce(operator.or_, arms), Tagged(tag)]


def option_type(cls: type[OptionSet], tag: str, word: str, special: Mapping[PropType[Any], Any]) -> Any:
    """One option model as a TypedDict. Keys with a dot are members of an inner object."""
    members: dict[str, Any] = {tag: _Literal[word]}
    inner: dict[str, dict[str, Any]] = {}
    for declared in cls.each():
        hint = _hint(cls, declared, special)
        if hint is None or declared.wire_name == tag:
            continue
        outer, dot, name = declared.wire_name.partition(".")
        if dot:
            inner.setdefault(outer, {})[name] = NotRequired[hint]
        else:
            members[outer] = hint if declared.required else NotRequired[hint]
    for outer, keys in inner.items():
        members[outer] = NotRequired[_TypedDict(outer, keys)]
    return _TypedDict(f"{cls.__name__}Options", members)


def _hint(cls: type[OptionSet], declared: Prop[Any], special: Mapping[PropType[Any], Any]) -> Any:
    """The type of one key; None when this version has nothing to offer for it."""
    harmless = cls.later.get(declared.wire_name)
    kind = declared.kind
    if kind.values:
        words = kind.values if harmless is None else tuple(word for word in kind.values if word in harmless)
        return _Literal[words] if words else None
    if harmless is not None:
        return None
    if kind in special:
        return special[kind]
    if declared.wire_name in cls.repeatable:
        return None
    simple: dict[Any, Any] = {(bool,): bool, (int,): int, (): str}
    return simple.get(kind.json_kinds, int)

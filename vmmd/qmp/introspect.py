# SPDX-License-Identifier: Apache-2.0
"""``query-qmp-schema``: the commands and events of this monitor in QAPI's seven meta-types, from their annotations.

    Literal, Enum → enum     TypedDict → object     Annotated[A | B, Tagged("k")] → object with tag and variants
    list[T] → array          int, float, bool, str, object → builtins     Annotated[A | B, Alternate(…)] → alternate

The answer is built when the source changes, not when it is asked for (``commands.introspect`` reads the file). Names of
types mean nothing (QMP introspection: «not ABI»): they are numbers, equal types share one. ``dict[str,
object]`` as the result of a command is QAPI's empty object.
"""

from __future__ import annotations

import enum
import importlib
import types
import typing
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import is_typeddict

from vmmd.core.events import EVENTS
from vmmd.core.unions import TaggedUnion, arms_of
from vmmd.errors import InternalError
from vmmd.qmp.models.unions import Alternate
from vmmd.qmp.registry import load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.models.introspect import SchemaInfo
    from vmmd.qmp.registry import CommandSpec

_BUILTINS: dict[Any, tuple[str, str]] = {
    str: ("str", "string"),
    int: ("int", "int"),
    float: ("number", "number"),
    bool: ("bool", "boolean"),
    types.NoneType: ("null", "null"),
    object: ("any", "value"),
    Any: ("any", "value"),
}
_EMPTY = dict[str, object]

#: (name, hint, is optional)
_Member = tuple[str, Any, bool]


def build_schema() -> list[SchemaInfo]:
    """The whole schema, from the declarations."""
    builder = SchemaBuilder()
    for _name, spec in sorted(load().items()):
        builder.add_command(spec)
    for event in sorted(EVENTS, key=lambda event: EVENTS[event].wire_name):
        builder.add_event(event)
    return cast("list[SchemaInfo]", builder.entities)


def resolved_hints(spec: CommandSpec) -> dict[str, Any]:
    """The handler's annotations as types; names come from its ``models`` module too."""
    models = importlib.import_module(f"vmmd.qmp.models.{spec.module}")
    own = importlib.import_module(spec.handler.__module__)
    names = {**vars(typing), **vars(models), **vars(own)}
    wanted = {key: value for key, value in spec.handler.__annotations__.items() if key != "ctx"}
    holder = type("holder", (), {"__annotations__": wanted})
    return typing.get_type_hints(holder, globalns=names, include_extras=True)


def arguments_of(spec: CommandSpec, hints: dict[str, Any]) -> list[_Member]:
    """The members of a command's ``arguments`` object (not of a boxed one)."""
    code, optional = spec.handler.__code__, spec.handler.__kwdefaults__ or {}
    names = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return [(name.replace("_", "-"), hints[name], name in optional) for name in names]


def members_of(typed_dict: Any) -> list[_Member]:
    """The members of a TypedDict."""
    hints = typing.get_type_hints(typed_dict, include_extras=True)
    optional = typed_dict.__optional_keys__  # knows nothing of ``NotRequired`` under postponed annotations
    return [(name, _bare(hint), name in optional or _is_not_required(hint)) for name, hint in hints.items()]


def event_members(event: Any) -> list[_Member]:
    """The members of an event's ``data``."""
    members = []
    for name, hint in typing.get_type_hints(event, include_extras=True).items():
        arms = arms_of(hint)
        bare = [arm for arm in arms if arm is not types.NoneType]
        members.append((name.replace("_", "-"), bare[0] if len(bare) == 1 else hint, len(bare) < len(arms)))
    return members


def _is_not_required(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.NotRequired


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if _is_not_required(hint) else hint


def without_none(hint: Any) -> Any:
    """``T`` of ``T | None``: an optional QAPI member may be left out but not null."""
    arms = [arm for arm in arms_of(hint) if arm is not types.NoneType]
    return arms[0] if len(arms) == 1 else hint


class SchemaBuilder:
    """Collects entities; a type is described once."""

    def __init__(self) -> None:
        self.entities: list[dict[str, object]] = []
        self._named: dict[object, str] = {}  # description or class of a type → its name

    def add_command(self, spec: CommandSpec) -> None:
        hints = resolved_hints(spec)
        boxed = spec.boxed
        arguments = self.type_of(hints[boxed]) if boxed else self._object(arguments_of(spec, hints))
        entity: dict[str, object] = {
            "name": spec.name,
            "meta-type": "command",
            "arg-type": arguments,
            "ret-type": self._object([]) if hints["return"] == _EMPTY else self.type_of(hints["return"]),
        }
        if spec.oob:
            entity["allow-oob"] = True
        if spec.features:
            entity["features"] = list(spec.features)
        self.entities.append(entity)

    def add_event(self, event: type) -> None:
        name = EVENTS[event].wire_name
        self.entities.append({"name": name, "meta-type": "event", "arg-type": self._object(event_members(event))})

    def type_of(self, hint: Any) -> str:
        """The name of a type; describes it when it is new."""
        hint = _bare(hint)
        if hint in _BUILTINS:
            return self._builtin(*_BUILTINS[hint])
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self._annotated(*arguments)
        if origin is typing.Literal:
            return self._enum(arguments)
        if origin is list:
            element = self.type_of(arguments[0])
            return self._entity({"meta-type": "array", "element-type": element}, f"[{element}]")
        if is_typeddict(hint):
            return self._recursive(hint)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return self._enum([member.value for member in hint])
        raise InternalError(f"{hint} is no QAPI type")

    def _annotated(self, hint: Any, *notes: object) -> str:
        for note in notes:
            if isinstance(note, TaggedUnion):
                return self._union(note, hint)
            if isinstance(note, Alternate):
                members = [{"type": self.type_of(arm)} for arm in arms_of(hint)]
                return self._entity({"meta-type": "alternate", "members": members})
            if typing.get_origin(note) is typing.Literal or (isinstance(note, type) and issubclass(note, enum.Enum)):
                return self.type_of(note)  # a str that is one of these words
        return self.type_of(hint)

    def _recursive(self, typed_dict: Any) -> str:
        """A TypedDict that may contain itself: it has its name before its members are looked at."""
        name = self._named.get(typed_dict)
        if name is None:
            name = self._named[typed_dict] = self._next_name()
            members = self._members(members_of(typed_dict))
            self.entities.append({"name": name, "meta-type": "object", "members": members})
        return name

    def _object(self, members: Iterable[_Member]) -> str:
        return self._entity({"meta-type": "object", "members": self._members(members)})

    def _members(self, members: Iterable[_Member]) -> list[dict[str, object]]:
        described = []
        for name, hint, optional in members:
            member: dict[str, object] = {"name": name, "type": self.type_of(without_none(hint) if optional else hint)}
            if optional:
                member["default"] = None
            described.append(member)
        return described

    def _union(self, tagged: TaggedUnion, hint: Any) -> str:
        """What all arms have is the base; the rest are the variants."""
        key = (hint, tagged.tag)
        if key in self._named:
            return self._named[key]
        name = self._named[key] = self._next_name()
        arms = tagged.arms(hint)
        members = {word: members_of(arm) for word, arm in arms.items()}
        first, *others = members.values()
        base = [each for each in first if each[0] != tagged.tag and all(each in other for other in others)]
        common = [*base, (tagged.tag, typing.Literal[tuple(arms)], False)]
        variants = [
            {"case": word, "type": self._object([m for m in every if m not in base and m[0] != tagged.tag])}
            for word, every in members.items()
        ]
        entity = {"meta-type": "object", "members": self._members(common), "tag": tagged.tag, "variants": variants}
        self.entities.append({"name": name, **entity})
        return name

    def _enum(self, values: Iterable[object]) -> str:
        words = [str(value) for value in values]
        return self._entity({"meta-type": "enum", "members": [{"name": word} for word in words], "values": words})

    def _builtin(self, name: str, json_type: str) -> str:
        return self._entity({"meta-type": "builtin", "json-type": json_type}, name)

    def _entity(self, description: dict[str, object], name: str | None = None) -> str:
        """The name of the type so described."""
        key = repr(description)
        if key not in self._named:
            self._named[key] = name or self._next_name()
            self.entities.append({"name": self._named[key], **description})
        return self._named[key]

    def _next_name(self) -> str:
        return str(len(self._named))

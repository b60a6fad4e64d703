# SPDX-License-Identifier: Apache-2.0
"""What the peer's ``query-qmp-schema`` says, indexed when asked: commands, members, unions, texts of types.

The schema comes from outside: entries that are not of the shape expected count as absent. Pure; raises nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: a text of a type goes no deeper than this
TEXT_DEPTH = 4
#: an enumeration with more values is shortened in texts
TEXT_VALUES = 12

Entry = dict[str, Any]


class Member(NamedTuple):
    """A member of an object type; ``type`` is a name in the schema."""

    name: str
    type: str
    optional: bool


class Command(NamedTuple):
    """A command; the types are None when the peer has no schema."""

    name: str
    arguments: str | None
    returns: str | None
    out_of_band: bool
    features: tuple[str, ...]


class Schema:
    """An index of the schema's entries."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries: dict[str, Entry] = {
            entry["name"]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)
        }
        self.typed = True
        self.commands = self._names("command")
        self.events = self._names("event")

    @classmethod
    def untyped(cls, commands: Iterable[str]) -> Schema:
        """The schema of a peer that has only ``query-commands``: arguments are not known."""
        schema = cls({"name": name, "meta-type": "command"} for name in commands)
        schema.typed = False
        return schema

    def _names(self, meta: str) -> tuple[str, ...]:
        return tuple(sorted(name for name, entry in self._entries.items() if entry.get("meta-type") == meta))

    def __contains__(self, name: str) -> bool:
        """Whether the peer has this command."""
        return self.meta(name) == "command"

    def command(self, name: str) -> Command | None:
        """The command of this name."""
        entry = self._entries.get(name)
        if entry is None or entry.get("meta-type") != "command":
            return None
        features = tuple(str(feature) for feature in _list(entry, "features"))
        return Command(name, _text(entry, "arg-type"), _text(entry, "ret-type"), bool(entry.get("allow-oob")), features)

    def event_type(self, name: str) -> str | None:
        """The type of an event's data."""
        entry = self._entries.get(name)
        return _text(entry, "arg-type") if entry is not None and entry.get("meta-type") == "event" else None

    def meta(self, type_name: str | None) -> str:
        """The meta-type: builtin, enum, array, object, alternate, command, event; empty when there is none."""
        return str(self._entries.get(type_name or "", {}).get("meta-type", ""))

    def scalar(self, type_name: str) -> str:
        """The JSON type of a builtin: string, int, number, boolean, null or value."""
        return str(self._entries.get(type_name, {}).get("json-type", "value"))

    def values(self, type_name: str) -> tuple[str, ...]:
        """The values of an enumeration, in the schema's order."""
        return tuple(str(value) for value in _list(self._entries.get(type_name, {}), "values"))

    def element(self, type_name: str) -> str:
        """The type of an array's elements."""
        return str(self._entries.get(type_name, {}).get("element-type", ""))

    def alternatives(self, type_name: str) -> tuple[str, ...]:
        """The types that an alternate may have."""
        members = _list(self._entries.get(type_name, {}), "members")
        names = [str(member["type"]) for member in members if isinstance(member, dict) and "type" in member]
        return tuple(name for name in names if self.meta(name) != "alternate")  # QAPI has none in one another

    def objects(self, type_name: str) -> tuple[str, ...]:
        """The object types that a value of this type may have: itself, or alternatives."""
        if self.meta(type_name) == "alternate":
            return tuple(name for name in self.alternatives(type_name) if self.meta(name) == "object")
        return (type_name,) if self.meta(type_name) == "object" else ()

    def tag(self, type_name: str) -> str | None:
        """The member that chooses the variant of a union."""
        tag = self._entries.get(type_name, {}).get("tag")
        return tag if isinstance(tag, str) else None

    def cases(self, type_name: str) -> tuple[str, ...]:
        """The tag values for which a union has more members."""
        variants = _list(self._entries.get(type_name, {}), "variants")
        return tuple(str(variant["case"]) for variant in variants if isinstance(variant, dict) and "case" in variant)

    def members(self, type_name: str | None, tags: Mapping[str, object] | None = None) -> dict[str, Member]:
        """The members of an object; those of the union's variant too when ``tags`` holds the tag's value."""
        entry = self._entries.get(type_name or "", {})
        found = {member.name: member for member in _members(entry)}
        tag = self.tag(type_name or "")
        chosen = tags.get(tag) if tags and tag else None
        for variant in _list(entry, "variants") if chosen is not None else ():
            if isinstance(variant, dict) and variant.get("case") == chosen:
                found.update(
                    (member.name, member) for member in _members(self._entries.get(str(variant.get("type")), {}))
                )
        return found

    def text(self, type_name: str | None, depth: int = TEXT_DEPTH) -> str:
        """The type for people: ``int``, ``on|off``, ``[str]``, ``{file: str, aio?: threads|native}``."""
        if type_name is None:
            return "unknown"
        if depth <= 0:
            return "…"
        meta = self.meta(type_name)
        if meta == "array":
            return f"[{self.text(self.element(type_name), depth - 1)}]"
        if meta == "enum":
            values = self.values(type_name)
            return "|".join(values[:TEXT_VALUES]) + ("|…" if len(values) > TEXT_VALUES else "")
        if meta == "alternate":
            return " or ".join(self.text(name, depth - 1) for name in self.alternatives(type_name))
        if meta == "object":
            return self._object_text(type_name, depth)
        return type_name if meta == "builtin" else "any"

    def _object_text(self, type_name: str, depth: int) -> str:
        if depth <= 1 and self.members(type_name):
            return "{…}"
        parts = [
            f"{member.name}{'?' if member.optional else ''}: {self.text(member.type, depth - 1)}"
            for member in self.members(type_name).values()
        ]
        tag = self.tag(type_name)
        if tag is not None:
            parts.append(f"… by {tag}")
        return "{" + ", ".join(parts) + "}"


def _list(entry: Entry, key: str) -> list[Any]:
    value = entry.get(key)
    return value if isinstance(value, list) else []


def _text(entry: Entry, key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) else None


def _members(entry: Entry) -> list[Member]:
    return [
        Member(member["name"], str(member.get("type", "")), "default" in member)
        for member in _list(entry, "members")
        if isinstance(member, dict) and isinstance(member.get("name"), str)
    ]

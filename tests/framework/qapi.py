# SPDX-License-Identifier: Apache-2.0
"""Comparing two answers of query-qmp-schema by structure; names of types mean nothing.

``Comparison(ours, theirs).command(name)`` lists what a client written for *theirs* could trip over with *ours*:
what goes in must be taken (arguments), what comes out must be known (returns, events).
"""

from __future__ import annotations

from typing import Any

Entity = dict[str, Any]
#: names that belong to nobody else (QAPI: downstream extensions)
OWN = "__org.vmmd_"


class Schema:
    """One answer of query-qmp-schema."""

    def __init__(self, entities: list[Entity]) -> None:
        self.by_name = {entity["name"]: entity for entity in entities}

    def names(self, meta_type: str) -> set[str]:
        """Names of all commands or events."""
        return {name for name, entity in self.by_name.items() if entity["meta-type"] == meta_type}

    def cases(self, entity: Entity) -> dict[str, dict[str, Entity]]:
        """The members of an object by name, for each value of its tag ("" without one)."""
        base = {member["name"]: member for member in entity["members"]}
        if "tag" not in entity:
            return {"": base}
        variants = {each["case"]: self.by_name[each["type"]]["members"] for each in entity["variants"]}
        words = self.by_name[base[entity["tag"]]["type"]]["values"]
        return {word: base | {member["name"]: member for member in variants.get(word, [])} for word in words}


class Comparison:
    """Differences that a client would notice, as sentences."""

    def __init__(self, ours: Schema, theirs: Schema) -> None:
        self.ours, self.theirs = ours, theirs
        self._differences: list[str] = []
        self._under_way: set[tuple[str, str, bool]] = set()

    def command(self, name: str) -> list[str]:
        """Of a command."""
        mine, other = self.ours.by_name[name], self.theirs.by_name[name]
        self._compare(mine["arg-type"], other["arg-type"], f"{name} arguments", into=True)
        self._compare(mine["ret-type"], other["ret-type"], f"{name} return", into=False)
        if mine.get("allow-oob", False) != other.get("allow-oob", False):
            self._say(f"{name}: allow-oob")
        self._features(mine, other, name)
        return self._done()

    def event(self, name: str) -> list[str]:
        """Of an event."""
        mine, other = self.ours.by_name[name], self.theirs.by_name[name]
        self._compare(mine["arg-type"], other["arg-type"], f"{name} data", into=False)
        return self._done()

    def _done(self) -> list[str]:
        found, self._differences = self._differences, []
        return found

    def _say(self, what: str) -> None:
        self._differences.append(what)

    def _features(self, mine: Entity, other: Entity, where: str) -> None:
        extra = set(mine.get("features", ())) - set(other.get("features", ()))
        if extra:
            self._say(f"{where}: features {sorted(extra)}")
        for marker in ("deprecated", "unstable"):
            if marker in other.get("features", ()) and marker not in mine.get("features", ()):
                self._say(f"{where}: is {marker}")

    def _compare(self, mine_name: str, other_name: str, where: str, *, into: bool) -> None:
        if (mine_name, other_name, into) in self._under_way:
            return
        self._under_way.add((mine_name, other_name, into))
        mine, other = self.ours.by_name[mine_name], self.theirs.by_name[other_name]
        kind, other_kind = mine["meta-type"], other["meta-type"]
        if kind != other_kind:
            self._say(f"{where}: {kind}, not {other_kind}")
        elif kind == "builtin":
            if mine["json-type"] != other["json-type"]:
                self._say(f"{where}: {mine['json-type']}, not {other['json-type']}")
        elif kind == "enum":
            self._enum(mine, other, where)
        elif kind == "array":
            self._compare(mine["element-type"], other["element-type"], f"{where}[]", into=into)
        elif kind == "alternate":
            self._alternate(mine, other, where, into=into)
        else:
            self._object(mine, other, where, into=into)

    def _enum(self, mine: Entity, other: Entity, where: str) -> None:
        extra = set(mine["values"]) - set(other["values"])
        if extra:
            self._say(f"{where}: unknown values {sorted(extra)}")
        if [member["name"] for member in mine["members"]] != mine["values"]:
            self._say(f"{where}: values and members differ")

    def _alternate(self, mine: Entity, other: Entity, where: str, *, into: bool) -> None:
        def by_kind(schema: Schema, entity: Entity) -> dict[str, str]:
            types = [member["type"] for member in entity["members"]]
            entities = {name: schema.by_name[name] for name in types}
            return {str(each.get("json-type", each["meta-type"])): name for name, each in entities.items()}

        others = by_kind(self.theirs, other)
        for kind, name in by_kind(self.ours, mine).items():
            if kind not in others:
                self._say(f"{where}: takes {kind}")
            else:
                self._compare(name, others[kind], f"{where}<{kind}>", into=into)

    def _object(self, mine: Entity, other: Entity, where: str, *, into: bool) -> None:
        if mine.get("tag") != other.get("tag") and "tag" in mine:
            self._say(f"{where}: tag {mine.get('tag')}, not {other.get('tag')}")
            return
        other_cases = self.theirs.cases(other)
        for word, members in self.ours.cases(mine).items():
            inside = f"{where} {word}".rstrip()
            if "tag" in mine and word not in other_cases:
                self._say(f"{inside}: unknown case")
                continue
            # an object of ours without tag may stand for one case of theirs that needs no tag
            other_members = other_cases[word] if word in other_cases else self._all_members(other_cases)
            self._members(members, other_members, inside, into=into)

    @staticmethod
    def _all_members(cases: dict[str, dict[str, Entity]]) -> dict[str, Entity]:
        """Members of an untagged view of a union: those of its variants are optional."""
        common = set.intersection(*(set(members) for members in cases.values()))
        every: dict[str, Entity] = {}
        for members in cases.values():
            for name, member in members.items():
                every[name] = member if name in common else {**member, "default": None}
        return every

    def _members(self, mine: dict[str, Entity], other: dict[str, Entity], where: str, *, into: bool) -> None:
        for name, member in mine.items():
            if name.startswith(OWN):
                if into and "default" not in member:
                    self._say(f"{where}: own member {name} is mandatory")
                continue
            if name not in other:
                self._say(f"{where}: has member {name}")
                continue
            if into and "default" in other[name] and "default" not in member:
                self._say(f"{where}: member {name} is mandatory")
            if into and "default" not in other[name] and "default" in member:
                self._say(f"{where}: member {name} is optional")
            if not into and "default" in member and "default" not in other[name]:
                self._say(f"{where}: member {name} may be missing")
            self._compare(member["type"], other[name]["type"], f"{where}.{name}", into=into)
        for name, member in other.items():
            if name not in mine and "default" not in member:
                self._say(f"{where}: lacks member {name}")

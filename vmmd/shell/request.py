# SPDX-License-Identifier: Apache-2.0
"""From a line to a request: arguments typed by the schema, every mistake found before anything is sent.

``name=value`` pairs make a tree (``file.driver=raw`` is a member of ``file``), which is converted type by type: a text
becomes what the schema wants at its place, JSON is checked against it. Pure; raises LineError with the place.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.shell.line import LineError, Token, tokens
from vmmd.shell.scalars import guess, scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vmmd.shell.schema import Schema

Place = tuple[int, int]

#: commands that take more members than their type says: the properties of the driver
OPEN_COMMANDS = ("device_add",)
#: so many similar names are offered, when they are as similar as that (1 is the same)
NEAREST = 3
LIKENESS = 0.5


class Request(NamedTuple):
    """A command to send."""

    command: str
    arguments: dict[str, Any]
    out_of_band: bool = False


class Leaf(NamedTuple):
    """A value in the line: where it stands, and where its name does."""

    value: Any
    is_text: bool
    quoted: bool
    place: Place
    name: Place


class Branch(NamedTuple):
    """Members given one by one with dots; the places are those of the first one's name."""

    members: dict[str, Node]
    place: Place
    name: Place


Node = Leaf | Branch


def parse(line: str, schema: Schema, properties: Callable[[str], Mapping[str, str]] = lambda _driver: {}) -> Request:
    """The request that a line means. ``properties`` tells names and types of a driver's properties, when known."""
    found = tokens(line)
    if not found:
        raise LineError("a command is missing", 0, 1)
    for token in found:
        if token.open:
            raise LineError(token.open, token.end, token.end + 1)
    if found[0].key is None and isinstance(found[0].value, dict):
        return _raw(found)
    name = _command(found[0], schema)
    root = Branch({}, (0, len(line)), (0, len(line)))
    for token in found[1:]:
        _plant(root, token, schema, name)
    command = schema.command(name)
    assert command is not None
    if command.arguments is None:
        return Request(name, {key: _untyped(node) for key, node in root.members.items()})
    builder = _Builder(schema, len(line))
    if name in OPEN_COMMANDS:
        builder.extra = properties(_text_of(root.members.get("driver")))
        builder.open_type = command.arguments
    return Request(name, builder.object(root, command.arguments, ""))


def _raw(found: list[Token]) -> Request:
    """A line that is a QMP command in JSON, sent as it is."""
    message: dict[str, Any] = found[0].value
    start, end = found[0].start, found[0].end
    if len(found) > 1:
        raise LineError("a command in JSON stands alone on its line", found[1].start, found[1].end)
    name = message.get("execute", message.get("exec-oob"))
    if not isinstance(name, str):
        raise LineError("a command in JSON has a member 'execute' with the command's name", start, end)
    for key in message:
        if key not in ("execute", "exec-oob", "arguments", "id"):
            raise LineError(f"a command in JSON has no member '{key}'", start, end, "use execute, …")
    arguments = message.get("arguments", {})
    if not isinstance(arguments, dict):
        raise LineError("'arguments' is a JSON object", start, end)
    return Request(name, arguments, "exec-oob" in message)


def _command(token: Token, schema: Schema) -> str:
    if token.key is not None or not isinstance(token.value, str):
        raise LineError("a line begins with a command", token.start, token.end, "see help")
    if token.value not in schema:
        raise unknown("command", token.value, schema.commands, token.start, token.end)
    return token.value


def unknown(what: str, name: str, known: Iterable[str], start: int, end: int) -> LineError:
    """The error for a name that is not known, with the nearest ones."""
    near = difflib.get_close_matches(name, list(known), NEAREST, LIKENESS)
    hint = "did you mean " + " or ".join(f"'{each}'" for each in near) + "?" if near else ""
    return LineError(f"there is no {what} '{name}'", start, end, hint)


def _plant(root: Branch, token: Token, schema: Schema, command: str) -> None:
    """Put one token into the tree."""
    if token.key is None:
        if not isinstance(token.value, dict):
            raise LineError("arguments are name=value or a JSON object", token.start, token.end, f"see help {command}")
        place = (token.start, token.end)
        for key, value in token.value.items():
            _set(root, key, Leaf(value, isinstance(value, str), True, place, place))
        return
    name = (token.start, token.start + len(token.key))
    parts = token.key.split(".")
    if "" in parts:
        raise LineError("a name is missing before '='" if token.key == "" else "a name is empty", *name)
    branch = root
    for part in parts[:-1]:
        below = branch.members.setdefault(part, Branch({}, name, name))
        if isinstance(below, Leaf):
            raise LineError(f"'{part}' has a value already, so it has no members", *name)
        branch = below
    is_text = isinstance(token.value, str) and token.form != "json"
    place = (token.value_start, token.end)
    _set(branch, parts[-1], Leaf(token.value, is_text, token.form == "quoted", place, name))


def _set(branch: Branch, name: str, leaf: Leaf) -> None:
    if name in branch.members:
        raise LineError(f"'{name}' is given twice", *leaf.name)
    branch.members[name] = leaf


def _text_of(node: Node | None) -> str:
    return node.value if isinstance(node, Leaf) and isinstance(node.value, str) else ""


def _untyped(node: Node) -> Any:
    if isinstance(node, Branch):
        made = {name: _untyped(below) for name, below in node.members.items()}
        indices = [str(index) for index in range(len(made))]
        return [made[index] for index in indices] if sorted(made) == sorted(indices) else made
    return guess(node.value) if node.is_text and not node.quoted else node.value


class _Builder:
    """Converts a tree by the schema's types."""

    def __init__(self, schema: Schema, end: int) -> None:
        self._schema = schema
        self._end = end
        #: the type that takes members of ``extra`` too, or any when ``extra`` is empty
        self.open_type: str | None = None
        self.extra: Mapping[str, str] = {}

    def node(self, node: Node, type_name: str, path: str) -> Any:
        """The value of a node at ``path``."""
        meta = self._schema.meta(type_name)
        if meta == "alternate":
            return self._alternate(node, type_name, path)
        if meta == "array":
            return self._array(node, type_name, path)
        if meta == "object":
            return self.object(self._as_branch(node, path), type_name, path)
        if isinstance(node, Branch) and meta != "enum" and self._schema.scalar(type_name) == "value":
            return _untyped(node)
        if isinstance(node, Branch):
            raise LineError(f"'{path}' has no members", *node.place, f"it is {self._schema.text(type_name)}")
        return self._scalar(node, type_name, path)

    def object(self, branch: Branch, type_name: str, path: str) -> dict[str, Any]:
        """The members of an object, with those of its variant."""
        schema = self._schema
        tag = schema.tag(type_name)
        members = schema.members(type_name, {tag: _text_of(branch.members.get(tag))} if tag else None)
        made = {}
        for name, node in branch.members.items():
            below = f"{path}.{name}" if path else name
            if name in members:
                made[name] = self.node(node, members[name].type, below)
            elif type_name == self.open_type:
                made[name] = self._property(name, node)
            else:
                raise self._unknown(node, branch, below, [f"{path}.{each}" if path else each for each in members], tag)
        for member in members.values():
            if not member.optional and member.name not in made:
                what = f"{path}.{member.name}" if path else member.name
                start, end = branch.place if path else (self._end, self._end + 1)
                raise LineError(f"'{what}' is missing", start, end, f"it is {schema.text(member.type)}")
        return made

    @staticmethod
    def _unknown(node: Node, branch: Branch, path: str, known: list[str], tag: str | None) -> LineError:
        error = unknown("argument", path, known, *node.name)
        if not error.hint and tag is not None and tag not in branch.members:
            error.hint = f"give {tag} too: it tells what more there is"
        return error

    def _as_branch(self, node: Node, path: str) -> Branch:
        if isinstance(node, Branch):
            return node
        if not isinstance(node.value, dict):
            raise LineError(f"'{path}' is an object", *node.place, f"write {path}.NAME=VALUE or {{…}}")
        return Branch({key: _json_leaf(value, node) for key, value in node.value.items()}, node.place, node.place)

    def _array(self, node: Node, type_name: str, path: str) -> list[Any]:
        element = self._schema.element(type_name)
        if isinstance(node, Branch):
            wanted = [str(index) for index in range(len(node.members))]
            if sorted(node.members) != sorted(wanted):
                raise LineError(f"'{path}' is a list", *node.place, f"number its members: {path}.0, {path}.1")
            return [self.node(node.members[index], element, f"{path}.{index}") for index in wanted]
        if not isinstance(node.value, list):
            raise LineError(f"'{path}' is a list", *node.place, f'write {path}=["…","…"] or {path}.0=…')
        return [self.node(_json_leaf(each, node), element, f"{path}.{at}") for at, each in enumerate(node.value)]

    def _alternate(self, node: Node, type_name: str, path: str) -> Any:
        """What of the alternatives takes the value; an object's own complaint is the best there is."""
        for name in sorted(self._schema.alternatives(type_name), key=self._strictness):
            if (isinstance(node, Branch) or isinstance(node.value, dict)) and self._schema.meta(name) != "object":
                continue
            try:
                return self.node(node, name, path)
            except LineError:
                if isinstance(node, Branch) or isinstance(node.value, dict):
                    raise
        raise LineError(f"'{path}' does not take this", *node.place, f"it is {self._schema.text(type_name)}")

    def _strictness(self, type_name: str) -> int:
        """Strings last: they take any text."""
        return 1 if self._schema.meta(type_name) == "builtin" and self._schema.scalar(type_name) == "string" else 0

    def _scalar(self, leaf: Leaf, type_name: str, path: str) -> Any:
        schema = self._schema
        if schema.meta(type_name) == "enum":
            values = schema.values(type_name)
            if not isinstance(leaf.value, str):
                raise LineError(f"'{path}' is one of a list of words", *leaf.place, schema.text(type_name))
            if leaf.value not in values:
                error = unknown("value", leaf.value, values, *leaf.place)
                message = f"'{path}' has no value '{leaf.value}'"
                raise LineError(message, *leaf.place, error.hint or f"it is {schema.text(type_name)}")
            return leaf.value
        kind = schema.scalar(type_name) if schema.meta(type_name) == "builtin" else "value"
        return self._typed(leaf, kind, path)

    def _typed(self, leaf: Leaf, kind: str, path: str) -> Any:
        try:
            return scalar(leaf.value, kind, leaf.is_text, leaf.quoted)
        except ValueError as error:
            raise LineError(f"'{path}' {error}", *leaf.place) from None

    def _property(self, name: str, node: Node) -> Any:
        """A driver's property; without knowledge of the driver its text says what it is."""
        if self.extra and name not in self.extra:
            raise unknown("property", name, [*self.extra, "driver", "bus", "id"], *node.name)
        if isinstance(node, Branch):
            return _untyped(node)
        return self._typed(node, property_kind(name, self.extra.get(name, "")), name)


def property_kind(name: str, qom_type: str) -> str:
    """The JSON type of a device property. ``addr`` is text: a number there would be read as devfn, not as slot."""
    if name == "addr":
        return "string"
    if qom_type.startswith(("int", "uint", "size")):
        return "int-or-string"
    if qom_type == "bool":
        return "boolean"
    return "string" if qom_type else "value"


def _json_leaf(value: Any, where: Leaf) -> Leaf:
    """A part of a JSON value: its strings are strings."""
    return Leaf(value, False, True, where.place, where.place)

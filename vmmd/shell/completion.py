# SPDX-License-Identifier: Apache-2.0
"""What can stand at the cursor: commands, argument names, values of the schema, and what exists in the machine.

Pure: live ids come through a look-up that may say None (not known yet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.shell.line import Token, quote, tokens
from vmmd.shell.live import Item, Key
from vmmd.shell.request import OPEN_COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from vmmd.shell.schema import Member, Schema

    Lookup = Callable[[Key], tuple[Item, ...] | None]


class Candidate(NamedTuple):
    """A text that replaces the line from ``start`` to the cursor."""

    text: str
    start: int
    note: str = ""


#: words of the shell itself, with what they do; they take the place of a QMP command
WORDS = {
    "help": "help [COMMAND]: commands, or what a command takes and returns",
    "hmp": "hmp [LINE]: a line for the monitor for people; without one, a prompt of its own",
    "events": "events [since N]: what has happened",
    "watch": "watch [-n SEC] COMMAND: the answer again and again; q leaves",
    "top": "top [-n SEC] [--once]: vCPU exits, queues, disks, memory, live; q leaves",
    "exit": "exit: leave the shell; the machine goes on (also Ctrl-D)",
}

#: arguments whose value is something that exists: command (or how commands begin, ending in -), argument, source
_SOURCES: dict[str, dict[str, str]] = {
    "device_del": {"id": "device"},
    "device_add": {"driver": "driver", "drive": "node", "memdev": "memdev"},
    "device-list-properties": {"typename": "driver"},
    "device-sync-config": {"id": "device"},
    "qom-list-properties": {"typename": "type"},
    "qom-list-types": {"implements": "type"},
    "object-del": {"id": "object"},
    "chardev-": {"id": "chardev"},
    "ringbuf-": {"device": "chardev"},
    "job-": {"id": "job"},
    "block-job-": {"device": "job", "id": "job"},
    "block-export-del": {"id": "export"},
    "remove-fd": {"fdset-id": "fdset"},
    "add-fd": {"fdset-id": "fdset"},
    "blockdev-del": {"node-name": "node"},
    "block-set-write-threshold": {"node-name": "node"},
    "block_set_io_throttle": {"id": "device", "device": "block"},
    "blockdev-open-tray": {"id": "device"},
    "blockdev-close-tray": {"id": "device"},
    "blockdev-insert-medium": {"id": "device", "node-name": "node"},
    "blockdev-remove-medium": {"id": "device"},
    "set_link": {"name": "device"},
}
#: the same for arguments that mean one thing in every command
_ANYWHERE = {
    "chardev": "chardev",
    "iothread": "iothread",
    "memdev": "memdev",
    "cpu": "cpu",
    "cpu-index": "cpu",
    "file": "node",
    "backing": "node",
    "node": "node",
    "base-node": "node",
    "top-node": "node",
    "source": "node",
    "target": "node",
    "device": "block",
}
_QOM_PATHS = ("path", "qom-path")


def complete(
    text: str,
    after: str,
    schema: Schema,
    live: Lookup,
) -> list[Candidate]:
    """The candidates for the end of ``text``; ``after`` is what stands behind the cursor."""
    found = tokens(text)
    current = found.pop() if found and (found[-1].open or found[-1].end == len(text)) else None
    at = current.start if current else len(text)
    if not found:
        return _first_words(text[at:], at, schema) if current is None or current.key is None else []
    word = str(found[0].value)
    if word in ("help", "watch", "hmp", "events", "top"):
        return _for_word(word, found, text, at, schema, live)
    command = schema.command(word)
    if command is None or command.arguments is None:
        return []
    given = [*found[1:], *tokens(after)]
    return _Arguments(schema, word, command.arguments, given, live).candidates(text, at, current)


def _first_words(prefix: str, at: int, schema: Schema) -> list[Candidate]:
    """Words and commands that begin with the prefix; else those that contain it."""
    notes = {**dict.fromkeys(schema.commands, ""), **WORDS}
    found = [name for name in notes if name.startswith(prefix)] or [name for name in notes if prefix in name]
    return [Candidate(name, at, notes[name]) for name in sorted(found) if name.isprintable()]


def _for_word(
    word: str,
    found: list[Token],
    text: str,
    at: int,
    schema: Schema,
    live: Lookup,
) -> list[Candidate]:
    """Arguments of the shell's own words."""
    prefix = text[at:]
    if word == "help" and len(found) == 1:
        names = [*WORDS, *schema.commands, *schema.events]
        return [Candidate(name, at) for name in names if name.startswith(prefix)]
    if word == "hmp":
        return hmp(text[found[0].end :].lstrip(), live, at)
    if word == "events" and len(found) == 1:
        return [Candidate("since", at, "events with this number or a later one")] if "since".startswith(prefix) else []
    if word == "watch":
        skip = 3 if len(found) > 1 and found[1].value == "-n" else 1
        rest = found[skip].start if len(found) > skip else at
        if len(found) >= skip:
            below = complete(text[rest:], "", schema, live)
            return [candidate._replace(start=candidate.start + rest) for candidate in below]
    return []


def hmp(line: str, live: Lookup, at: int | None = None) -> list[Candidate]:
    """Candidates for a line of the monitor for people: its commands, and what ``info`` knows."""
    words = line.split(" ")
    key = Key("hmp") if len(words) == 1 else Key("hmp-info") if words[0] == "info" and len(words) == 2 else None
    if key is None:
        return []
    start = len(line) - len(words[-1]) if at is None else at
    return [Candidate(item.name, start, item.note) for item in live(key) or () if item.name.startswith(words[-1])]


class _Arguments:
    """Candidates for the arguments of one command."""

    def __init__(
        self,
        schema: Schema,
        command: str,
        type_name: str,
        given: Iterable[Token],
        live: Lookup,
    ) -> None:
        self._schema = schema
        self._command = command
        self._type = type_name
        self._live = live
        #: the texts given so far, by dotted name; objects in JSON by the names of their members
        self._given: dict[str, object] = {}
        for token in given:
            if token.key is not None:
                self._given[token.key] = token.value
            elif isinstance(token.value, dict):
                self._given.update(token.value)

    def candidates(self, text: str, at: int, current: Token | None) -> list[Candidate]:
        """What can stand at the end of ``text``, whose last token begins at ``at``."""
        if current is None or (current.key is None and not current.open):
            return list(self._names(text[at:], at))
        if current.key is None or current.form == "json":
            return []  # inside JSON
        quoted = current.form == "quoted"
        typed = str(current.value).lstrip('"')
        return [
            Candidate(quote(value), current.value_start, note)
            for value, note in self._values(current.key, typed)
            if value.startswith(typed) and value.isprintable() and (not quoted or current.open)
        ]

    def _names(self, prefix: str, at: int) -> Iterator[Candidate]:
        above, _dot, last = prefix.rpartition(".")
        lead = f"{above}." if above else ""
        members = self._members(above)
        for member in sorted(members.values(), key=lambda each: each.optional):
            if member.name.startswith(last):
                yield from self._name(member, lead, at)
        if not above and self._command in OPEN_COMMANDS:
            for item in self._live(Key("driver-properties", str(self._given.get("driver", "")))) or ():
                new = item.name not in members and item.name not in self._given
                if new and item.name.startswith(last) and item.name.isprintable():
                    yield Candidate(f"{item.name}=", at, item.note)

    def _name(self, member: Member, lead: str, at: int) -> Iterator[Candidate]:
        name = lead + member.name
        if name in self._given:
            return
        note = self._schema.text(member.type, 1) + ("" if member.optional else " (required)")
        objects = self._schema.objects(member.type)
        only_object = self._schema.meta(member.type) == "object"
        begun = any(given.startswith(f"{name}.") for given in self._given)
        if not only_object and not begun:
            yield Candidate(f"{name}=", at, note)
        if objects:
            yield Candidate(f"{name}.", at, note)

    def _members(self, path: str) -> Mapping[str, Member]:
        """The members of the object at ``path``, as far as the tags given tell."""
        types = self._types_at(path)
        found: dict[str, Member] = {}
        for name in types:
            found.update(self._schema.members(name, self._tags(name, path)))
        return found

    def _types_at(self, path: str) -> tuple[str, ...]:
        """The object types that can stand at a dotted path."""
        types: tuple[str, ...] = (self._type,)
        walked = ""
        for part in path.split(".") if path else ():
            below: list[str] = []
            for name in types:
                member = self._schema.members(name, self._tags(name, walked)).get(part)
                if member is not None:
                    element = self._schema.element(member.type) if self._schema.meta(member.type) == "array" else ""
                    below += self._schema.objects(member.type) or ((element,) if element else ())
                elif part.isdigit() and name:  # an element of a list
                    below += self._schema.objects(name)
            types = tuple(below)
            walked = f"{walked}.{part}" if walked else part
        return types

    def _tags(self, type_name: str, path: str) -> dict[str, object]:
        tag = self._schema.tag(type_name)
        return {tag: self._given.get(f"{path}.{tag}" if path else tag)} if tag else {}

    def _values(self, key: str, typed: str) -> Iterator[tuple[str, str]]:
        above, _dot, name = key.rpartition(".")
        member = self._members(above).get(name)
        if member is not None:
            yield from self._schema_values(member.type)
        yield from ((item.name, item.note) for item in self._existing(key, name, typed))

    def _schema_values(self, type_name: str) -> Iterator[tuple[str, str]]:
        meta = self._schema.meta(type_name)
        if meta == "enum":
            yield from ((value, "") for value in self._schema.values(type_name))
        elif meta == "alternate":
            for each in self._schema.alternatives(type_name):
                yield from self._schema_values(each)
        elif meta == "builtin" and self._schema.scalar(type_name) == "boolean":
            yield from (("true", ""), ("false", ""))
        elif meta == "builtin" and self._schema.scalar(type_name) == "null":
            yield ("null", "")

    def _existing(self, key: str, name: str, typed: str) -> Iterable[Item]:
        """Things of the machine that the argument can name."""
        if name in _QOM_PATHS and self._command.startswith("qom-"):
            return self._paths(typed)
        if name == "property" and self._command.startswith("qom-"):
            return self._live(Key("qom-properties", str(self._given.get("path", "")))) or ()
        if self._command in OPEN_COMMANDS and key not in self._members(""):
            return self._of_property(key)
        source = self._source(name)
        return (self._live(Key(source)) or ()) if source else ()

    def _source(self, name: str) -> str | None:
        for command, sources in _SOURCES.items():
            matches = self._command.startswith(command) if command.endswith("-") else self._command == command
            if matches and name in sources:
                return sources[name]
        return _ANYWHERE.get(name)

    def _of_property(self, name: str) -> Iterable[Item]:
        """Values of a driver's property: true and false, or something that exists."""
        properties = self._live(Key("driver-properties", str(self._given.get("driver", "")))) or ()
        if any(item.name == name and item.type == "bool" for item in properties):
            return (Item("true"), Item("false"))
        source = self._source(name)
        return (self._live(Key(source)) or ()) if source else ()

    def _paths(self, typed: str) -> Iterable[Item]:
        """Paths of the object tree, one level at a time."""
        if not typed.startswith("/"):
            return (Item("/machine"), Item("/objects"), Item("/chardevs"))
        directory = typed.rpartition("/")[0] or "/"
        lead = directory.rstrip("/")
        children = self._live(Key("qom-children", directory)) or ()
        return [Item(f"{lead}/{item.name}", item.note) for item in children]

# SPDX-License-Identifier: Apache-2.0
"""What exists in the machine at this moment: ids, node names, paths, drivers and their properties, for completion.

Answers are kept for a moment and refreshed in the background; ``get`` never waits. A peer that does not have a query,
refuses it or does not answer in time has no such ids. Event-loop thread only.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from vmmd.shell.errors import ShellError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: answers younger than this are not asked again
FRESH_S = 2.0
#: a query for completion is given up after this
QUERY_TIMEOUT_S = 2.0
#: so many answers are kept
KEPT = 256
#: so many ids of one kind are offered
ITEMS_MAX = 5000


class Key(NamedTuple):
    """What is asked for: a source below, and its parameter (a path, a driver)."""

    source: str
    of: str = ""


class Item(NamedTuple):
    """Something that exists: its name, a note for people, the type of a property."""

    name: str
    note: str = ""
    type: str = ""


class Peer(Protocol):
    """What is needed of the connection."""

    def has(self, command: str) -> bool:
        """Whether the peer has a command."""
        ...

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float) -> Any:
        """The return of a command; raises ShellError."""
        ...


class Source(NamedTuple):
    """Where ids come from: a query, its arguments for a parameter, how its return is read."""

    command: str
    arguments: Callable[[str], dict[str, Any]]
    read: Callable[[Any], Iterable[Item]]


def _no_arguments(_of: str) -> dict[str, Any]:
    return {}


def _field(name: str, note: str = "") -> Callable[[Any], Iterable[Item]]:
    return lambda answer: [Item(str(each[name]), str(each.get(note, ""))) for each in answer if each.get(name) != ""]


def _children(answer: Any) -> Iterable[Item]:
    return [Item(each["name"], each["type"][6:-1]) for each in answer if each["type"].startswith("child<")]


def _properties(answer: Any) -> Iterable[Item]:
    return [Item(each["name"], each.get("description", each["type"]), each["type"]) for each in answer]


def _directory(path: str) -> Source:
    return Source("qom-list", lambda _of: {"path": path}, _children)


def _types(implements: str) -> Source:
    return Source("qom-list-types", lambda _of: {"implements": implements, "abstract": False}, _field("name", "parent"))


def _help_lines(answer: Any) -> Iterable[Item]:
    """Commands in what the monitor for people answers to ``help``: ``name|alias arguments -- text``."""
    found = []
    for line in str(answer).splitlines():
        head, _dashes, text = line.partition(" -- ")
        names = head.split(" ", 1)[0]
        if text and names:
            found += [Item(name, text) for name in names.split("|")]
    return found


def _info_lines(answer: Any) -> Iterable[Item]:
    lines = [line.removeprefix("info ") for line in str(answer).splitlines() if line.startswith("info ")]
    return [Item(line.split(" ", 1)[0], line.partition(" -- ")[2]) for line in lines]


def _hmp(line: str, read: Callable[[Any], Iterable[Item]]) -> Source:
    return Source("human-monitor-command", lambda _of: {"command-line": line}, read)


SOURCES: dict[str, Source] = {
    "qom-children": Source("qom-list", lambda of: {"path": of}, _children),
    "qom-properties": Source("qom-list", lambda of: {"path": of}, _properties),
    "device": _directory("/machine/peripheral"),
    "object": _directory("/objects"),
    "chardev": Source("query-chardev", _no_arguments, _field("label", "filename")),
    "node": Source("query-named-block-nodes", lambda _of: {"flat": True}, _field("node-name", "drv")),
    "block": Source("query-block", _no_arguments, _field("device", "qdev")),
    "driver": _types("device"),
    "type": _types("object"),
    "driver-properties": Source("device-list-properties", lambda of: {"typename": of}, _properties),
    "job": Source("query-jobs", _no_arguments, _field("id", "type")),
    "export": Source("query-block-exports", _no_arguments, _field("id", "type")),
    "fdset": Source("query-fdsets", _no_arguments, _field("fdset-id")),
    "cpu": Source("query-cpus-fast", _no_arguments, _field("cpu-index", "qom-path")),
    "iothread": Source("query-iothreads", _no_arguments, _field("id")),
    "memdev": Source("query-memdev", _no_arguments, _field("id", "type")),
    "hmp": _hmp("help", _help_lines),
    "hmp-info": _hmp("help info", _info_lines),
}


class _Answer(NamedTuple):
    items: tuple[Item, ...]
    at: float


class Live:
    """The answers of one connection."""

    def __init__(self, peer: Peer, clock: Callable[[], float] = time.monotonic) -> None:
        self._peer = peer
        self._clock = clock
        self._answers: dict[Key, _Answer] = {}
        self._running: dict[Key, asyncio.Task[None]] = {}

    def get(self, key: Key) -> tuple[Item, ...] | None:
        """What is known now, None when it was never asked; an old answer is refreshed in the background."""
        answer = self._answers.get(key)
        if answer is None or self._clock() - answer.at > FRESH_S:
            self._ask(key)
        return answer.items if answer is not None else None

    def asking(self, key: Key) -> bool:
        """Whether an answer is on its way."""
        return key in self._running

    def expire(self) -> None:
        """What is known may have changed."""
        self._answers = {key: answer._replace(at=-math.inf) for key, answer in self._answers.items()}

    async def settle(self, keys: Iterable[Key]) -> None:
        """Wait until the questions for these keys are answered or given up."""
        tasks = [self._running[key] for key in keys if key in self._running]
        if tasks:
            await asyncio.wait(tasks)

    def _ask(self, key: Key) -> None:
        if key in self._running:
            return
        task = asyncio.get_running_loop().create_task(self._fetch(key))
        self._running[key] = task
        task.add_done_callback(lambda _task: self._running.pop(key, None))

    async def _fetch(self, key: Key) -> None:
        source = SOURCES[key.source]
        items: tuple[Item, ...] = ()
        if self._peer.has(source.command):
            try:
                arguments = source.arguments(key.of)
                answer = await self._peer.execute(source.command, arguments, timeout_s=QUERY_TIMEOUT_S)
                items = tuple(source.read(answer))[:ITEMS_MAX]
            except (ShellError, KeyError, TypeError, AttributeError):
                pass  # no such path or driver, or an answer of another shape
        while len(self._answers) >= KEPT:
            del self._answers[next(iter(self._answers))]
        self._answers.pop(key, None)
        self._answers[key] = _Answer(items, self._clock())

    def close(self) -> None:
        """Ask nothing more."""
        for task in self._running.values():
            task.cancel()

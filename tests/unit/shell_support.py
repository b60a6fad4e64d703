# SPDX-License-Identifier: Apache-2.0
"""A small schema for the tests of vmmd-shell, with every meta-type, and a peer that answers from a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.shell.errors import CommandFailed
from vmmd.shell.schema import Schema

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping


def builtin(name: str, json_type: str) -> dict[str, Any]:
    return {"name": name, "meta-type": "builtin", "json-type": json_type}


def members(*texts: str) -> list[dict[str, Any]]:
    """``"size? int"`` as the schema writes a member."""
    made = []
    for text in texts:
        name, type_name = text.split()
        member: dict[str, Any] = {"name": name.rstrip("?"), "type": type_name}
        made.append({**member, "default": None} if name.endswith("?") else member)
    return made


def struct(name: str, *texts: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "meta-type": "object", "members": members(*texts), **more}


def command(name: str, arguments: str = "empty", returns: str = "empty", **more: Any) -> dict[str, Any]:
    return {"name": name, "meta-type": "command", "arg-type": arguments, "ret-type": returns, **more}


ENTRIES: list[dict[str, Any]] = [
    builtin("str", "string"),
    builtin("int", "int"),
    builtin("number", "number"),
    builtin("bool", "boolean"),
    builtin("null", "null"),
    builtin("any", "value"),
    {"name": "drivers", "meta-type": "enum", "values": ["file", "raw", "null-co"]},
    {"name": "aio", "meta-type": "enum", "values": ["threads", "native", "io_uring"]},
    {"name": "[str]", "meta-type": "array", "element-type": "str"},
    {"name": "[point]", "meta-type": "array", "element-type": "point"},
    {"name": "ref", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "blockdev"}]},
    {"name": "ref-or-null", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "null"}]},
    struct("empty"),
    struct("point", "x int", "y? int"),
    struct(
        "blockdev",
        "driver drivers",
        "node-name? str",
        "read-only? bool",
        "cache? cache",
        tag="driver",
        variants=[
            {"case": "file", "type": "of-file"},
            {"case": "raw", "type": "of-raw"},
            {"case": "null-co", "type": "of-null"},
        ],
    ),
    struct("cache", "direct? bool", "no-flush? bool"),
    struct("of-file", "filename str", "aio? aio"),
    struct("of-raw", "file ref", "backing? ref-or-null"),
    struct("of-null", "size? int"),
    struct("device", "driver str", "bus? str", "id? str"),
    struct("id", "id str"),
    struct("path", "path str"),
    struct("property", "path str", "property str", "value any"),
    struct("mixture", "count int", "share? number", "on? bool", "names? [str]", "points? [point]", "what? any"),
    struct("line", "command-line str", "cpu-index? int"),
    struct("stopped", "reason str"),
    command("blockdev-add", "blockdev"),
    command("device_add", "device"),
    command("device_del", "id"),
    command("human-monitor-command", "line", "str"),
    command("mixed", "mixture", "[str]", features=["unstable"]),
    command("qom-list", "path", "[str]"),
    command("qom-set", "property"),
    command("query-status"),
    command("quit"),
    command("yank", "empty", **{"allow-oob": True}),
    {"name": "STOP", "meta-type": "event", "arg-type": "empty"},
    {"name": "SHUTDOWN", "meta-type": "event", "arg-type": "stopped"},
]


def schema() -> Schema:
    return Schema(ENTRIES)


class TablePeer:
    """Answers from a table by command; a command that is not there does not exist. Keeps what was asked."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = dict(answers)
        self.asked: list[tuple[str, Any]] = []
        self.hold: asyncio.Event | None = None

    def has(self, command: str) -> bool:
        return command in self.answers

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        self.asked.append((command, arguments))
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers[command]
        if isinstance(answer, Exception):
            raise answer
        return answer(arguments) if callable(answer) else answer


def refused(desc: str) -> CommandFailed:
    return CommandFailed({"class": "GenericError", "desc": desc})

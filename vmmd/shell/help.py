# SPDX-License-Identifier: Apache-2.0
"""``help``: the shell's words, the peer's commands in columns, and what one command takes and returns. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.safe_text import safe
from vmmd.shell.completion import WORDS
from vmmd.shell.request import OPEN_COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.shell.schema import Schema

_SYNTAX = """\
COMMAND NAME=VALUE …   a QMP command; a.b=1 sets member b of a; a value may be 'quoted', or JSON
COMMAND {…}            its arguments as a JSON object
{"execute": …}         a QMP command as it is sent"""


def overview(schema: Schema, width: int) -> str:
    """Everything that can be typed."""
    words = "\n".join(f"{text}" for text in WORDS.values())
    return f"{_SYNTAX}\n\n{words}\n\nCommands of this peer:\n{columns(schema.commands, width)}"


def columns(names: Iterable[str], width: int) -> str:
    """Names side by side, read downwards."""
    shown = [safe(name) for name in names]
    if not shown:
        return ""
    cell = max(len(name) for name in shown) + 2
    across = max(1, width // cell)
    rows = -(-len(shown) // across)
    lines = ["".join(name.ljust(cell) for name in shown[row::rows]).rstrip() for row in range(rows)]
    return "\n".join(lines)


def of_command(name: str, schema: Schema) -> str | None:
    """What a command takes and returns, or what an event carries; None when there is no such thing."""
    if name in WORDS:
        return WORDS[name]
    event = schema.event_type(name)
    if event is not None:
        return "\n".join([f"event {safe(name)}", *_members(schema, event)])
    command = schema.command(name)
    if command is None:
        return None
    lines = [safe(name) + (" (may be sent out of band)" if command.out_of_band else "")]
    if command.arguments is None:
        return "\n".join([*lines, "  the peer does not tell its arguments"])
    lines += _members(schema, command.arguments) or ["  no arguments"]
    if name in OPEN_COMMANDS:
        lines.append("  and the properties of the driver (device-list-properties)")
    tag = schema.tag(command.arguments)
    if tag is not None:
        lines.append(f"  and by {tag}: {', '.join(schema.cases(command.arguments))}")
    lines.append(f"returns {schema.text(command.returns)}")
    if command.features:
        lines.append(f"features: {', '.join(command.features)}")
    return safe("\n".join(lines))


def _members(schema: Schema, type_name: str) -> list[str]:
    members = sorted(schema.members(type_name).values(), key=lambda each: each.optional)
    if not members:
        return []
    wide = max(len(member.name) for member in members)
    return [
        f"  {member.name.ljust(wide)}  {'optional' if member.optional else 'required'}  {schema.text(member.type, 2)}"
        for member in members
    ]

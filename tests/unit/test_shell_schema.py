# SPDX-License-Identifier: Apache-2.0
"""vmmd-shell on the whole schemas of vmmd and QEMU: every command can be typed, completed, explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.differential.test_qmp_wire import spawn
from vmmd.qmp.commands.introspect import SCHEMA_FILE
from vmmd.qmp.registry import load
from vmmd.shell.completion import complete
from vmmd.shell.help import of_command
from vmmd.shell.line import quote
from vmmd.shell.request import OPEN_COMMANDS, parse
from vmmd.shell.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

SPECS = load()
OURS = Schema(json.loads(Path(SCHEMA_FILE).read_text()))


@pytest.fixture(scope="module", params=["monitor", pytest.param("qemu", marks=pytest.mark.qemu)])
def schema(request: pytest.FixtureRequest) -> Schema:
    with spawn(request.param) as target:
        client = target.connect().greet()
        entries = client.reply("query-qmp-schema")
        client.close()
    return Schema(entries)


def pairs(value: Any, path: str) -> Iterator[str]:
    """A value as ``name=value`` words with dots."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from pairs(below, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for index, below in enumerate(value):
            yield from pairs(below, f"{path}.{index}")
    elif value != {} or path:
        yield f"{path}={quote(value) if isinstance(value, str) else json.dumps(value)}"


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_example_can_be_typed_in_both_forms(name: str) -> None:
    for command, arguments in ((name, SPECS[name].example.arguments), *SPECS[name].example.before):
        for line in (f"{command} {json.dumps(arguments)}", f"{command} {' '.join(pairs(arguments, ''))}"):
            assert parse(line, OURS).arguments == arguments, line


def test_every_command_is_completed_and_explained(schema: Schema) -> None:
    assert len(schema.commands) > 50
    for name in schema.commands:
        assert name in [each.text for each in complete(name[:-1], "", schema, lambda _key: None)]
        text = of_command(name, schema)
        assert text is not None
        command = schema.command(name)
        assert command is not None
        members = schema.members(command.arguments)
        offered = [each.text.rstrip("=.") for each in complete(f"{name} ", "", schema, lambda _key: None)]
        assert set(offered) == set(members)
        required = [member.name for member in members.values() if not member.optional]
        assert set(offered[: len(required)]) == set(required) or name in OPEN_COMMANDS
        for member in members:
            assert f"  {member} " in text


def test_every_value_of_an_enumeration_is_offered(schema: Schema) -> None:
    for name in schema.commands:
        command = schema.command(name)
        assert command is not None
        for member in schema.members(command.arguments).values():
            if schema.meta(member.type) == "enum":
                offered = [each.text for each in complete(f"{name} {member.name}=", "", schema, lambda _key: ())]
                assert set(offered) >= set(schema.values(member.type))

# SPDX-License-Identifier: Apache-2.0
"""QMP sessions, argument checking and the command table, without I/O."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import TypeAdapter

from tests.framework.qmp import Qmp
from tests.unit.qmp_support import FakeVm, ManualLoop, Monitor
from vmmd.core.fdsets import FdBudget
from vmmd.errors import StateError, UsageError
from vmmd.qmp import registry
from vmmd.qmp.arguments import argument_check
from vmmd.qmp.introspect import resolved_hints
from vmmd.qmp.registry import CommandSpec, Context, invoke, load
from vmmd.qmp.session import QmpSession, Request, greeting, greeting_bytes
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMANDS = load()


@pytest.fixture
def session() -> QmpSession:
    return QmpSession(COMMANDS, FdBudget())


@pytest.fixture
def ctx(session: QmpSession) -> Context:
    return Context(FakeVm(ManualLoop()), session)


@pytest.fixture(scope="module")
def client() -> Iterator[Qmp]:
    with Monitor() as monitor:
        qmp = Qmp.connect(monitor.path)
        yield qmp
        qmp.close()


def test_greeting_bytes_are_the_greeting() -> None:
    assert json.loads(greeting_bytes()) == greeting()


def test_each_module_of_commands_has_its_module_of_models() -> None:
    for name in registry.MODULES:
        importlib.import_module(f"vmmd.qmp.models.{name}")


@pytest.mark.parametrize("spec", COMMANDS.values(), ids=COMMANDS)
def test_every_command_is_documented_and_dated(spec: CommandSpec) -> None:
    assert len(spec.doc.strip()) > 10
    assert spec.since[0].isdigit()
    assert "return" in resolved_hints(spec)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, spec in COMMANDS.items()
        if name.removeprefix("__org.vmmd_").startswith("query-") and spec.example.error is None
    ],
)
def test_every_query_returns_what_it_declares(client: Qmp, name: str) -> None:
    spec = COMMANDS[name]
    value = client.cmd(name, spec.example.arguments)
    declared = resolved_hints(spec)["return"]
    assert TypeAdapter(declared).validate_python(value, strict=True, extra="forbid") == value


def test_all_commands_are_loaded_even_when_one_module_was_imported_before() -> None:
    code = "import vmmd.qmp.commands.machine; from vmmd.qmp.registry import load; print(*load())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(out.split()) == set(COMMANDS)


def test_handlers_are_found_by_every_name_only_once() -> None:
    handlers = [spec.handler for spec in COMMANDS.values()]
    assert len(handlers) == len(set(handlers))


def test_command_outside_its_states_is_refused(ctx: Context) -> None:
    spec = CommandSpec("x", lambda ctx: {}, "1.0", states=frozenset({RunState.RUNNING}))
    with pytest.raises(StateError, match="not possible in state 'prelaunch'"):
        invoke(ctx, Request(spec, {}, None, oob=False))
    ctx.vm.runstate.set(RunState.RUNNING)
    assert invoke(ctx, Request(spec, {}, None, oob=False)) == {}


def test_session_enters_command_mode_once(session: QmpSession) -> None:
    refused: Any = session.receive({"execute": "query-status"})
    assert refused["error"]["class"] == "CommandNotFound"
    assert not session.negotiated
    session.enable(["oob"])
    assert session.negotiated
    assert session.oob
    assert isinstance(session.receive({"execute": "query-status", "id": 1}), Request)
    with pytest.raises(Exception, match="already complete"):
        session.enable([])
    assert session.oob


# -- arguments ---------------------------------------------------------------------------------------------------------


def handler(  # a command with one argument of each kind
    ctx: Context,
    *,
    size: int,
    device_name: str = "",
    force: bool | None = None,
    ratio: float | None = None,
    mode: Literal["a", "b"] | None = None,
    names: list[str] | None = None,
    modes: list[Literal["a", "b"]] | None = None,
    node: dict[str, int] | None = None,
) -> dict[str, object]:
    """A command of the tests."""
    return {}


handler.__module__ = "vmmd.qmp.commands.control"


@pytest.fixture(scope="module")
def check() -> Callable[[dict[str, object]], dict[str, object]]:
    return argument_check(CommandSpec("x", handler, "1.0"))


def test_arguments_reach_the_handler_by_python_names(check: Any) -> None:
    given = {"size": 1, "device-name": "d", "force": True, "ratio": 1, "mode": "a", "names": ["x"], "node": {"k": 1}}
    assert check(given) == {
        "size": 1, "device_name": "d", "force": True, "ratio": 1.0, "mode": "a", "names": ["x"], "node": {"k": 1},
    }  # fmt: skip
    assert check({"size": -(1 << 63)}) == {"size": -(1 << 63)}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Parameter 'size' is missing"),
        ({"x": 1}, "Parameter 'size' is missing"),
        ({"size": 1, "x": 1}, "Parameter 'x' is unexpected"),
        ({"size": 1, "device_name": "d"}, "Parameter 'device_name' is unexpected"),
        ({"size": "1"}, "Invalid parameter type for 'size', expected: integer"),
        ({"size": 1.0}, "Invalid parameter type for 'size', expected: integer"),
        ({"size": True}, "Invalid parameter type for 'size', expected: integer"),
        ({"size": None}, "Invalid parameter type for 'size', expected: integer"),
        ({"size": 1 << 63}, "Invalid parameter type for 'size', expected: integer"),
        ({"size": 1, "device-name": 1}, "Invalid parameter type for 'device-name', expected: string"),
        ({"size": 1, "device-name": None}, "Invalid parameter type for 'device-name', expected: string"),
        ({"size": 1, "force": 1}, "Invalid parameter type for 'force', expected: boolean"),
        ({"size": 1, "force": None}, "Invalid parameter type for 'force', expected: boolean"),
        ({"size": 1, "ratio": "1"}, "Invalid parameter type for 'ratio', expected: number"),
        ({"size": 1, "mode": "c"}, "Parameter 'mode' does not accept value 'c'"),
        ({"size": 1, "mode": 3}, "Invalid parameter type for 'mode', expected: string"),
        ({"size": 1, "names": "x"}, "Invalid parameter type for 'names', expected: array"),
        ({"size": 1, "names": ["x", 2]}, "Invalid parameter type for 'names[1]', expected: string"),
        ({"size": 1, "modes": ["a", "c"]}, "Parameter 'null' does not accept value 'c'"),
        ({"size": 1, "node": []}, "Invalid parameter type for 'node', expected: object"),
        ({"size": 1, "node": {"k": "v"}}, "Invalid parameter type for 'node.k', expected: integer"),
    ],
)
def test_wrong_arguments_are_refused_in_qapis_words(check: Any, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(arguments)
    assert caught.value.desc == sentence


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"device-name": "d", "size": 1, "nodes": 1}, "did you mean 'node'?"),
        (
            {"device-name": "d", "size": 1, "xyzzy": 1},
            "known are: device-name, force, mode, modes, names, node, ratio, size",
        ),
        ({"device-name": "d", "size": 1, "mode": "c"}, "it takes a, b"),
    ],
)
def test_refusals_say_what_would_be_accepted(check: Any, arguments: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(arguments)
    assert caught.value.hint == hint


def test_unknown_command_names_the_nearest() -> None:
    session = QmpSession(COMMANDS, FdBudget())
    session.receive({"execute": "qmp_capabilities"})
    session.enable([])
    reply = session.receive({"execute": "query-chardevv"})
    assert isinstance(reply, dict)
    expected = "The command query-chardevv has not been found; did you mean 'query-chardev'?"
    assert reply["error"] == {"class": "CommandNotFound", "desc": expected}

# SPDX-License-Identifier: Apache-2.0
"""vmmd-shell: lines run against a peer that answers from a table."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from qemu.qmp import ExecInterruptedError

from tests.unit.shell_support import ENTRIES, TablePeer, refused
from vmmd.shell.errors import CommandFailed, ConnectionFailed, ShellError
from vmmd.shell.executor import EVENTS_QUERY, EVENTS_SHOWN, EventLog, Executor
from vmmd.shell.line import LineError
from vmmd.shell.link import Session, address
from vmmd.shell.live import Live
from vmmd.shell.schema import Schema


class TableSession(TablePeer):
    """A session whose schema has the table's commands too."""

    loaded = 0

    async def load_schema(self) -> Schema:
        self.loaded += 1
        return Schema(ENTRIES)

    async def execute(
        self, command: str, arguments: Any = None, *, timeout_s: float | None = None, out_of_band: bool = False
    ) -> Any:
        return await super().execute(command, arguments, timeout_s=timeout_s)


def executor(session: TableSession, log: EventLog | None = None, hasty: bool = False) -> Executor:
    live = Live(session)
    return Executor(lambda: cast("Session", session), log or EventLog(), lambda: live, hasty=hasty)


@pytest.mark.asyncio
async def test_arguments_are_typed_and_sent() -> None:
    session = TableSession({"device_del": {}, "query-status": {"status": "running"}})
    runner = executor(session)
    assert (await runner.run("device_del id=5")).text(False) == "OK"
    assert (await runner.run("query-status")).value == {"status": "running"}
    assert session.asked == [("device_del", {"id": "5"}), ("query-status", None)]


@pytest.mark.asyncio
async def test_only_a_hasty_line_without_arguments_is_sent_without_the_schema() -> None:
    session = TableSession({"query-status": 1, "device_del": {}, "no-such": refused("no such command")})
    runner = executor(session, hasty=True)
    assert (await runner.run(" query-status ")).value == 1
    with pytest.raises(CommandFailed):
        await runner.run("no-such")
    assert session.loaded == 0
    await runner.run("device_del id=d")
    assert session.loaded == 1
    with pytest.raises(LineError):
        await executor(session).run("no-such")


@pytest.mark.asyncio
async def test_the_drivers_properties_are_asked_before_a_device_is_added() -> None:
    known = [{"name": "serial", "type": "str"}, {"name": "queues", "type": "uint16"}]
    session = TableSession({"device-list-properties": known, "device_add": {}})
    await executor(session).run("device_add driver=blk serial=5 queues=5")
    assert session.asked == [
        ("device-list-properties", {"typename": "blk"}),
        ("device_add", {"driver": "blk", "serial": "5", "queues": 5}),
    ]
    with pytest.raises(LineError, match="did you mean 'queues'"):
        await executor(session).run("device_add driver=blk queue=5")
    assert len(session.asked) == 3  # only the properties


@pytest.mark.asyncio
async def test_words_of_the_shell_are_offered_for_a_command_that_is_nearly_one() -> None:
    with pytest.raises(LineError, match="did you mean 'watch'"):
        await executor(TableSession({})).run("wacth query-status")
    with pytest.raises(ShellError, match="is for a terminal"):
        await executor(TableSession({})).run("exit")


@pytest.mark.asyncio
async def test_lines_for_people_go_as_they_are() -> None:
    session = TableSession({"human-monitor-command": "ok\r\n"})
    answer = await executor(session).run("hmp  x /4i  $pc ")
    assert answer.text(False) == "ok"
    assert session.asked == [("human-monitor-command", {"command-line": "x /4i  $pc"})]


@pytest.mark.asyncio
async def test_events_come_from_the_peer_when_it_keeps_them() -> None:
    def kept(arguments: Any) -> Any:
        events = [{"number": n, "event": {"event": f"E{n}"}} for n in range(arguments["since"], 101)]
        return {"events": events, "next": 101, "lost": 3 if arguments["since"] == 0 else 0}

    runner = executor(TableSession({EVENTS_QUERY: kept}))
    answer = await runner.run("events")
    assert len(answer.value) == EVENTS_SHOWN
    assert answer.text(False).splitlines()[-2:] == ["100 --:--:-- E100", "3 older events are no longer kept"]
    assert (await runner.run("events since 99")).text(False) == "99 --:--:-- E99\n100 --:--:-- E100"


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [5, {}, {"events": [1], "lost": 0}, {"events": [{"number": "x", "event": {}}]}, []])
async def test_kept_events_of_another_shape_are_refused(answer: Any) -> None:
    with pytest.raises(ShellError, match="of another shape"):
        await executor(TableSession({EVENTS_QUERY: answer})).run("events")


@pytest.mark.asyncio
async def test_events_that_the_shell_saw_stand_in() -> None:
    log = EventLog()
    for name in ("STOP", "RESUME"):
        log.add({"event": name})
    answer = await executor(TableSession({}), log).run("events since 2")
    assert [each["event"]["event"] for each in answer.value] == ["RESUME"]
    assert "the peer keeps no events" in answer.note


@pytest.mark.asyncio
@pytest.mark.parametrize("line", ["events x", "events since", "events since x", "events since -1", "events since 1 2"])
async def test_wrong_options_of_events_are_refused(line: str) -> None:
    with pytest.raises(LineError):
        await executor(TableSession({EVENTS_QUERY: {}})).run(line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/run/x.sock", "/run/x.sock"),
        ("x.sock", "x.sock"),
        ("unix:x:1", "x:1"),
        ("localhost:4444", ("localhost", 4444)),
        ("tcp::4444", ("localhost", 4444)),
        ("[::1]:4444", ("::1", 4444)),
        ("./a:5", "./a:5"),
    ],
)
def test_where_a_monitor_is(text: str, expected: Any) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["tcp:x", "host:70000", "tcp:host:port"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ShellError):
        address(text)


@pytest.mark.asyncio
async def test_a_session_knows_which_command_that_nobody_waits_for_keeps_the_peer_busy() -> None:
    answers: dict[str, asyncio.Future[object]] = {name: asyncio.Future() for name in ("first", "second", "third")}

    class Client:
        async def execute(self, command: str, _arguments: object, oob: bool) -> object:
            return await answers[command]

    async def settled() -> None:
        for _turn in range(5):  # of the loop: an answer passes through a few tasks
            await asyncio.sleep(0)

    session = Session("/no/socket")
    session._client = Client()  # type: ignore[assignment]
    waits = [asyncio.ensure_future(session.execute("first"))]
    await settled()  # it is sent
    with pytest.raises(ConnectionFailed, match="no answer to second"):
        await session.execute("second", timeout_s=0.01)
    assert session.busy_with == ""  # the peer is at the first one, which is waited for
    waits[0].cancel()
    await asyncio.wait(waits)
    assert session.busy_with == "first"
    answers["first"].set_result({})
    await settled()
    assert session.busy_with == "second"
    answers["second"].set_exception(ExecInterruptedError("Disconnected"))
    await settled()
    assert session.busy_with == ""
    answers["third"].set_result(3)
    assert await session.execute("third") == 3

# SPDX-License-Identifier: Apache-2.0
"""The QEMU project's own client library (qemu.qmp) and its qmp-shell, unchanged, against our monitor."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qemu.qmp import ExecuteError, QMPClient, Runstate

from tests.differential.test_qmp_wire import OURS, Target, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator

QMP_SHELL = Path(sys.executable).parent / "qmp-shell"


@pytest.fixture(params=OURS)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with spawn(request.param) as found:
        yield found


async def connected(target: Target, name: str = "test") -> QMPClient:
    client = QMPClient(name)
    await client.connect(target.path)
    return client


@pytest.mark.asyncio
async def test_client_connects_and_executes(target: Target) -> None:
    client = await connected(target)
    assert await client.execute("query-status") == {"status": "prelaunch", "singlestep": False, "running": False}
    with pytest.raises(ExecuteError) as caught:
        await client.execute("bogus")
    assert caught.value.error_class == "CommandNotFound"
    text = await client.execute("human-monitor-command", {"command-line": "info status"})
    assert text == "VM status: paused (prelaunch)\r\n"
    await client.disconnect()


@pytest.mark.asyncio
async def test_a_thousand_pipelined_commands_are_answered(target: Target) -> None:
    client = await connected(target)
    names = ["query-status", "query-version", "query-name", "query-kvm"]
    replies = await asyncio.gather(*(client.execute(names[n % 4]) for n in range(1000)))
    assert all(reply.keys() == replies[n % 4].keys() for n, reply in enumerate(replies))
    await client.disconnect()


@pytest.mark.asyncio
async def test_events_arrive_during_commands_and_none_is_lost(target: Target) -> None:
    client, watcher = await connected(target), await connected(target, "watcher")
    for _turn in range(100):
        await client.execute("cont")
        await asyncio.gather(client.execute("query-status"), client.execute("stop"), client.execute("query-name"))
    for each in (client, watcher):
        names = [(await asyncio.wait_for(each.events.get(), 10))["event"] for _turn in range(200)]
        assert names == ["RESUME", "STOP"] * 100
        await each.disconnect()


@pytest.mark.asyncio
async def test_disconnect_and_reconnect_in_a_loop(target: Target) -> None:
    client = QMPClient("again")
    for _turn in range(50):
        await client.connect(target.path)
        assert await client.execute("query-name") in ({}, {"name": "foo"})
        await client.disconnect()
        assert client.runstate is Runstate.IDLE


@pytest.mark.asyncio
async def test_quit_ends_the_connection_after_the_reply(target: Target) -> None:
    client = await connected(target)
    assert await client.execute("quit") == {}
    event = await asyncio.wait_for(client.events.get(), 10)
    assert event["event"] == "SHUTDOWN"
    # disconnect() raises EOFError only when the client has seen the end by itself
    while client.runstate is Runstate.RUNNING:
        await asyncio.wait_for(client.runstate_changed(), 10)
    with pytest.raises(EOFError):
        await client.disconnect()


@pytest.mark.asyncio
async def test_out_of_band_capability_can_be_negotiated(target: Target) -> None:
    reader, writer = await asyncio.open_unix_connection(target.path)
    assert "oob" in json.loads(await reader.readline())["QMP"]["capabilities"]
    writer.write(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}\n{"exec-oob":"query-name","id":1}\n')
    assert json.loads(await reader.readline()) == {"return": {}}
    assert json.loads(await reader.readline())["error"]["desc"] == "The command query-name does not support OOB"
    writer.close()
    await writer.wait_closed()


def shell(target: Target, script: str, *options: str) -> str:
    """What qmp-shell prints for a script on its standard input."""
    done = subprocess.run(
        [sys.executable, QMP_SHELL, *options, target.path],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_qmp_shell_runs_commands_unchanged(target: Target) -> None:
    text = shell(target, "query-status\ncont\nquery-status\nhuman-monitor-command command-line='info name'\nbogus\n")
    assert "Connected to QEMU 7.2" in text
    replies = [json.loads(line) for line in text.replace("(QEMU) ", "\n").splitlines() if line.startswith('{"')]
    assert [reply["return"]["status"] for reply in replies if "status" in reply.get("return", ())] == [
        "prelaunch",
        "running",
    ]
    assert replies[-1]["error"]["class"] == "CommandNotFound"


@pytest.mark.parametrize("name", OURS)
def test_qmp_shell_speaks_the_monitor_for_people(name: str) -> None:
    with spawn(name, "pc") as target:  # the shell always names vCPU 0, so there must be one, with QEMU too
        text = shell(target, "info status\nbogus\n", "-H")
    assert "VM status: paused (prelaunch)" in text
    assert "unknown command: 'bogus'" in text


def test_many_clients_at_once_each_see_their_own_replies(target: Target) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        client = target.connect().greet()
        for turn in range(200):
            client.send(json.dumps({"execute": "query-name", "id": [number, turn]}).encode())
            reply = client.message()
            if reply.get("id") != [number, turn]:
                wrong.append(reply)
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

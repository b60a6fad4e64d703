# SPDX-License-Identifier: Apache-2.0
"""Monitor connections: order, back-pressure, bounds, events; with a manual loop and a played client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.qmp_support import FakeStream, FakeVm, ManualLoop, Monitor
from vmmd.core.events import PowerdownEvent, RtcChangeEvent, ShutdownEvent, StopEvent
from vmmd.errors import VmmdError
from vmmd.qmp import connection as connection_module
from vmmd.qmp.connection import OOB_QUEUE, TURN_MESSAGES
from vmmd.qmp.registry import COMMANDS, CommandSpec, load
from vmmd.qmp.server import QmpServer

load()


class Rig:
    """A server with one played client."""

    def __init__(self, negotiation: bytes | None = b'{"execute":"qmp_capabilities"}', *, pretty: bool = False) -> None:
        self.loop = ManualLoop()
        self.vm = FakeVm(self.loop)
        self.server = QmpServer(self.vm, self.loop)
        self.vm.events.sink = self.server
        self.stream = FakeStream()
        self.connection = self.server.serve(self.stream, pretty=pretty)
        if negotiation is not None:
            self.stream.messages()
            assert self.exchange(negotiation) == [{"return": {}}]

    def arrive(self, *pieces: bytes) -> None:
        """Bytes from the client, read while the connection reads."""
        self.stream.arrived += pieces
        while self.stream.arrived and (reader := self.loop.readers.get(5)):
            reader()

    def exchange(self, *pieces: bytes) -> list[dict[str, Any]]:
        self.arrive(*pieces)
        return self.stream.messages()

    @property
    def reading(self) -> bool:
        return 5 in self.loop.readers

    def client_reads(self, room: int = 1 << 30) -> None:
        self.stream.room = room
        while self.stream.room and (writer := self.loop.writers.get(5)):
            writer()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A command ``x-wait`` that waits for the future it appends here."""
    waiting: list[Any] = []

    async def wait(ctx: Any) -> dict[str, object]:
        future = ctx.vm.loop.create_future()
        waiting.append(future)
        await future
        return {}

    monkeypatch.setitem(COMMANDS, "x-wait", CommandSpec("x-wait", wait, "0"))
    monkeypatch.setitem(COMMANDS, "x-oob", CommandSpec("x-oob", lambda ctx: {"oob": True}, "0", oob=True))
    return waiting


def status(id_: object) -> bytes:
    return json.dumps({"execute": "query-status", "id": id_}).encode()


def ids(messages: list[dict[str, Any]]) -> list[Any]:
    return [each.get("id") for each in messages]


def test_requests_behind_a_waiting_one_are_answered_after_it_in_order(gate: list[Any]) -> None:
    rig = Rig()
    assert rig.exchange(status(0) + b'{"execute":"x-wait","id":1}' + status(2) + b"\n" + status(3)) == [
        {"return": {"status": "prelaunch", "singlestep": False, "running": False}, "id": 0}
    ]
    assert not rig.reading  # W17: one at a time, the rest stays with the client
    gate[0].set_result(None)
    assert ids(rig.stream.messages()) == [1, 2, 3]
    assert rig.reading


def test_oob_queue_holds_eight_and_oob_commands_overtake(gate: list[Any]) -> None:
    """W18."""
    rig = Rig(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}')
    early = b'{"exec-oob":"x-oob","id":"early"}'
    late = b'{"exec-oob":"x-oob","id":"late"}'
    block = b'{"execute":"x-wait","id":"wait"}'
    full = OOB_QUEUE - 1  # the eighth makes the server stop reading
    rig.arrive(block + b"".join(map(status, range(full))) + early + status(full) + late + status(OOB_QUEUE))
    assert ids(rig.stream.messages()) == ["early"]
    assert not rig.reading
    gate[0].set_result(None)
    assert ids(rig.stream.messages()) == ["wait", 0, "late", *range(1, OOB_QUEUE + 1)]
    assert rig.reading


def test_events_of_a_command_come_before_its_reply() -> None:
    rig = Rig()
    names = [each.get("event", "reply") for each in rig.exchange(b'{"execute":"cont"}{"execute":"stop"}')]
    assert names == ["RESUME", "reply", "STOP", "reply"]


def test_handler_that_fails_by_a_bug_answers_and_the_session_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def bug(ctx: Any) -> object:
        raise ZeroDivisionError("secret")

    async def late_bug(ctx: Any) -> object:
        raise ZeroDivisionError("secret")

    monkeypatch.setitem(COMMANDS, "x-bug", CommandSpec("x-bug", bug, "0"))
    monkeypatch.setitem(COMMANDS, "x-late", CommandSpec("x-late", late_bug, "0"))
    monkeypatch.setitem(COMMANDS, "x-bytes", CommandSpec("x-bytes", lambda ctx: b"x", "0"))
    rig = Rig()
    for name in ("x-bug", "x-late", "x-bytes"):
        (reply,) = rig.exchange(json.dumps({"execute": name, "id": 1}).encode())
        assert reply["id"] == 1
        assert reply["error"]["class"] == "GenericError"
        assert "secret" not in reply["error"]["desc"]
    assert ids(rig.exchange(status(2))) == [2]


def test_reply_above_the_limit_becomes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """W30."""
    monkeypatch.setitem(COMMANDS, "x-big", CommandSpec("x-big", lambda ctx: "x" * (10 << 20), "0"))
    rig = Rig()
    (reply,) = rig.exchange(b'{"execute":"x-big","id":3}')
    assert reply == {"id": 3, "error": {"class": "GenericError", "desc": "The reply is larger than 10 MiB"}}


def test_client_that_does_not_read_is_not_read_from_and_loses_nothing_but_events() -> None:
    rig = Rig()
    rig.stream.room = 100
    rig.stream.arrived = [b"".join(status(turn * 100 + n) for n in range(100)) for turn in range(50)]
    rig.arrive()
    assert not rig.reading
    assert len(rig.stream.arrived) > 40  # back-pressure: the rest stays in the socket
    held = rig.connection._unsent
    assert len(held) < 2 * connection_module.BATCH_BYTES
    while rig.stream.arrived or not rig.reading:
        rig.client_reads(1000)
        rig.stream.room = 1000
        rig.arrive()
    rig.client_reads()
    assert ids(rig.stream.messages()) == list(range(5000))


def test_events_for_a_client_that_never_reads_are_bounded_and_counted() -> None:
    rig = Rig()
    rig.stream.room = 0
    for _turn in range(100_000):
        rig.server.emit(PowerdownEvent())
    rig.server.emit(StopEvent())
    assert len(rig.connection._held) <= connection_module.MAX_HELD_EVENTS
    assert rig.connection._held_bytes <= connection_module.MAX_HELD_BYTES
    rig.client_reads()
    names = rig.stream.messages()
    overflow = [each for each in names if each["event"] == "__org.vmmd_EVENT_OVERFLOW"]
    assert len(overflow) == 1
    assert names.index(overflow[0]) == 1  # in the place of the lost ones, behind what was under way
    assert overflow[0]["data"]["dropped"] + len(names) - 1 == 100_001
    assert names[-1]["event"] == "STOP"
    rig.server.emit(StopEvent())
    assert [each["event"] for each in rig.stream.messages()] == ["STOP"]


def test_reply_waits_behind_events_for_a_client_that_does_not_read(gate: list[Any]) -> None:
    rig = Rig()
    rig.arrive(b'{"execute":"x-wait","id":1}')
    rig.stream.room = 0
    for _turn in range(1000):
        rig.server.emit(PowerdownEvent())
    gate[0].set_result(None)
    rig.server.emit(StopEvent())
    rig.client_reads()
    messages = rig.stream.messages()
    assert ids(messages[-2:]) == [1, None]
    assert messages[-1]["event"] == "STOP"


def test_no_event_before_negotiation() -> None:
    rig = Rig(None)
    rig.server.emit(StopEvent())
    assert [key for each in rig.stream.messages() for key in each] == ["QMP"]


def test_client_that_closes_its_sending_side_still_gets_its_replies(gate: list[Any]) -> None:
    rig = Rig()
    rig.arrive(b'{"execute":"x-wait","id":1}' + status(2), b"")
    assert not rig.stream.closed
    gate[0].set_result(None)
    rig.arrive()
    assert ids(rig.stream.messages()) == [1, 2]
    assert rig.stream.closed


def test_client_that_vanishes_during_a_command_does_no_harm(gate: list[Any]) -> None:
    rig = Rig()
    rig.arrive(b'{"execute":"x-wait","id":1}')
    rig.stream.broken = True
    rig.server.emit(StopEvent())
    rig.loop.run_posted()
    assert rig.stream.closed
    gate[0].set_result(None)
    assert not rig.loop.readers
    assert not rig.loop.writers
    rig.server.emit(StopEvent())
    rig.server.close()


def test_coroutine_that_does_not_wait_answers_at_once_and_its_event_travels_with_the_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def tell(ctx: Any) -> dict[str, object]:
        ctx.vm.events.emit(StopEvent())
        return {"told": True}

    async def fail(ctx: Any) -> dict[str, object]:
        raise VmmdError("no")

    monkeypatch.setitem(COMMANDS, "x-tell", CommandSpec("x-tell", tell, "0"))
    monkeypatch.setitem(COMMANDS, "x-fail", CommandSpec("x-fail", fail, "0"))
    rig = Rig()
    writes: list[bytes] = []
    write = rig.stream.write
    monkeypatch.setattr(rig.stream, "write", lambda data: writes.append(bytes(data)) or write(data))
    rig.arrive(b'{"execute":"x-tell"}')
    assert len(writes) == 1  # nothing was posted, and the client is woken once
    event, reply = rig.stream.messages()
    assert event["event"] == "STOP"
    assert reply == {"return": {"told": True}}
    assert rig.exchange(b'{"execute":"x-fail","id":2}')[0]["error"]["desc"] == "no"
    assert rig.exchange(status(3))[0]["id"] == 3


def test_event_during_a_command_that_waits_goes_out_before_the_command_ends(gate: list[Any]) -> None:
    rig = Rig()
    rig.arrive(b'{"execute":"x-wait","id":1}')
    rig.server.emit(StopEvent())
    rig.loop.run_posted()
    assert [each["event"] for each in rig.stream.messages()] == ["STOP"]
    gate[0].set_result(None)
    rig.loop.run_posted()
    assert ids(rig.stream.messages()) == [1]


def test_quit_answers_in_the_same_step_before_the_daemon_closes() -> None:
    """W23."""
    rig = Rig()
    rig.vm.on_end = lambda status: rig.loop.post(rig.server.close)
    rig.arrive(b'{"execute":"quit"}')
    rig.loop.run_posted()
    event, reply = rig.stream.messages()
    assert event["event"] == "SHUTDOWN"
    assert reply == {"return": {}}
    assert rig.stream.closed


def test_pretty_sessions_get_indented_messages() -> None:
    rig = Rig(None, pretty=True)
    assert bytes(rig.stream.sent).startswith(b'{\r\n    "QMP": {\r\n')
    rig.stream.sent.clear()
    rig.arrive(b'{"execute":"qmp_capabilities"}')
    rig.server.emit(PowerdownEvent())
    text = bytes(rig.stream.sent)
    assert text.count(b'\r\n    "') == 3
    assert text.endswith(b'    "event": "POWERDOWN"\r\n}\r\n')


def test_greeting_can_have_been_sent_before() -> None:
    loop = ManualLoop()
    stream = FakeStream()
    QmpServer(FakeVm(loop), loop).serve(stream, greeted=True)
    assert not stream.sent


# -- events ------------------------------------------------------------------------------------------------------------


def test_rate_limited_event_sends_the_first_and_then_the_last() -> None:
    """W33."""
    rig = Rig()
    for offset in range(5):
        rig.server.emit(RtcChangeEvent(offset, "/machine/rtc"))
    assert [each["data"]["offset"] for each in rig.stream.messages()] == [0]
    ((delay_ns, _callback, _args),) = rig.loop.timers
    assert delay_ns == 1_000_000_000
    rig.loop.fire_timers()
    assert [each["data"] for each in rig.stream.messages()] == [{"offset": 4, "qom-path": "/machine/rtc"}]
    rig.server.emit(RtcChangeEvent(9, "/machine/rtc"))
    assert rig.stream.messages() == []
    rig.loop.fire_timers()
    rig.loop.fire_timers()
    assert [each["data"]["offset"] for each in rig.stream.messages()] == [9]
    assert not rig.loop.timers
    rig.server.emit(RtcChangeEvent(10, "/machine/rtc"))
    assert len(rig.stream.messages()) == 1


def test_events_that_are_not_limited_are_all_sent() -> None:
    rig = Rig()
    for _turn in range(10):
        rig.server.emit(StopEvent())
        rig.server.emit(ShutdownEvent(guest=True, reason="guest-shutdown"))
    assert len(rig.stream.messages()) == 20


def test_events_of_other_threads_are_posted_in_order_and_limited_ones_do_not_pile_up() -> None:
    rig = Rig()

    def emit() -> None:
        for offset in range(1000):
            rig.server.emit(RtcChangeEvent(offset, "/machine/rtc"))
        rig.server.emit(StopEvent())

    thread = threading.Thread(target=emit)
    thread.start()
    thread.join()
    assert rig.stream.messages() == []
    assert len(rig.loop.posted) == 2
    rig.loop.run_posted()
    rtc, stop = rig.stream.messages()
    assert rtc["data"]["offset"] == 999
    assert stop["event"] == "STOP"


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_client_beyond_the_cap_gets_one_error_line() -> None:
    with Monitor(max_clients=2) as monitor:
        first, second = monitor.connect(), monitor.connect()
        assert b"QMP" in first.recv(1000)
        assert b"QMP" in second.recv(1000)
        third = monitor.connect()
        text = third.makefile("rb").read()
        assert text == b'{"error": {"class": "GenericError", "desc": "This monitor has 2 clients already"}}\r\n'
        third.close()
        first.close()
        while True:
            fourth = monitor.connect()
            answer = fourth.recv(1000)
            fourth.close()
            if b"QMP" in answer:  # as soon as the server has seen that the first one is gone
                break
        second.close()


def test_fifty_clients_are_served_side_by_side() -> None:
    with Monitor(max_clients=50) as monitor:
        clients = [monitor.connect() for _turn in range(50)]
        files = [each.makefile("rb") for each in clients]
        for sock in clients:
            sock.sendall(b'{"execute":"qmp_capabilities"}\n' + status(1))
        for file in files:
            assert [b"QMP" in file.readline(), b"return" in file.readline(), b'"id": 1' in file.readline()] == [
                True
            ] * 3
        assert monitor.call(lambda: len(monitor.listener.clients)) == 50
        assert monitor.listener.connected
        for sock, file in zip(clients, files, strict=True):
            file.close()
            sock.close()


def test_connection_is_taken_and_greeted_before_the_loop_runs() -> None:
    loop = ManualLoop()
    listening, path = socket.socket(socket.AF_UNIX), f"\0vmmd-test-{os.getpid()}"
    listening.bind(path)
    listening.listen()
    server = QmpServer(FakeVm(loop), loop)
    listener = server.listen(listening)
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    listener.accept()
    assert b"QMP" in client.recv(1000)
    server.close()
    assert client.recv(1000) == b""
    client.close()


def test_connected_socket_and_descriptor_pairs_are_served() -> None:
    with Monitor() as monitor:
        ours, theirs = socket.socketpair()
        monitor.call(lambda: monitor.server.connect_client(theirs))
        assert b"QMP" in ours.recv(1000)
        ours.close()
        to_server, from_server = os.pipe(), os.pipe()
        monitor.call(lambda: monitor.server.add_stream(to_server[0], from_server[1]))
        assert b"QMP" in os.read(from_server[0], 1000)
        os.write(to_server[1], b'{"execute":"qmp_capabilities"}')
        assert os.read(from_server[0], 1000) == b'{"return": {}}\r\n'
        os.close(to_server[1])
        assert os.read(from_server[0], 1000) == b""
        os.close(from_server[0])


def test_borrowed_descriptors_stay_open_and_get_their_blocking_mode_back() -> None:
    loop = ManualLoop()
    reading, writing = os.pipe()
    connection = QmpServer(FakeVm(loop), loop).add_stream(reading, writing, owned=False)
    assert not os.get_blocking(writing)
    connection.close()
    assert os.get_blocking(reading)
    assert os.get_blocking(writing)
    os.close(reading)
    os.close(writing)


# -- hostile clients ---------------------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b'{"execute":"query-status"}', b'{"execute":', b'"arguments":', b"{", b"}", b"[", b"]", b'"', b"'", b"\\",
            b"\n", b"\xff", b"\x00", b'{"execute":"human-monitor-command","arguments":{"command-line":"info status"}}',
            b'{"execute":"qmp_capabilities"}', b'{"execute":"stop","id":[1,{"a":null}]}', b'{"exec-oob":"stop"}',
        ]
    ),
)  # fmt: skip


@given(st.lists(PIECES, max_size=30), st.booleans())
def test_random_input_never_breaks_a_session(pieces: list[bytes], negotiated: bool) -> None:
    rig = Rig() if negotiated else Rig(None)
    rig.arrive(*(piece for piece in pieces if piece))
    rig.stream.messages()
    rig.arrive(b"\xff\n", b'{"execute":"query-name","id":"last"}')
    assert rig.stream.messages()[-1]["id"] == "last"
    assert not rig.stream.closed


@pytest.mark.kvm
def test_first_command_with_arguments_waits_for_its_models_while_others_are_served(tmp_path: Path) -> None:
    """In a process of its own, because here pydantic has been imported long ago."""
    path = tmp_path / "monitor"
    argv = [sys.executable, "-m", "vmmd", "-machine", "none", "-S", "-nodefaults", "-display", "none"]
    argv += ["-qmp", f"unix:{path},server=on,wait=off"]
    process = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
    try:
        with connect_when_there(path) as first, connect_when_there(path) as second:
            for client in (first, second):
                client.sendall(b'{"execute":"qmp_capabilities"}')
                assert read_line(client)["return"] == {}
            hmp = b'{"execute":"human-monitor-command","arguments":{"command-line":"info name"},"id":%d}'
            first.sendall(hmp % 1 + b'{"execute":"query-name","id":2}' + hmp % 3)
            second.sendall(b'{"execute":"query-status"}')
            assert read_line(second)["return"]["status"] == "prelaunch"
            assert [read_line(first)["id"] for _ in range(3)] == [1, 2, 3]
            bad = b'{"execute":"human-monitor-command","arguments":{"command-line":7}}'
            first.sendall(bad)
            assert "Invalid parameter type for 'command-line'" in read_line(first)["error"]["desc"]
    finally:
        process.terminate()
        assert process.wait(10) == 0


def connect_when_there(path: Path) -> socket.socket:
    deadline = time.monotonic() + 20
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            assert time.monotonic() < deadline
            time.sleep(0.01)
            continue
        assert "QMP" in read_line(client)
        return client


def read_line(client: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        part = client.recv(1)
        assert part, "the monitor closed"
        line += part
    return json.loads(line)


@pytest.mark.parametrize("oob", [False, True])
def test_client_with_many_commands_lets_others_have_their_turn(oob: bool) -> None:
    rig = Rig(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}') if oob else Rig()
    count = TURN_MESSAGES * 2 + 5
    rig.arrive(b"".join(map(status, range(count))))
    first = ids(rig.stream.messages())
    assert 0 < len(first) <= TURN_MESSAGES
    rig.arrive(status(count))
    rig.loop.run_posted()
    rig.arrive()
    rig.loop.run_posted()
    assert first + ids(rig.stream.messages()) == [*range(count + 1)]
    assert rig.reading

# SPDX-License-Identifier: Apache-2.0
"""Character devices that come, change and go over QMP; yank out of band; nothing is left behind by what fails."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.qmp_support import Client, Monitor
from vmmd.core.backend import CharEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NULL = {"type": "null", "data": {}}
WAIT_FOR_CLIENT = (
    b'{"execute": "chardev-add", "id": 1, "arguments": {"id": "s", "backend": {"type": "socket", "data": '
    b'{"addr": {"type": "unix", "data": {"path": "%s/s"}}, "wait": true}}}}'
)


class FixedFrontend:
    """A device behind a character device, which it keeps for ever."""

    def __init__(self) -> None:
        self.backend: Any = None
        self.received = b""
        self.events: list[CharEvent] = []
        self.room = 1 << 20
        self.ready = 0

    def can_receive(self) -> int:
        return self.room - len(self.received)

    def receive(self, data: bytes) -> None:
        self.received += data

    def handle_event(self, event: CharEvent) -> None:
        self.events.append(event)

    def write_ready(self) -> None:
        self.ready += 1


class Frontend(FixedFrontend):
    """One whose character device may change."""

    def replace_backend(self, backend: Any) -> None:
        self.backend = backend


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with Monitor() as found:
        yield found


@pytest.fixture
def client(monitor: Monitor) -> Iterator[Client]:
    found = Client(monitor)
    yield found
    found.close()


def add(client: Client, id_: str, kind: str, **data: object) -> Any:
    return client.run("chardev-add", id=id_, backend={"type": kind, "data": data})


def change(client: Client, id_: str, kind: str, **data: object) -> Any:
    return client.run("chardev-change", id=id_, backend={"type": kind, "data": data})


def hmp(client: Client, line: str) -> Any:
    return client.run("human-monitor-command", command_line=line)


def unix(path: object, **more: object) -> dict[str, Any]:
    return {"addr": {"type": "unix", "data": {"path": str(path)}}, **more}


def plug(monitor: Monitor, id_: str, kind: type[FixedFrontend] = Frontend) -> Any:
    frontend = kind()

    def attach() -> None:
        frontend.backend = monitor.vm.chardevs[id_]
        frontend.backend.attach(frontend)
        frontend.backend.set_open(True)

    monitor.call(attach)
    return frontend


def labels(client: Client) -> set[str]:
    return {each["label"] for each in client.run("query-chardev")}


def connect(path: object) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(str(path))
    return sock


def test_every_kind_is_added_and_removed(client: Client, tmp_path: Path) -> None:
    assert add(client, "n", "null") == {}
    assert add(client, "f", "file", out=str(tmp_path / "out"), logfile=str(tmp_path / "log")) == {}
    assert add(client, "r", "ringbuf", size=64) == {}
    assert add(client, "m", "memory") == {}
    assert os.path.exists(add(client, "p", "pty")["pty"])
    assert add(client, "s", "socket", **unix(tmp_path / "s")) == {}
    inet = {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
    assert add(client, "t", "socket", addr=inet, wait=False, nodelay=True) == {}
    assert {"n", "f", "r", "m", "p", "s", "t"} <= labels(client)
    for each in "nfrmpst":
        assert client.run("chardev-remove", id=each) == {}
    assert labels(client) == {"c0"}
    assert not os.path.exists(tmp_path / "s")


def test_refusals(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    assert add(client, "n", "null") == {}
    plug(monitor, "n")
    assert add(client, "n", "null") == "Chardev with id 'n' already exists"
    assert client.run("chardev-remove", id="x") == "Chardev 'x' not found"
    assert client.run("chardev-remove", id="n").startswith("Chardev 'n' is busy")
    assert client.run("chardev-send-break", id="x") == "Chardev 'x' not found"
    assert change(client, "x", "null").startswith("Chardev 'x' does not exist")
    failed = "Failed to add chardev 'f': Could not open '/nonexistent/x': No such file or directory"
    assert add(client, "f", "file", out="/nonexistent/x") == failed
    failed = f"Failed to add chardev 'f': Failed to connect to '{tmp_path}/x': No such file or directory"
    assert add(client, "f", "socket", **unix(tmp_path / "x", server=False)) == failed
    assert "power of two" in add(client, "f", "ringbuf", size=17)
    assert "size" in add(client, "f", "ringbuf", size=-16)
    assert add(client, "f", "bogus").startswith("Parameter 'type' does not accept value 'bogus'; it takes file, ")
    assert client.run("chardev-add", id="f", backend={"type": "null"}) == "Parameter 'backend.data' is missing"
    assert add(client, "f", "null", x=1) == "Parameter 'backend.data.x' is unexpected"
    assert add(client, "f", "file") == "Parameter 'backend.data.out' is missing"
    assert add(client, "f", "socket", **unix(tmp_path / "x", telnet=True)).endswith("telnet' is unexpected")
    assert "'wait' is for server=on only" in add(client, "f", "socket", **unix(tmp_path / "x", server=False, wait=True))
    assert "'reconnect' is for a client" in add(client, "f", "socket", **unix(tmp_path / "x", reconnect=1))
    assert labels(client) == {"c0", "n"}
    assert os.listdir(tmp_path) == []


def test_a_log_that_cannot_be_made_leaves_no_file(client: Client, tmp_path: Path) -> None:
    data = {"out": str(tmp_path / "out"), "logfile": "/nonexistent/log"}
    assert "Could not create '/nonexistent/log'" in add(client, "f", "file", **data)
    assert os.listdir(tmp_path) == []


def test_a_socket_by_the_name_of_getfd(client: Client, monitor: Monitor) -> None:
    ours, theirs = socket.socketpair()
    named = {"addr": {"type": "fd", "data": {"str": "sk"}}, "server": False}
    assert add(client, "s", "socket", **named).startswith("File descriptor named 'sk' has not been found")
    assert client.run("getfd", [theirs.fileno()], fdname="sk") == {}
    theirs.close()
    assert add(client, "s", "socket", **named) == {}
    assert add(client, "s2", "socket", **named).startswith("File descriptor named 'sk' has not been found")
    frontend = plug(monitor, "s")
    monitor.call(lambda: frontend.backend.write(b"hello"))
    ours.settimeout(10)
    assert ours.recv(100) == b"hello"
    ours.close()


def test_a_line_for_people_takes_a_descriptor_by_name_too(client: Client, monitor: Monitor) -> None:
    """A number would be that of any descriptor of this process, the monitor's own sockets among them."""
    ours, theirs = socket.socketpair()
    numbered = hmp(client, f"chardev-add socket,id=s,fd={theirs.fileno()}")
    assert numbered.startswith(f"Error: File descriptor named '{theirs.fileno()}' has not been found")
    assert hmp(client, "chardev-add null,id=s") == ""
    numbered = hmp(client, f"chardev-change s socket,fd={theirs.fileno()}")
    assert numbered.startswith(f"Error: File descriptor named '{theirs.fileno()}' has not been found")
    frontend = plug(monitor, "s")
    assert client.run("getfd", [theirs.fileno()], fdname="sk") == {}
    theirs.close()
    assert hmp(client, "chardev-change s socket,fd=sk") == ""
    assert client.run("closefd", fdname="sk").startswith("File descriptor named 'sk' not found")
    monitor.call(lambda: frontend.backend.write(b"hello"))
    ours.settimeout(10)
    assert ours.recv(100) == b"hello"
    ours.close()


def test_a_descriptor_that_is_no_socket_stays_the_sessions(client: Client) -> None:
    assert client.run("getfd", [0], fdname="nul") == {}
    named = {"addr": {"type": "fd", "data": {"str": "nul"}}, "server": False}
    assert "is not a socket" in add(client, "s", "socket", **named)
    assert client.run("closefd", fdname="nul") == {}


def test_with_wait_the_reply_comes_with_the_first_client(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    client.send(WAIT_FOR_CLIENT % os.fsencode(tmp_path))
    other = Client(monitor)
    while "s" not in labels(other):
        pass
    client.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    client.sock.settimeout(10)
    peer = connect(tmp_path / "s")
    assert client.sock.recv(100) == b'{"return": {}, "id": 1}\r\n'
    peer.close()
    other.close()


@pytest.mark.parametrize("pipelined", [b"", b'{"execute": "query-status"}'])
def test_who_leaves_while_it_waits_for_a_first_client_is_given_back(
    client: Client, monitor: Monitor, tmp_path: Path, pipelined: bytes
) -> None:
    """Nothing is read of a session that has commands behind the one that waits, and still its end is seen."""
    leaver = Client(monitor)
    leaver.send(WAIT_FOR_CLIENT % os.fsencode(tmp_path) + pipelined)
    while "s" not in labels(client):
        pass
    leaver.close()
    deadline = time.monotonic() + 10
    while "s" in labels(client) or monitor.call(lambda: len(monitor.listener.clients)) > 1:
        assert time.monotonic() < deadline
    assert not (tmp_path / "s").exists()


def test_who_sends_no_more_does_not_wait_for_ever(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    leaver = Client(monitor)
    leaver.send(WAIT_FOR_CLIENT % os.fsencode(tmp_path))
    while "s" not in labels(client):
        pass
    plug(monitor, "s")
    leaver.sock.shutdown(socket.SHUT_WR)
    assert leaver.reply() == "Failed to add chardev 's': the client of the monitor has left"
    assert leaver.sock.recv(1) == b""
    leaver.close()
    assert "s" in labels(client)  # it has got a user meanwhile


def test_a_wait_that_cannot_be_watched_leaves_no_device(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_size: int) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("vmmd.qmp.streams.select", SimpleNamespace(epoll=refuse))
    client.send(WAIT_FOR_CLIENT % os.fsencode(tmp_path))
    assert client.reply() == "Failed to add chardev 's': cannot watch its client: Too many open files"
    assert "s" not in labels(client)


def test_ringbuf(client: Client) -> None:
    assert add(client, "rb", "ringbuf", size=16) == {}

    def read(size: int, **more: object) -> Any:
        return client.run("ringbuf-read", device="rb", size=size, **more)

    def write(data: str, **more: object) -> Any:
        return client.run("ringbuf-write", device="rb", data=data, **more)

    assert read(5) == ""
    assert write("hello") == {}
    assert (read(2), read(100)) == ("he", "llo")
    assert write("0123456789abcdefXYZ") == {}
    assert read(100) == "3456789abcdefXYZ"
    assert write("aGk=", format="base64") == {}
    assert read(100) == "hi"
    assert write("é€") == {}
    assert read(3) == "é\ufffd"
    assert read(100, format="base64") == "gqw="
    for bad in ("!!", "aGk", "a"):
        assert write(bad, format="base64").startswith("Base64 data contains invalid characters")
    assert read(0) == read(-1) == "size must be greater than zero"
    assert client.run("ringbuf-read", device="zz", size=1) == "Device 'zz' not found"
    assert client.run("ringbuf-write", device="c0", data="x") == "c0 is not a ringbuf device"


def test_change_keeps_the_frontend_and_what_was_written(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert add(client, "c", "file", out=str(first)) == {}
    frontend = plug(monitor, "c")
    monitor.call(lambda: frontend.backend.write(b"before"))
    assert change(client, "c", "file", out=str(second)) == {}
    assert frontend.backend is monitor.vm.chardevs["c"]
    monitor.call(lambda: frontend.backend.write(b"after"))
    assert client.run("chardev-remove", id="c").startswith("Chardev 'c' is busy")
    monitor.call(lambda: frontend.backend.detach())
    assert client.run("chardev-remove", id="c") == {}
    assert (first.read_bytes(), second.read_bytes()) == (b"before", b"after")
    assert frontend.events[:3] == [CharEvent.OPENED, CharEvent.CLOSED, CharEvent.OPENED]


def test_change_that_fails_changes_nothing(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    assert add(client, "c", "ringbuf") == {}
    frontend = plug(monitor, "c")
    old = frontend.backend
    failed = "Could not open '/nonexistent/x': No such file or directory"
    assert change(client, "c", "file", out="/nonexistent/x") == failed
    assert change(client, "c", "socket", **unix(tmp_path / "x", wait=True)).endswith("leave wait out")
    assert frontend.backend is old
    assert old.frontend is frontend
    monitor.call(lambda: old.write(b"still"))
    assert client.run("ringbuf-read", device="c", size=10) == "still"
    assert os.listdir(tmp_path) == []


def test_change_delivers_what_the_old_peer_had_sent(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    assert add(client, "c", "socket", **unix(tmp_path / "s")) == {}
    frontend = plug(monitor, "c")
    frontend.room = 0
    with contextlib.closing(connect(tmp_path / "s")) as peer:
        peer.sendall(b"typed ahead")
        while not frontend.backend._paused:
            pass
        assert change(client, "c", "socket", **unix(tmp_path / "s2")) == {}
        assert peer.recv(10) == b""
    frontend.room = 100
    monitor.call(lambda: frontend.backend.accept_input())
    with contextlib.closing(connect(tmp_path / "s2")) as peer:
        peer.sendall(b", and more")
        while len(frontend.received) < 21:
            pass
    assert frontend.received == b"typed ahead, and more"


def test_change_wakes_a_frontend_that_waited_for_room(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    assert add(client, "c", "socket", **unix(tmp_path / "s")) == {}
    frontend = plug(monitor, "c")
    peer = connect(tmp_path / "s")
    wait_connected(monitor, "c")
    while monitor.call(lambda: frontend.backend.write(b"x" * 65536)):
        pass
    assert frontend.ready == 0
    assert change(client, "c", "null") == {}
    assert frontend.ready == 1
    peer.close()


def test_a_frontend_that_cannot_change_is_refused(client: Client, monitor: Monitor) -> None:
    assert add(client, "c", "null") == {}
    frontend = plug(monitor, "c", FixedFrontend)
    assert change(client, "c", "null").startswith("Chardev user does not support chardev hotswap")
    assert frontend.backend.frontend is frontend


def wait_connected(monitor: Monitor, id_: str) -> None:
    while monitor.call(lambda: monitor.vm.chardevs[id_].filename).startswith("disconnected"):
        pass


def test_send_break(client: Client, monitor: Monitor) -> None:
    assert add(client, "c", "null") == {}
    frontend = plug(monitor, "c")
    assert client.run("chardev-send-break", id="c") == {}
    assert CharEvent.BREAK in frontend.events


def test_yank(client: Client, monitor: Monitor, tmp_path: Path) -> None:
    assert add(client, "s", "socket", **unix(tmp_path / "s")) == {}
    assert client.run("query-yank") == [{"type": "chardev", "id": "s"}]
    peer = connect(tmp_path / "s")
    wanted = {"type": "chardev", "id": "s"}
    unknown = client.run("yank", instances=[wanted, {"type": "chardev", "id": "c0"}])
    assert unknown.startswith("Instance not found")
    wait_connected(monitor, "s")
    assert client.run("yank", instances=[wanted]) == {}
    assert peer.recv(10) == b""
    assert client.run("yank", instances=[]) == {}
    assert client.run("yank", instances=[{"type": "chardev"}]) == "Parameter 'instances[0].id' is missing"
    peer.close()


def test_out_of_band_runs_while_an_in_band_command_waits(monitor: Monitor, tmp_path: Path) -> None:
    client = Client(monitor, oob=True)
    assert add(client, "s", "socket", **unix(tmp_path / "s")) == {}
    peer = connect(tmp_path / "s")
    wait_connected(monitor, "s")
    client.send(
        b'{"execute": "chardev-add", "id": "slow", "arguments": {"id": "w", "backend": {"type": "socket", "data": '
        b'{"addr": {"type": "unix", "data": {"path": "%s/w"}}, "wait": true}}}}' % os.fsencode(tmp_path)
    )
    client.send(b'{"execute": "query-name", "id": "behind"}')
    client.send(b'{"exec-oob": "yank", "id": "y", "arguments": {"instances": [{"type": "chardev", "id": "s"}]}}')
    client.send(b'{"exec-oob": "query-yank", "id": "q"}')
    assert client.message() == {"return": {}, "id": "y"}
    assert client.message()["id"] == "q"
    assert peer.recv(10) == b""
    connect(tmp_path / "w").close()
    assert [client.message()["id"], client.message()["id"]] == ["slow", "behind"]
    client.close()
    peer.close()


def test_transaction(client: Client) -> None:
    assert client.run("transaction", actions=[]) == {}
    abort = {"type": "abort", "data": {}}
    assert client.run("transaction", actions=[abort]) == "Transaction aborted using Abort action"
    assert client.run("transaction", actions=[{"type": "abort"}]) == "Parameter 'actions[0].data' is missing"
    assert client.run("transaction", actions=[abort] * 1025) == "A transaction has at most 1024 actions"


@pytest.mark.parametrize("hmp", [False, True])
def test_who_makes_a_terminal_is_told_where_it_is(client: Client, capfd: pytest.CaptureFixture[str], hmp: bool) -> None:
    """Stdout is not: when nobody reads it, a running process would be held up, or no terminal could be made."""
    if hmp:
        told = client.run("human-monitor-command", command_line="chardev-add pty,id=p")
        path = told.removeprefix("char device redirected to ").removesuffix(" (label p)\r\n")
    else:
        path = add(client, "p", "pty")["pty"]
    assert os.path.exists(path)
    assert capfd.readouterr().out == ""

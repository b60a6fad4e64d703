# SPDX-License-Identifier: Apache-2.0
"""``-netdev stream``, ``dgram`` and ``socket``: options, connections that come and go, what is left behind."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import socket
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from tests.unit.net_support import FakeNic, Rig, TurnLoop, options, views
from tests.unit.qmp_support import Client, Monitor
from vmmd.core import sockets
from vmmd.core.events import NetdevStreamConnectedEvent, NetdevStreamDisconnectedEvent
from vmmd.errors import UsageError, VmmdError
from vmmd.eventloop import EventLoopPort
from vmmd.net.dgram import DgramQueue, Way
from vmmd.net.stream_queue import StreamQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

TIMEOUT_S = 30
FRAME = bytes(range(64))
WIRE = struct.pack(">I", len(FRAME)) + FRAME

WRONG = """\
stream,id=n|Parameter 'addr' is missing
stream,id=n,addr.type=inet|Parameter 'addr.host' is missing
stream,id=n,addr.type=inet,addr.host=127.0.0.1|Parameter 'addr.port' is missing
stream,id=n,addr.type=unix|Parameter 'addr.path' is missing
stream,id=n,addr.path=/x|Parameter 'addr.type' is missing
stream,id=n,addr.type=unix,addr.path=/x,addr.foo=1|Parameter 'addr.foo' is unexpected
stream,id=n,addr.type=inet,addr.host=x,addr.port=1,addr.path=/x|Parameter 'addr.path' is unexpected
dgram,id=n|dgram requires local= parameter
dgram,id=n,local.type=inet,local.host=127.0.0.1,local.port=1999|type=inet or type=unix requires remote parameter
dgram,id=n,remote.type=inet,remote.host=127.0.0.1,remote.port=1999|dgram requires local= parameter
dgram,id=n,remote.type=unix,remote.path=/tmp/x|dgram requires local= parameter
dgram,id=n,local.type=unix,local.path=/x,remote.@,remote.port=9|remote and local types must be the same
dgram,id=n,local.type=fd,local.str=0,remote.type=inet,remote.host=1.2.3.4,remote.port=5|don't set remote with local.fd
dgram,id=n,local.@,local.port=http,remote.@,remote.port=3|port number 'http' is invalid
socket,id=n|exactly one of listen=, connect=, mcast= or udp= is required
socket,id=n,listen=:1,connect=:2|exactly one of listen=, connect=, mcast= or udp= is required
socket,id=n,listen=foo|host address 'foo' doesn't contain ':' separating host from port
socket,id=n,connect=127.0.0.1|host address '127.0.0.1' doesn't contain ':' separating host from port
socket,id=n,connect=127.0.0.1:http|port number 'http' is invalid
socket,id=n,mcast=230.0.0.1:1999,localaddr=nohost.invalid|localaddr 'nohost.invalid' is not a valid IPv4 address
socket,id=n,udp=127.0.0.1:1999|localaddr= is mandatory with udp=
socket,id=n,listen=:1999,localaddr=127.0.0.1|localaddr= is only valid with mcast= or udp=
socket,id=n,udp=127.0.0.1:1,localaddr=127.0.0.1|host address '127.0.0.1' doesn't contain ':' separating host from port
"""
#: written short above
_SHORT = {f"{end}.@": f"{end}.type=inet,{end}.host=127.0.0.1" for end in ("local", "remote")}


def _long(line: str) -> list[str]:
    for short, words in _SHORT.items():
        line = line.replace(short, words)
    return line.split("|")


_WRONG = [_long(line) for line in WRONG.splitlines()]


@pytest.mark.parametrize(("words", "sentence"), _WRONG)
def test_wrong_keys_are_refused(words: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(words)
    assert caught.value.desc == f"-netdev {words.partition(',')[0]},id=n: {sentence}"


@pytest.mark.qemu
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
@pytest.mark.parametrize(("words", "sentence"), _WRONG)
def test_qemu_says_the_same(words: str, sentence: str) -> None:
    line = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-netdev", words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.stderr == f"qemu-system-x86_64: -netdev {words}: {sentence}\n"


@pytest.mark.parametrize(
    "words",
    ["stream,id=n,addr.type=vsock,addr.cid=2,addr.port=1",
     "stream,id=n,addr.type=inet,addr.host=a,addr.port=1,addr.mptcp=on",
     "stream,id=n,addr.type=inet,addr.host=a,addr.port=1,addr.to=5", "stream,id=n,addr.type=bogus",
     "stream,id=n,addr.type=unix,addr.path=/x,reconnect=1", f"stream,id=n,addr.type=unix,addr.path=/{'x' * 120}",
     "dgram,id=n,local.type=inet,local.host=a,local.port=1,local.to=5,remote.type=inet,remote.host=a,remote.port=1",
     "socket,id=n,listen=:99999", "socket,id=n,mcast=127.0.0.1:1"],
)  # fmt: skip
def test_what_is_not_there_is_refused(words: str) -> None:
    with pytest.raises(UsageError):
        options(words)


def test_json_and_dotted_keys_mean_the_same() -> None:
    dotted: Any = options("stream,id=n,server=on,addr.type=inet,addr.host=h,addr.port=5,addr.to=9,addr.ipv4=on")
    text = '{"type":"stream","id":"n","server":true,"addr":{"type":"inet","host":"h","port":"5","to":9,"ipv4":true}}'
    json: Any = options(text)
    assert json == dotted
    assert (json.addr.host, json.addr.port, json.addr.to, json.addr.ipv4) == ("h", "5", 9, True)
    for wrong in ('"addr":"foo"', '"addr":{}', '"addr":{"type":"inet","host":"h","port":5}'):
        with pytest.raises(UsageError):
            options(f'{{"type":"stream","id":"n",{wrong}}}')


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.network.close()
    assert not made.loop.readers
    assert not made.loop.writers


def with_nic(rig: Rig, *words: str) -> tuple[Any, FakeNic]:
    netdev = rig.add(*words)
    nic = FakeNic()
    rig.connect(nic, netdev.id)
    nic.use(netdev.queues[0])
    return netdev, nic


def unix_client(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT_S)
    sock.connect(path)
    return sock


def test_a_server_serves_one_peer_after_the_other(rig: Rig, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    netdev, nic = with_nic(rig, "stream,id=n,server=on", "addr.type=unix", f"addr.path={path}")
    assert not netdev.link_up
    assert netdev.describe(0) == ""
    assert netdev.queues[0].write(views(b"lost"))
    assert netdev.queues[0].dropped == 1
    first, second = unix_client(path), unix_client(path)
    rig.loop.until(lambda: netdev.link_up)
    assert netdev.describe(0) == f"unix:{path}"
    second.sendall(WIRE)  # waits
    first.sendall(WIRE[:20])
    rig.loop.turn()
    assert not nic.frames
    first.close()
    rig.loop.until(lambda: bool(nic.frames))
    assert nic.frames == [FRAME]
    assert netdev.queues[0].write(views(FRAME))
    assert second.recv(100) == WIRE
    rig.network.set_link("n0", up=False)
    second.close()
    rig.loop.until(lambda: not netdev.link_up)
    assert nic.links == [True, False, True, False, False]
    rig.network.set_link("n0", up=True)
    assert nic.links[-1] is False  # there is no peer
    peer = {"type": "unix", "path": path}
    came, went = NetdevStreamConnectedEvent("n", peer), NetdevStreamDisconnectedEvent("n")  # type: ignore[arg-type]
    assert rig.events == [came, went, came, went]


def test_a_server_pauses_while_there_are_no_descriptors(rig: Rig, tmp_path: Path, monkeypatch: Any) -> None:
    def no_room(_sock: socket.socket) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path = str(tmp_path / "s")
    netdev, _ = with_nic(rig, "stream,id=n,server=on", "addr.type=unix", f"addr.path={path}")
    with unix_client(path):
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "accept", no_room)
            for _ in range(2):
                rig.loop.turn()
                assert not rig.loop.readers
                assert [delay_ns for delay_ns, _ in rig.loop.later] == [sockets.RETRY_ACCEPT_NS]
                rig.loop.run_later()
                assert rig.loop.readers
        rig.loop.until(lambda: netdev.link_up)
    rig.loop.until(lambda: not netdev.link_up)
    monkeypatch.setattr(socket.socket, "accept", no_room)
    with unix_client(path):
        rig.loop.turn()
        netdev.stop()
        rig.loop.run_later()
        assert not rig.loop.readers


def test_a_client_goes_on_without_its_server(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        port = listener.getsockname()[1]
        netdev, nic = with_nic(rig, f"stream,id=n,addr.type=inet,addr.host=127.0.0.1,addr.port={port}")
        assert netdev.link_up
        assert netdev.describe(0) == f"tcp:127.0.0.1:{port}"
        server, _ = listener.accept()
        server.close()
        rig.loop.until(lambda: not netdev.link_up)
    assert netdev.queues[0].write(views(FRAME))
    assert nic.links == [False]


def test_nobody_to_connect_to_is_an_error(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(VmmdError, match=r"Failed to connect to '/.*nobody': No such file or directory"):
        rig.add("stream,id=n,addr.type=unix", f"addr.path={tmp_path}/nobody")
    with pytest.raises(VmmdError, match="can't bind unix="):
        rig.add("dgram,id=n,local.type=unix,local.path=/nowhere/x,remote.type=unix,remote.path=/y")


def test_socket_files_go_and_those_that_nobody_uses_are_replaced(rig: Rig, tmp_path: Path) -> None:
    stale, busy = tmp_path / "stale", tmp_path / "busy"
    for kind, words in (
        (socket.SOCK_STREAM, "stream,id=n,server=on,addr.type=unix,addr.path={}"),
        (socket.SOCK_DGRAM, "dgram,id=n,local.type=unix,local.path={},remote.type=unix,remote.path=/x"),
    ):
        with socket.socket(socket.AF_UNIX, kind) as old:
            old.bind(str(stale))
        netdev = rig.add(words.format(stale))
        assert stale.exists()
        netdev.stop()
        netdev.close()
        assert not stale.exists()
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(str(busy))
            if kind == socket.SOCK_STREAM:
                other.listen()
            with pytest.raises(VmmdError, match="Address already in use"):
                rig.add(words.format(busy))
        assert busy.exists()
        busy.unlink()
        del rig.network.netdevs["n"]


def test_sockets_that_are_passed_are_looked_at_first(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(True)
    with theirs, socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as idle:
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with datagram:
            for words, what in (
                (f"stream,id=n,addr.type=fd,addr.str={datagram.fileno()}", "is a datagram socket"),
                (f"stream,id=n,addr.type=fd,addr.str={listener.fileno()}", "is a listening socket"),
                (f"stream,id=n,server=on,addr.type=fd,addr.str={theirs.fileno()}", "does not listen"),
                (f"stream,id=n,addr.type=fd,addr.str={idle.fileno()}", "is not connected"),
                (f"dgram,id=n,local.type=fd,local.str={theirs.fileno()}", "is a stream socket"),
                (f"dgram,id=n,local.type=fd,local.str={datagram.fileno()}", "is not connected"),
                (f"socket,id=n,fd={listener.fileno()}", "is a listening socket"),
                (f"socket,id=n,fd={os.open('/dev/null', os.O_RDONLY)}", "is not a socket"),
            ):
                with pytest.raises(VmmdError, match=what):
                    Rig().add(words)
        fd = ours.detach()
        netdev, nic = with_nic(rig, f"socket,id=n,fd={fd}")
        assert netdev.describe(0) == f"socket: fd={fd}"
        theirs.sendall(WIRE)
        rig.loop.until(lambda: bool(nic.frames))
        assert not os.get_inheritable(fd)
    assert not rig.events


def test_a_client_hands_a_socket_over_by_name() -> None:
    monitor = Monitor()
    client = Client(monitor)
    ours, theirs = socket.socketpair()
    try:
        theirs.settimeout(TIMEOUT_S)
        with ours:
            assert client.run("getfd", [ours.fileno()], fdname="net") == {}
        request = {"type": "stream", "id": "n", "addr": {"type": "fd", "str": "net"}}
        client.send(json.dumps({"execute": "netdev_add", "arguments": request}).encode())
        assert client.reply() == {}
        monitor.call(lambda: monitor.vm.network().netdevs["n"].queues[0].write(views(FRAME)))
        assert theirs.recv(100) == WIRE
        assert client.run("netdev_del", id="n") == {}
        assert theirs.recv(100) == b""
        request["addr"] = {"type": "fd", "str": "net"}  # it was handed over
        client.send(json.dumps({"execute": "netdev_add", "arguments": request}).encode())
        assert "net" in str(client.reply())
        assert not monitor.vm.network().netdevs
    finally:
        theirs.close()
        client.close()
        monitor.close()


@pytest.mark.parametrize("kind", ["udp", "unix", "fd"])
def test_datagrams_go_both_ways_whatever_their_length(rig: Rig, tmp_path: Path, kind: str) -> None:
    if kind == "fd":
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        words, target = f"dgram,id=n,local.type=fd,local.str={ours.detach()}", None
    elif kind == "unix":
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        peer.bind(str(tmp_path / "peer"))
        target = str(tmp_path / "own")
        words = f"dgram,id=n,local.type=unix,local.path={target},remote.type=unix,remote.path={tmp_path}/peer"
    else:
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            target = free.getsockname()
        words = f"socket,id=n,udp=127.0.0.1:{peer.getsockname()[1]},localaddr=127.0.0.1:{target[1]}"
    with peer:
        peer.settimeout(TIMEOUT_S)
        _netdev, nic = with_nic(rig, words)
        for length in (1, 60, 1514, 30_000):
            frame = os.urandom(length)
            assert nic.queue.write([memoryview(frame)[: length // 2], memoryview(frame)[length // 2 :]])
            assert peer.recv(1 << 17) == frame
            if target is None:
                peer.send(frame)
            else:
                peer.sendto(frame, target)
            rig.loop.until(lambda: bool(nic.frames))
            assert nic.frames.pop() == frame
        assert nic.queue.write([memoryview(bytes(1 << 19))])  # no datagram is so long
        assert nic.queue.dropped == 1


# --- on the loop that vmmd really uses --------------------------------------------------------------------------------


def on_uvloop(scenario: Callable[[EventLoopPort], Coroutine[Any, Any, None]]) -> None:
    port = EventLoopPort()

    async def main() -> None:
        port.bind(asyncio.get_running_loop())
        await asyncio.wait_for(scenario(port), TIMEOUT_S)

    uvloop.run(main())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110  # the caller has a deadline
        await asyncio.sleep(0.002)


def test_nothing_can_be_read_while_the_link_is_cut() -> None:
    loop = TurnLoop()
    own, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with own, peer:
        own.setblocking(False)
        queue = DgramQueue(loop, Way(own, None, ""))
        nic = FakeNic()
        nic.use(queue)
        queue.set_cut(True)
        peer.send(FRAME)
        nic.readable()  # as when the driver rings
        assert not nic.frames
        loop.until(lambda: queue.dropped == 1)
        queue.stop()


def test_the_full_queue_of_a_unix_peer_holds_the_guest_back_without_spinning(tmp_path: Path) -> None:
    async def scenario(port: EventLoopPort) -> None:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own,
        ):
            peer.bind(str(tmp_path / "peer"))
            own.setblocking(False)
            own.bind(str(tmp_path / "own"))
            queue = DgramQueue(port, Way(own, str(tmp_path / "peer"), ""))
            went: list[bool] = []

            class Nic(FakeNic):
                def writable(self) -> None:
                    self.rooms += 1
                    went.append(queue.write(views(FRAME)))

            nic = Nic()
            queue.attach(nic)
            sent = 0
            while queue.write(views(FRAME)):
                sent += 1
            assert 0 < sent < 10_000
            await until(lambda: nic.rooms >= 6)  # after 1, 2, 4, … ms
            assert not any(went)
            for _ in range(sent):
                assert peer.recv(1000) == FRAME
            await until(lambda: any(went))
            assert peer.recv(1000) == FRAME
            assert nic.rooms < 20
            queue.stop()

    on_uvloop(scenario)


def test_a_refused_datagram_does_not_silence_a_connected_socket() -> None:
    """uvloop stops watching a socket with an error (ICMP: nobody is there)."""

    async def scenario(port: EventLoopPort) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
            first.bind(("127.0.0.1", 0))
            address = first.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.setblocking(False)
            own.connect(address)
            queue = DgramQueue(port, Way(own, None, ""))
            nic = FakeNic()
            nic.use(queue)
            for _ in range(3):
                assert queue.write(views(FRAME))
                await asyncio.sleep(0.01)
            assert queue.dropped
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind(address)
                peer.sendto(FRAME, own.getsockname())
                await until(lambda: nic.frames)
            assert nic.frames == [FRAME]
            queue.stop()

    on_uvloop(scenario)


def test_a_peer_that_left_without_reading_is_noticed_and_what_it_sent_is_there() -> None:
    async def scenario(port: EventLoopPort) -> None:
        ended: list[str] = []
        queue = StreamQueue(port, ended.append)
        nic = FakeNic()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        nic.use(queue)
        queue.serve(ours)
        assert queue.write(views(FRAME))  # it will not read this: the kernel marks our end with an error
        theirs.sendall(WIRE * 2000)
        theirs.close()
        await until(lambda: ended)
        queue.hang_up()
        await until(lambda: len(nic.frames) == 2000)

    on_uvloop(scenario)

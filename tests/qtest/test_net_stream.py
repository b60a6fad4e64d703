# SPDX-License-Identifier: Apache-2.0
"""A guest's NIC on netdevs over sockets, vmmd and QEMU: frames, peers that do not read, that send nonsense, that go.
And the process of a user network: it ends with vmmd, however that ends."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.network import Network, network_problem
from tests.framework.qtest import REPLY_TIMEOUT_S, Qtest
from tests.framework.virtqueue_driver import Buffer, Driver
from tests.framework.vm import Vm, emulator
from tests.framework.wire_driver import collect, wire_driver
from tests.qtest.test_net import HALTING_ROM, RINGS, RX_DATA, SLOT, TX_DATA, frame
from tests.unit.test_net_user import needs_passt

if TYPE_CHECKING:
    from pathlib import Path

HEADER_BYTES = 12
DEADLINE_S = 60
STATUS_AT, LINK_UP = 6, 1  # struct virtio_net_config
F_STATUS = 1 << 16

both = pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)])


class Machine:
    """An emulator with a NIC on one netdev, and its driver."""

    def __init__(self, name: str, directory: Path, netdev: str, *fds: int) -> None:
        rom = directory / "halt.rom"
        rom.write_bytes(HALTING_ROM)
        device = f"virtio-net-pci,netdev=n0,addr={SLOT},id=nic0,romfile="
        self.vm = Qtest(
            name, "-nodefaults", "-bios", str(rom), "-netdev", netdev, "-device", device, pass_fds=list(fds)
        )

    def __enter__(self) -> Machine:
        self.vm.__enter__()
        if not self.vm.has_clock:
            self.vm.qmp("cont")
        self.driver: Driver = wire_driver(self.vm, SLOT, modern=True)
        self.driver.negotiate(F_STATUS)
        for index in range(2):
            self.driver.setup_queue(index, RINGS + 0x8000 * index)
        self.driver.ready()
        self.rx, self.tx = self.driver.queues[:2]
        return self

    def __exit__(self, *exc: Any) -> None:
        self.vm.__exit__(*exc)

    def send(self, data: bytes, count: int = 1) -> None:
        self.driver.memory.write(TX_DATA, bytes(HEADER_BYTES) + data)
        for _ in range(count):
            self.tx.add([Buffer(TX_DATA, HEADER_BYTES + len(data))], [])
        self.tx.kick()

    def receive(self) -> bytes:
        """The next frame, into a buffer that is posted for it."""
        self.rx.add([], [Buffer(RX_DATA, 0x4000)])
        self.rx.kick()
        ((_head, length),) = collect(self.rx, 1)
        return self.driver.memory.read(RX_DATA + HEADER_BYTES, length - HEADER_BYTES)

    @property
    def link_up(self) -> bool:
        return bool(self.driver.config(STATUS_AT, 2) & LINK_UP)

    def wait_link(self, up: bool) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while self.link_up is not up:
            assert time.monotonic() < deadline_s, f"the link is not {'up' if up else 'down'}"


def wire(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def receive(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part, "the emulator has hung up"
        data += part
    return bytes(data)


@both
@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_frames_pass_between_a_guest_and_a_peer(name: str, kind: str, tmp_path: Path) -> None:
    which = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
    ours, theirs = socket.socketpair(socket.AF_UNIX, which)
    key = "addr" if kind == "stream" else "local"
    with ours, theirs:
        theirs.settimeout(REPLY_TIMEOUT_S)
        netdev = f"{kind},id=n0,{key}.type=fd,{key}.str={ours.fileno()}"
        with Machine(name, tmp_path, netdev, ours.fileno()) as machine:
            assert machine.link_up
            for length in (60, 1514):
                data = frame(length)
                machine.send(data)
                collect(machine.tx, 1)
                if kind == "stream":
                    assert receive(theirs, 4 + length) == wire(data)
                    for part in (wire(data)[:3], wire(data)[3:40], wire(data)[40:]):
                        theirs.sendall(part)
                else:
                    assert theirs.recv(1 << 16) == data
                    theirs.send(data)
                assert machine.receive() == data


@both
def test_a_peer_that_does_not_read_holds_the_guest_back(name: str, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
    with ours, theirs:
        theirs.settimeout(REPLY_TIMEOUT_S)
        netdev = f"stream,id=n0,addr.type=fd,addr.str={ours.fileno()}"
        with Machine(name, tmp_path, netdev, ours.fileno()) as machine:
            data = frame(1514)
            machine.send(data, 200)
            early = len(collect(machine.tx, 1))
            theirs.sendall(wire(frame(60)))  # the emulator lives, and the other way is free
            assert machine.receive() == frame(60)
            early += len(machine.tx.collect())
            assert early < 200
            assert receive(theirs, 200 * len(wire(data))) == wire(data) * 200
            collect(machine.tx, 200 - early)


@both
def test_a_peer_that_sends_nonsense_is_dropped_and_the_next_served(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "peer")
    netdev = f"stream,id=n0,server=on,addr.type=unix,addr.path={path}"
    with Machine(name, tmp_path, netdev) as machine:
        for nonsense in (struct.pack(">I", 0xFFFF_FFFF) + bytes(80_000), wire(frame(60))[:30]):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(REPLY_TIMEOUT_S)
                peer.connect(path)
                machine.vm.wait_event("NETDEV_STREAM_CONNECTED")
                peer.sendall(wire(frame(60)) + nonsense)
                assert machine.receive() == frame(60)
            machine.vm.wait_event("NETDEV_STREAM_DISCONNECTED")
        machine.send(frame(60))  # to nobody
        collect(machine.tx, 1)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(REPLY_TIMEOUT_S)
            peer.connect(path)
            machine.vm.wait_event("NETDEV_STREAM_CONNECTED")
            machine.send(frame(100))
            assert receive(peer, 104) == wire(frame(100))


def test_the_guest_sees_peers_come_and_go(tmp_path: Path) -> None:
    """QEMU's guest does not."""
    path = str(tmp_path / "peer")
    with Machine("vmmd", tmp_path, f"stream,id=n0,server=on,addr.type=unix,addr.path={path}") as machine:
        assert not machine.link_up
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(REPLY_TIMEOUT_S)
                peer.connect(path)
                machine.wait_link(up=True)
                machine.send(frame(60))
                assert receive(peer, 64) == wire(frame(60))
                collect(machine.tx, 1)
                peer.sendall(wire(frame(70)))
                assert machine.receive() == frame(70)
            machine.wait_link(up=False)
    assert not os.path.exists(path)


# --- the process of a user network ------------------------------------------------------------------------------------


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(each) for each in file.read().split()]


def _wait_gone(pid: int) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline_s, "passt is still there"
        time.sleep(0.01)


@needs_passt
@pytest.mark.skipif(network_problem() is not None, reason=str(network_problem()))
@pytest.mark.parametrize("end", ["quit", "SIGTERM", "SIGKILL"])
def test_passt_ends_however_vmmd_ends(end: str) -> None:
    with Network() as network, network.inside():
        options = ["-machine", "none", "-nodefaults", "-netdev", "user,id=u,ipv6=off,hostfwd=tcp:127.0.0.1:2222-:22"]
        with Vm(emulator("vmmd"), options, qmp=True) as vm:
            (passt,) = _children(vm.pid)
            with socket.create_connection(("127.0.0.1", 2222), DEADLINE_S):
                pass
            if end == "quit":
                vm.qmp.cmd("quit")
            else:
                vm.kill(getattr(signal, end))
            vm.wait_exit(DEADLINE_S)
            _wait_gone(passt)
            assert vm.stderr() == ""

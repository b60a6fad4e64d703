# SPDX-License-Identifier: Apache-2.0
"""A whole process with a NIC on a tap: frames, a netdev that goes while frames are under way, and what is left at the
end: no interface, no descriptor, scripts that have run."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.network import Network, network_problem
from tests.framework.qtest import Qtest
from tests.framework.virtqueue_driver import Buffer, Driver, DriverQueue
from tests.framework.vm import emulator
from tests.framework.wire_driver import collect, wire_driver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(network_problem() is not None, reason=str(network_problem()))

RINGS, RX_DATA, TX_DATA = 0x20_0000, 0x40_0000, 0x50_0000
SLOT, RX_BYTES, RX_COUNT = 4, 2048, 8
HEADER_BYTES = 12
STATUS_OFFSET, LINK_UP = 6, 1  # virtio 1.2 §5.1.4: status follows the address
ETHERTYPE = 0x88B5  # IEEE 802: for local experiments
F_STATUS = 1 << 16
FRAME = b"\xff" * 6 + bytes.fromhex("525400abcdef") + struct.pack("!H", ETHERTYPE) + b"frame"
TIMEOUT_S = 60.0


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made, made.inside():
        yield made


class Nic:
    """A driver of virtio-net with a few buffers."""

    def __init__(self, vm: Qtest) -> None:
        self.driver: Driver = wire_driver(vm, SLOT, modern=True)
        self.driver.negotiate(F_STATUS)
        self.rx: DriverQueue = self.driver.setup_queue(0, RINGS)
        self.tx: DriverQueue = self.driver.setup_queue(1, RINGS + 0x1_0000)
        self.driver.ready()
        self.where: dict[int, int] = {}

    @property
    def link_up(self) -> bool:
        return bool(self.driver.config(STATUS_OFFSET, 2) & LINK_UP)

    def post(self, count: int) -> None:
        for number in range(count):
            gpa = RX_DATA + number * RX_BYTES
            self.where[self.rx.add([], [Buffer(gpa, RX_BYTES)])] = gpa
        self.rx.kick()

    def send(self, frame: bytes) -> None:
        self.driver.memory.write(TX_DATA, bytes(HEADER_BYTES) + frame)
        self.tx.add([Buffer(TX_DATA, HEADER_BYTES + len(frame))], [])
        self.tx.kick()

    def received(self, count: int) -> list[bytes]:
        """As many frames of this test."""
        frames: list[bytes] = []
        while len(frames) < count:
            for head, written in collect(self.rx, 1):
                frame = self.driver.memory.read(self.where[head], written)[HEADER_BYTES:]
                if frame[12:14] == FRAME[12:14]:
                    frames.append(frame)
        return frames


def peer(network: Network, name: str) -> socket.socket:
    sock = network.packet_socket(name)
    sock.settimeout(TIMEOUT_S)
    return sock


def next_of_ours(sock: socket.socket) -> bytes:
    while (frame := sock.recv(70_000))[12:14] != FRAME[12:14]:
        pass
    return frame


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def descriptors(pid: int) -> list[str]:
    return sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))


def dropped(vm: Qtest) -> int:
    return vm.qmp("__org.vmmd_query-network")["netdevs"][0]["dropped"]


TAP = ["-nodefaults", "-netdev", "tap,id=t0,ifname=tap0,script=no,downscript=no"]
CARD = ["-device", f"virtio-net-pci,netdev=t0,id=n0,addr={SLOT}"]


def test_frames_pass_until_the_netdev_goes_under_them(network: Network) -> None:
    with Qtest("vmmd", *TAP, *CARD) as vm:
        network.ip("link set tap0 up")
        sock = peer(network, "tap0")
        nic = Nic(vm)
        assert nic.link_up
        nic.post(RX_COUNT)
        sock.send(FRAME)
        assert nic.received(1) == [FRAME]
        nic.send(FRAME + b" of the guest")
        assert next_of_ours(sock) == FRAME + b" of the guest"
        assert len(collect(nic.tx, 1)) == 1
        before = descriptors(vm.process.pid)
        for number in range(4 * RX_COUNT):  # more than there are buffers: the rest waits in the tap
            sock.send(FRAME + bytes([number]))
        nic.send(FRAME)
        vm.qmp("netdev_del", id="t0")
        assert "tap0" not in interfaces()
        assert not nic.link_up
        assert [each for each in before if "net/tun" in each]
        assert not [each for each in descriptors(vm.process.pid) if "net/tun" in each]
        for _ in range(3):  # nobody is there: they are taken and gone
            nic.send(FRAME)
        collect(nic.tx, 3)
        vm.qmp("netdev_add", type="hubport", id="t0", hubid=0)
        vm.qmp("set_link", name="n0", up=True)
        nic.send(FRAME)
        collect(nic.tx, 1)


def test_frames_of_a_dead_link_are_lost(network: Network) -> None:
    with Qtest("vmmd", *TAP, *CARD) as vm:
        network.ip("link set tap0 up")
        sock = peer(network, "tap0")
        nic = Nic(vm)
        nic.post(RX_COUNT)
        for name in ("n0", "t0"):
            vm.qmp("set_link", name=name, up=False)
            assert not nic.link_up
            before = dropped(vm)
            sock.send(FRAME + b" lost")
            nic.send(FRAME + b" lost")
            assert len(collect(nic.tx, 1)) == 1
            deadline = time.monotonic() + TIMEOUT_S
            while dropped(vm) < before + 2:
                assert time.monotonic() < deadline
            vm.qmp("set_link", name=name, up=True)
            assert nic.link_up
        sock.send(FRAME)
        assert nic.received(1) == [FRAME]
        nic.send(FRAME)
        assert next_of_ours(sock) == FRAME


@pytest.mark.parametrize("end", ["quit", "SIGTERM", "netdev_del"])
def test_nothing_is_left_at_the_end(network: Network, tmp_path: Path, end: str) -> None:
    script, log = tmp_path / "script", tmp_path / "log"
    script.write_text(f'#!/bin/sh\necho "$1 $(grep -c "$1:" /proc/self/net/dev)" >> {log}\n')
    script.chmod(0o755)
    there = interfaces()
    netdev = f"tap,id=t0,ifname=tap%d,script={script},downscript={script},queues=3"
    with Qtest("vmmd", "-nodefaults", "-netdev", netdev, "-device", "virtio-net-pci,netdev=t0,mq=on") as vm:
        (made,) = interfaces() - there
        if end == "netdev_del":
            vm.qmp("netdev_del", id="t0")
            assert interfaces() == there
        elif end == "quit":
            vm.qmp("quit")
            vm.process.wait(TIMEOUT_S)
    assert interfaces() == there
    assert log.read_text().splitlines() == [f"{made} 1"] * 2


@pytest.mark.parametrize("wrong", [["-device", "virtio-blk-pci,drive=nope"], ["-chardev", "file,id=c,path=/nowhere/x"]])
def test_a_start_that_fails_leaves_nothing(network: Network, wrong: list[str]) -> None:
    there = interfaces()
    command = [*emulator("vmmd").command, "-accel", "qtest", "-display", "none", *TAP, *wrong]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1, done.stderr
    assert interfaces() == there


def test_inherited_descriptors_are_checked_before_anything_is_made(network: Network, tmp_path: Path) -> None:
    first, _second = network.open_tap("tapin", queues=2)
    with open(tmp_path / "file", "wb") as file:
        made = tmp_path / "made"
        command = [
            *emulator("vmmd").command, "-accel", "qtest", "-display", "none", "-nodefaults",
            "-chardev", f"file,id=c,path={made}", "-netdev", f"tap,id=t0,fds={first}:{file.fileno()}",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, pass_fds=(first, file.fileno())
        )
    number = command[-1].rpartition(":")[2]
    sentence = f"-netdev tap,id=t0: Unable to query TUNGETIFF on FD {number}: Inappropriate ioctl for device"
    assert (done.returncode, done.stderr.strip()) == (1, f"vmmd: {sentence}; it is no descriptor of /dev/net/tun")
    assert not made.exists()
    assert os.get_blocking(first)


def test_queues_that_are_inherited_serve_a_nic(network: Network) -> None:
    fds = network.open_tap("tapin", queues=2, bridge=None)
    card = ["-device", f"virtio-net-pci,netdev=t0,id=n0,addr={SLOT},mq=on"]
    arguments: list[Any] = ["-nodefaults", "-netdev", f"tap,id=t0,fds={fds[0]}:{fds[1]}", *card]
    with Qtest("vmmd", *arguments, pass_fds=fds) as vm:
        nic = Nic(vm)
        sock = peer(network, "tapin")
        nic.post(RX_COUNT)
        nic.send(FRAME)
        assert next_of_ours(sock) == FRAME
        sock.send(FRAME)
        assert nic.received(1) == [FRAME]
        vm.process.send_signal(signal.SIGTERM)
        assert vm.process.wait(TIMEOUT_S) == 0
    assert os.get_blocking(fds[0])

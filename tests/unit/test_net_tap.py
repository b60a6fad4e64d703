# SPDX-License-Identifier: Apache-2.0
"""``-netdev tap`` on real taps in a namespace of the test's own."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

import pytest

from tests.framework.network import Network as HostNetwork
from tests.framework.network import network_problem
from tests.unit.net_support import PATIENCE_MS, FakeNic, Rig, views
from vmmd.core.backend import NetOffload
from vmmd.errors import VmmdError
from vmmd.net import tap, tun

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(network_problem() is not None, reason=str(network_problem()))

ETHERTYPE = 0x88B5  # IEEE 802: for local experiments
BROADCAST = b"\xff" * 6
MANY = "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=,"
FRAME = BROADCAST + bytes.fromhex("525400abcdef") + struct.pack("!H", ETHERTYPE) + b"hello, world" * 8


@pytest.fixture
def host() -> Iterator[HostNetwork]:
    with HostNetwork() as network, network.inside():
        yield network


@pytest.fixture
def rig(host) -> Iterator[Rig]:
    made = Rig()
    yield made
    made.network.close()


def peer(host: HostNetwork, name: str) -> socket.socket:
    """Sees the frames of the test on interface ``name``, and sends some."""
    sock = host.packet_socket(name)
    sock.settimeout(PATIENCE_MS / 1000)
    return sock


def next_of_ours(sock: socket.socket) -> bytes:
    while True:
        frame = sock.recv(70_000)
        if frame[12:14] == struct.pack("!H", ETHERTYPE):
            return frame


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def test_frames_go_both_ways_without_a_header(host, rig):
    netdev = rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no", "vnet_hdr=off")
    assert netdev.header_lengths == frozenset()
    assert netdev.offloads == NetOffload(0)
    host.ip("link set tap7 up")
    sock = peer(host, "tap7")
    nic = FakeNic()
    nic.use(rig.connect(nic, "t0").backend.queues[0])
    assert nic.queue.write(views(FRAME[:14], FRAME[14:]))
    assert next_of_ours(sock) == FRAME
    sock.send(FRAME + b"back")
    rig.loop.until(lambda: FRAME + b"back" in nic.frames)


@pytest.mark.parametrize("length", [0, 10, 12])
def test_frames_have_the_header_that_the_nic_asked_for(host, rig, length):
    netdev = rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no")
    assert netdev.header_lengths == {10, 12}
    netdev.set_header(length)
    host.ip("link set tap7 up")
    sock = peer(host, "tap7")
    nic = FakeNic()
    nic.use(rig.connect(nic, "t0").backend.queues[0])
    assert nic.queue.write(views(bytes(length) + FRAME))
    assert next_of_ours(sock) == FRAME
    sock.send(FRAME)
    rig.loop.until(lambda: any(frame.endswith(FRAME) for frame in nic.frames))
    assert FRAME in {frame[length:] for frame in nic.frames}


def test_offloads_of_this_kernel_are_found_and_set(rig):
    netdev = rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no")
    every = NetOffload.CSUM | NetOffload.TSO4 | NetOffload.TSO6 | NetOffload.TSO_ECN
    assert netdev.offloads & every == every
    netdev.set_offloads(netdev.offloads)
    netdev.set_offloads(every & ~NetOffload.TSO6)
    netdev.set_offloads(netdev.offloads & ~NetOffload.USO6)  # one of the two alone is none for the kernel
    netdev.set_offloads(NetOffload(0))


def test_given_descriptors_are_taken_and_closed(host, rig):
    given = [os.dup(fd) for fd in host.open_tap("tap3", queues=2)]
    netdev = rig.add("tap", "id=t0", f"fds={given[0]}:{given[1]}")
    assert len(netdev.queues) == 2
    assert netdev.header_lengths == {10, 12}
    assert not os.get_blocking(given[0])
    rig.network.close()
    for fd in given:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_descriptor_from_outside_is_put_back_as_it_was(host, rig):
    (original,) = host.open_tap("tap3")
    rig.add("tap", "id=t0", f"fd={os.dup(original)}")
    assert not os.get_blocking(original)
    rig.network.close()
    assert os.get_blocking(original)


def test_a_descriptor_stays_its_owners_when_the_rest_fails(host, rig, monkeypatch):
    (original,) = host.open_tap("tap3")
    given = os.dup(original)

    def fail(fd: int, length_bytes: int) -> None:
        raise OSError(errno.ENOMEM, "out of memory")

    monkeypatch.setattr(tun, "set_header_length", fail)
    with pytest.raises(VmmdError, match=r"could not configure /dev/net/tun \(tap3\): Cannot allocate memory"):
        rig.add("tap", "id=t0", f"fd={given}")
    assert os.get_blocking(given)
    assert os.get_inheritable(given)
    os.close(given)


def test_nothing_is_sent_to_a_descriptor_that_is_closed(host, rig):
    rig.add("tap", "id=t0", f"fd={os.dup(host.open_tap('tap3')[0])}")
    nic = FakeNic()
    nic.use(rig.connect(nic, "t0").backend.queues[0])
    queue = nic.queue
    rig.network.close()
    reader, writer = os.pipe()  # one of them has its number now
    with open(reader, "rb") as read, open(writer, "wb") as write:
        assert queue.fd in (reader, writer)
        assert queue.write(views(FRAME))
        assert queue.read([memoryview(bytearray(100))]) == 0
        assert queue.direct_fd is None
        queue.set_cut(False)
        queue.watch(True)
        assert queue.write(views(FRAME))
        assert not rig.loop.readers
        write.close()
        assert read.read() == b""


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("null", "Unable to query TUNGETIFF on FD {fd}: Inappropriate ioctl for device"),
        ("unattached", "Unable to query TUNGETIFF on FD {fd}: File descriptor in bad state"),
        ("tun", "FD {fd} is not a tap"),
        ("other", "fd {first} and fd {fd} are of different interfaces"),
        ("header", "vnet_hdr not consistent across given tap fds"),
        ("twice", "t0: file descriptor {first} is in use already"),
    ],
)
def test_a_wrong_descriptor_is_named_and_nothing_is_touched(host, rig, spoil, sentence):
    first = os.dup(host.open_tap("tap3", queues=2)[0])
    wrong = {
        "null": lambda: os.open("/dev/null", os.O_RDWR),
        "unattached": lambda: os.open(tun.DEVICE, os.O_RDWR),
        "tun": lambda: _tun_descriptor(),
        "other": lambda: os.dup(host.open_tap("tap4", queues=2)[0]),
        "header": lambda: os.dup(host.open_tap("tap4", queues=2, vnet_hdr=False)[0]),
        "twice": lambda: first,
    }[spoil]()
    with pytest.raises(VmmdError) as caught:
        rig.add("tap", "id=t0", f"fds={first}:{wrong}")
    assert caught.value.desc == sentence.format(fd=wrong, first=first)
    assert os.get_blocking(first)
    for fd in {first, wrong}:
        os.close(fd)


def _tun_descriptor() -> int:
    import fcntl

    fd = os.open(tun.DEVICE, os.O_RDWR)
    fcntl.ioctl(fd, tun._TUNSETIFF, struct.pack("16sH22x", b"tun0", 1 | tun.IFF_NO_PI))
    return fd


def test_what_comes_while_the_link_is_down_is_gone(host, rig):
    rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no", "vnet_hdr=off")
    host.ip("link set tap7 up")
    sock = peer(host, "tap7")
    nic = FakeNic()
    port = rig.connect(nic, "t0")
    nic.use(port.backend.queues[0])
    rig.network.set_link("n0", False)
    assert nic.links == [False]
    assert nic.queue.write(views(FRAME))
    dropped = nic.queue.dropped
    assert dropped >= 1
    sock.send(FRAME)
    rig.loop.until(lambda: nic.queue.dropped > dropped)
    rig.network.set_link("n0", True)
    sock.send(FRAME + b"later")
    rig.loop.until(lambda: FRAME + b"later" in nic.frames)
    assert FRAME not in nic.frames


def test_the_loop_is_told_when_it_matters_only(host, rig):
    rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no", "vnet_hdr=off")
    host.ip("link set tap7 up")
    sock = peer(host, "tap7")
    nic = FakeNic()
    nic.use(rig.connect(nic, "t0").backend.queues[0])
    for number in range(20):  # buffers run out and come back, as they do with each frame
        sock.send(FRAME + bytes([number]))
        rig.loop.until(lambda number=number: FRAME + bytes([number]) in nic.frames)
        nic.queue.watch(False)
        nic.queue.watch(True)
    assert rig.loop.changes == 1
    nic.queue.watch(False)
    sock.send(FRAME)
    while rig.loop.readers:
        rig.loop.turn(PATIENCE_MS)
    assert rig.loop.changes == 2
    nic.queue.watch(True)
    rig.loop.until(lambda: FRAME in nic.frames)


def test_an_interface_that_goes_takes_the_link_with_it(host, rig):
    rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no")
    host.ip("link set tap7 up")
    nic = FakeNic()
    nic.use(rig.connect(nic, "t0").backend.queues[0])
    host.ip("link del tap7")
    rig.loop.until(lambda: nic.links == [False])
    for _ in range(10):
        rig.loop.turn()
    assert not rig.loop.readers
    assert nic.queue.write(views(FRAME))


def test_queues_that_the_guest_does_not_use_get_nothing(host, rig, monkeypatch):
    netdev = rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no", "queues=4")
    assert len(netdev.queues) == 4
    nics = [FakeNic(f"n{number}") for number in range(4)]
    host.ip("link set tap7 up")
    for nic, queue in zip(nics, netdev.queues, strict=True):
        nic.use(queue)
    changed = []
    enable = tun.enable_queue
    monkeypatch.setattr(tun, "enable_queue", lambda fd, enabled: (changed.append(enabled), enable(fd, enabled)))
    netdev.enable_queues(1)
    netdev.enable_queues(1)
    assert changed == [False] * 3  # each costs the kernel a millisecond
    assert len(rig.loop.readers) == 1
    sock = peer(host, "tap7")
    for number in range(16):
        sock.send(FRAME + bytes([number]))
    rig.loop.until(lambda: len(nics[0].frames) >= 16)
    netdev.enable_queues(4)
    assert changed == [False] * 3 + [True] * 3
    assert len(rig.loop.readers) == 4


def test_interfaces_and_descriptors_are_gone_at_the_end(host, rig):
    before, there = fds(), interfaces()
    rig.add("tap", "id=t0", "ifname=tap%d", "script=no", "downscript=no", "queues=3")
    rig.add("tap", "id=t1", "script=no", "downscript=no")
    assert len(interfaces() - there) == 2
    rig.network.close()
    assert (fds(), interfaces()) == (before, there)
    with pytest.raises(VmmdError, match="could not configure /dev/net/tun"):
        rig.add("tap", "id=t0", "ifname=lo", "script=no")
    assert (fds(), interfaces()) == (before, there)


def test_scripts_get_the_interface_and_nothing_else(host, rig, tmp_path):
    script, log = tmp_path / "script", tmp_path / "log"
    script.write_text(f'#!/bin/sh\necho "$1 $#" $(ls /proc/self/fd | wc -l) >> {log}\n')
    script.chmod(0o755)
    rig.add("tap", "id=t0", "ifname=tap9", f"script={script}", f"downscript={script}")
    assert log.read_text() == "tap9 1 4\n"  # 0 to 2, and the directory
    rig.network.close()
    assert log.read_text() == "tap9 1 4\n" * 2


def test_a_script_that_fails_leaves_nothing(host, rig, tmp_path):
    before, there = fds(), interfaces()
    with pytest.raises(VmmdError, match="network script /bin/false failed with status 1"):
        rig.add("tap", "id=t0", "ifname=tap9", "script=/bin/false", "downscript=no")
    with pytest.raises(VmmdError, match="could not launch network script /nonexistent: No such file or directory"):
        rig.add("tap", "id=t0", "ifname=tap9", "script=/nonexistent", "downscript=no")
    assert (fds(), interfaces()) == (before, there)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fd=3", "ifname=x"), f"{MANY} fds=, and vhostfds= are invalid with fd="),
        (("fd=3", "vhostfds=4"), f"{MANY} fds=, and vhostfds= are invalid with fd="),
        (("fds=3:4", "vhostfd=5"), f"{MANY} and vhostfd= are invalid with fds="),
        (("ifname=x", "vhostfds=4"), "vhostfds= is invalid if fds= wasn't specified"),
        (("ifname=x", "vhost=off", "vhostfd=4"), "vhostfd(s)= is not valid without vhost"),
        (("fds=3:4", "queues=2"), f"{MANY} and vhostfd= are invalid with fds="),
        (("ifname=a23456789012345b",), "ifname=a23456789012345b is too long"),
        (("queues=257",), "queues=257: a tap has 256 queues at most"),
    ],
)
def test_keys_that_exclude_each_other(rig, words, sentence):
    with pytest.raises(VmmdError) as caught:
        rig.add("tap", "id=t0", *words)
    assert caught.value.desc == sentence


HELPER = """#!{python}
import fcntl, os, socket, struct, sys
with open({log!r}, "a") as log:
    print(*sys.argv[1:-2], sys.argv[-1], len(os.listdir("/proc/self/fd")), file=log)
if "--fail" in sys.argv:
    sys.exit(3)
number = next(int(word[5:]) for word in sys.argv if word.startswith("--fd="))
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap%d", 0x5002))
socket.send_fds(socket.socket(fileno=number), [b"\\0"], [tap] if "--nothing" not in sys.argv else [])
"""


@pytest.fixture
def helper(tmp_path) -> str:
    script = tmp_path / "helper"
    script.write_text(HELPER.format(python=sys.executable, log=str(tmp_path / "log")))
    script.chmod(0o755)
    return str(script)


def test_a_helper_makes_the_interface(rig, helper, tmp_path):
    before, there = fds(), interfaces()
    rig.add("tap", "id=t0", f"helper={helper}")
    rig.add("tap", "id=t1", f"helper={helper}", "br=other")
    rig.add("bridge", "id=t2", f"helper={helper}", "br=a;b")
    rig.add("bridge", "id=t3", f"helper={helper} --own")
    lines = [line for netdev in rig.network.netdevs.values() for line in netdev.lines()]
    assert lines == [
        f"t0: index=0,type=tap,helper={helper}\n",
        f"t1: index=0,type=tap,helper={helper}\n",
        f"t2: index=0,type=tap,helper={helper},br=a;b\n",
        f"t3: index=0,type=tap,helper={helper} --own,br=br0\n",
    ]
    asked = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [words[:-1] for words in asked] == [
        ["--use-vnet", "--br=br0"],
        ["--use-vnet", "--br=other"],
        ["--use-vnet", "--br=a;b"],
        ["--own", "--use-vnet", "--br=br0"],
    ]
    assert {words[-1] for words in asked} == {"6"}  # 0 to 2, the socket, the log, the directory
    assert rig.network.netdevs["t0"].header_lengths == {10, 12}
    assert len(interfaces() - there) == 4
    rig.network.close()
    assert (fds(), interfaces()) == (before, there)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("{} --fail", "ended with status 3"),
        ("{} --nothing", "sent no descriptor"),
        ("/nonexistent", "/nonexistent: No such file or directory"),
    ],
)
def test_a_helper_that_fails_leaves_nothing(rig, helper, how, why):
    before, there = fds(), interfaces()
    with pytest.raises(VmmdError, match="bridge helper failed") as caught:
        rig.add("bridge", "id=b", "helper=" + how.format(helper))
    assert why in str(caught.value)
    assert (fds(), interfaces()) == (before, there)


def test_what_the_host_has_no_room_for_is_sent_later(host, rig, monkeypatch):
    rig.add("tap", "id=t0", "ifname=tap7", "script=no", "downscript=no", "vnet_hdr=off", "sndbuf=4096")
    host.ip("link set tap7 up")
    sock = peer(host, "tap7")
    nic = FakeNic()
    nic.use(rig.connect(nic, "t0").backend.queues[0])

    def full(fd: int, buffers: object) -> int:
        raise BlockingIOError

    with monkeypatch.context() as patched:
        patched.setattr(tap, "_writev", full)
        assert not nic.queue.write(views(FRAME))
        assert not nic.queue.write(views(FRAME))
        rig.network.set_link("n0", False)  # the frame need not wait for a link that is down
        rig.loop.until(lambda: nic.rooms == 1)
        assert nic.queue.write(views(FRAME))
        rig.network.set_link("n0", True)
        assert not nic.queue.write(views(FRAME))
    rig.loop.until(lambda: nic.rooms == 2)
    assert not rig.loop.writers
    assert nic.queue.write(views(FRAME))
    assert next_of_ours(sock) == FRAME

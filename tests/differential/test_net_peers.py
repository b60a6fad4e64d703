# SPDX-License-Identifier: Apache-2.0
"""QEMU and vmmd joined by every kind of netdev over sockets, in both roles: frames of many lengths pass both ways.

In each emulator a hub joins the netdev under test with a UDP socket of the test's. All live in a network namespace of
the test's, one process of each emulator for all pairs.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.framework.network import Network, network_problem
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not emulator("qemu").installed, reason="qemu-system-x86_64 is not installed"),
    pytest.mark.skipif(network_problem() is not None, reason=str(network_problem())),
]

TIMEOUT_S = 60
HOST = "127.0.0.1"
GROUP = "230.7.7.7"
#: the shortest that QEMU's legs pass, the usual ones, and long ones
LENGTHS = (14, 60, 61, 1514, 9014, 40_000)


class Pair(NamedTuple):
    """One netdev of each emulator. ``late``: vmmd's is the client, and comes when QEMU is there."""

    name: str
    vmmd: str
    qemu: str
    late: bool = False


def tcp(port: int, server: str) -> str:
    return f"stream,server={server},addr.type=inet,addr.host={HOST},addr.port={port}"


def unix(path: str, server: str) -> str:
    return f"stream,server={server},addr.type=unix,addr.path={path}"


def udp(local: int, remote: int) -> str:
    ends = f"local.type=inet,local.host={HOST},local.port={local}"
    return f"dgram,{ends},remote.type=inet,remote.host={HOST},remote.port={remote}"


def unix_dgram(local: str, remote: str) -> str:
    return f"dgram,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"


def older_udp(local: int, remote: int) -> str:
    return f"socket,udp={HOST}:{remote},localaddr={HOST}:{local}"


def pairs(directory: str) -> list[Pair]:
    interface = f"local.type=inet,local.host={HOST},local.port=0"
    group = f"dgram,remote.type=inet,remote.host={GROUP},remote.port=4004,{interface}"
    older_group = f"socket,mcast={GROUP}:4005,localaddr={HOST}"
    files = [f"{directory}/{name}" for name in "abcd"]
    return [
        Pair("stream TCP server", tcp(4001, "on"), tcp(4001, "off")),
        Pair("stream UNIX server", unix(files[0], "on"), unix(files[0], "off")),
        Pair("socket listen", f"socket,listen={HOST}:4002", f"socket,connect={HOST}:4002"),
        Pair("dgram UDP", udp(4010, 4011), udp(4011, 4010)),
        Pair("dgram UNIX", unix_dgram(files[2], files[3]), unix_dgram(files[3], files[2])),
        Pair("dgram multicast", group, group),
        Pair("socket udp", older_udp(4020, 4021), older_udp(4021, 4020)),
        Pair("socket mcast", older_group, older_group),
        Pair("stream TCP client", tcp(4006, "off"), tcp(4006, "on"), late=True),
        Pair("stream UNIX client", unix(files[1], "off"), unix(files[1], "on"), late=True),
        Pair("socket connect", f"socket,connect={HOST}:4007", f"socket,listen={HOST}:4007", late=True),
    ]


class Leg:
    """The test's end of a hub."""

    def __init__(self, emulators_port: int) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self.sock.bind((HOST, 0))
        self.sock.settimeout(TIMEOUT_S)
        self.port = self.sock.getsockname()[1]
        self.target = (HOST, emulators_port)

    def netdevs(self, number: int) -> list[str]:
        """The hub of pair ``number``: with the netdev ``p`` NUMBER, which comes before, and this leg."""
        return [
            f"socket,id=l{number},udp={HOST}:{self.port},localaddr={HOST}:{self.target[1]}",
            f"hubport,id=h{number},hubid={number},netdev=p{number}",
            f"hubport,id=i{number},hubid={number},netdev=l{number}",
        ]

    def expect(self, frame: bytes) -> None:
        """``frame`` comes; of a multicast group's members each hears itself too."""
        while self.sock.recv(1 << 17) != frame:
            pass


def named(netdev: str, number: int) -> str:
    kind, _, rest = netdev.partition(",")
    return f"{kind},id=p{number},{rest}"


def options(netdevs: list[str]) -> list[str]:
    return ["-machine", "none", "-nodefaults", *(word for netdev in netdevs for word in ("-netdev", netdev))]


class Joined:
    """Both emulators, and the test's ends of all pairs."""

    def __init__(self, pairs_: list[Pair]) -> None:
        self.pairs = pairs_
        self.legs = [(Leg(5000 + number), Leg(6000 + number)) for number in range(len(pairs_))]
        early, late = [], []
        for number, pair in enumerate(pairs_):
            netdevs = [named(pair.vmmd, number), *self.legs[number][0].netdevs(number)]
            (late if pair.late else early).extend(netdevs)
        others = [
            netdev
            for number, pair in enumerate(pairs_)
            for netdev in (named(pair.qemu, number), *self.legs[number][1].netdevs(number))
        ]
        self.vmmd = Vm(emulator("vmmd"), options(early), qmp=True)
        self.qemu = Vm(emulator("qemu"), options(others), qmp=True)
        self.late = late


@pytest.fixture(scope="module")
def joined() -> Iterator[Joined]:
    with Network() as network, network.inside():
        made = Joined(pairs(str(network.directory)))
        with made.vmmd, made.qemu:
            for netdev in made.late:
                assert made.vmmd.qmp.hmp(f"netdev_add {netdev}") == ""
            yield made
        for leg in (leg for both in made.legs for leg in both):
            leg.sock.close()


def names(number: int) -> str:
    return [pair.name for pair in pairs("")][number]


@pytest.mark.parametrize("number", range(len(pairs(""))), ids=names)
def test_frames_pass_both_ways(joined: Joined, number: int) -> None:
    ours, theirs = joined.legs[number]
    for length in LENGTHS:
        for source, sink, fill in ((ours, theirs, 0x11), (theirs, ours, 0x22)):
            frame = bytes([fill]) * (length - 1) + bytes([number])
            source.sock.sendto(frame, source.target)
            sink.expect(frame)


def test_a_burst_passes_in_order(joined: Joined) -> None:
    """Streams lose nothing; the legs are read as they are written, as UDP has no memory."""
    for number, pair in enumerate(joined.pairs):
        if pair.name.startswith("stream"):
            ours, theirs = joined.legs[number]
            for source, sink in ((ours, theirs), (theirs, ours)):
                frames = [count.to_bytes(4, "big") * 100 for count in range(64)]
                for frame in frames:
                    source.sock.sendto(frame, source.target)
                assert [sink.sock.recv(1 << 16) for _ in frames] == frames


def _told(vm: Vm, number: int) -> str:
    """The line of pair ``number``, without which end it is."""
    lines = vm.qmp.hmp("info network").replace("\r", "").splitlines()
    line = next(line for line in lines if line.startswith(f" \\ h{number}: "))
    return line.replace("connection from", "connect to")


def test_info_network_says_the_same(joined: Joined) -> None:
    """All but ports that the kernel chose, and what the two ends of a datagram pair call local."""
    for number, pair in enumerate(joined.pairs):
        ours, theirs = _told(joined.vmmd, number), _told(joined.qemu, number)
        if pair.name in ("dgram UDP", "dgram UNIX", "socket udp"):
            assert ours.partition("udp=")[0] == theirs.partition("udp=")[0]
        elif "mcast" in pair.name or "multicast" in pair.name or "UNIX" in pair.name:
            assert ours == theirs
        else:
            assert ours.rpartition(":")[0] == theirs.rpartition(":")[0]


def test_qemus_end_is_seen_and_the_next_peer_served(joined: Joined) -> None:
    """The last test of this module: QEMU ends."""
    joined.qemu.kill(9)
    joined.qemu.wait_exit(TIMEOUT_S)
    joined.vmmd.qmp.wait_event("NETDEV_STREAM_DISCONNECTED", TIMEOUT_S)
    served = [number for number, pair in enumerate(joined.pairs) if pair.vmmd.startswith("stream") and not pair.late]

    def gone() -> bool:
        told = joined.vmmd.qmp.cmd("__org.vmmd_query-network")["netdevs"]
        return not any(each["link-up"] for each in told if each["type"] == "stream")

    joined.vmmd.wait(gone, TIMEOUT_S, "every stream has lost its peer")
    number = served[0]
    ours = joined.legs[number][0]
    with socket.create_connection((HOST, 4001), TIMEOUT_S) as peer:
        event = joined.vmmd.qmp.wait_event("NETDEV_STREAM_CONNECTED", TIMEOUT_S)
        port = peer.getsockname()[1]
        expected: dict[str, Any] = {"type": "inet", "host": HOST, "port": str(port), "ipv4": True}
        assert event["data"] == {"netdev-id": f"p{number}", "addr": expected}
        peer.sendall((3).to_bytes(4, "big") + b"new")
        ours.expect(b"new")
    joined.vmmd.qmp.wait_event("NETDEV_STREAM_DISCONNECTED", TIMEOUT_S)
    joined.vmmd.qmp.cmd("query-status")

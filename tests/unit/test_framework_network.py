# SPDX-License-Identifier: Apache-2.0
"""The test framework's private network: what it gives, and that nothing of it is left."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from tests.framework.network import ADDRESS, Network, fds_option
from tests.framework.wait import Reactor

pytestmark = pytest.mark.network
MAC = bytes.fromhex("525400123456")
GUEST_ADDRESS = "10.66.0.99"
BROADCAST = b"\xff" * 6
ARP_IPV4 = bytes.fromhex("0001 0800 06 04")
ARP_REQUEST, ARP_REPLY = b"\0\1", b"\0\2"
ETHERTYPE_ARP = b"\x08\x06"


def arp_request() -> bytes:
    """A broadcast frame that asks for the bridge's MAC."""
    sender, target = MAC + socket.inet_aton(GUEST_ADDRESS), bytes(6) + socket.inet_aton(ADDRESS)
    return BROADCAST + MAC + ETHERTYPE_ARP + ARP_IPV4 + ARP_REQUEST + sender + target


def test_a_tap_reaches_the_bridge_and_a_capture_sees_it(network: Network) -> None:
    (tap,) = network.open_tap(vnet_hdr=False)
    capture = network.capture()
    os.write(tap, arp_request())
    reactor, received = Reactor(), list[bytes]()
    reactor.add(tap, lambda: received.append(os.read(tap, 2048)))

    def replies() -> list[bytes]:  # among what the bridge says to everybody
        return [frame for frame in received if frame[12:14] == ETHERTYPE_ARP]

    assert reactor.wait(lambda: bool(replies()), 30.0)
    assert replies()[0][: len(MAC)] == MAC
    assert replies()[0][20:22] == ARP_REPLY
    frames = [frame for frame in capture.stop() if frame.head[12:14] == ETHERTYPE_ARP]
    assert [(frame.head[20:22], frame.outgoing) for frame in frames] == [(ARP_REQUEST, False), (ARP_REPLY, True)]
    assert frames[0].head == arp_request()
    assert frames[0].length == len(arp_request())


def test_tcp_peers_take_and_give_all(network: Network) -> None:
    data = os.urandom(1 << 20)
    sink = network.tcp_sink(5001)
    network.tcp_source(5002, data)
    with network.inside():
        with socket.create_connection((ADDRESS, 5001)) as up:
            up.sendall(data)
        with socket.create_connection((ADDRESS, 5002)) as down:
            received = bytearray()
            while part := down.recv(1 << 16):
                received += part
    assert sink.result() == data
    assert received == data


def test_queues_of_a_tap_and_its_names() -> None:
    with Network() as network:
        fds = network.open_tap(queues=3)
        assert fds_option(fds) == "fds=" + ":".join(map(str, fds))
        assert fds_option(fds[:1]) == f"fd={fds[0]}"
        network.add_tap("tap1", multi_queue=True)
        network.ip("link show tap0", "link show tap1", "link show br0")
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_only_a_thread_inside_is_in_the_namespace(network: Network) -> None:
    def names() -> set[str]:
        return {name for _index, name in socket.if_nameindex()}

    def children_names() -> str:
        return subprocess.run(["cat", "/proc/net/dev"], capture_output=True, text=True, check=True).stdout

    outside = names()
    network.add_tap("tap-of-test")
    with network.inside():
        assert names() == {"lo", "br0", "tap-of-test"}
        assert "tap-of-test" in children_names()
    assert names() == outside
    assert "tap-of-test" not in children_names()


def test_dnsmasq_serves_and_ends(network: Network) -> None:
    dnsmasq = network.start_dnsmasq(network.directory)
    assert "DHCP, IP range 10.66.0.10 -- 10.66.0.200" in dnsmasq.log
    assert dnsmasq.address_of("52:54:00:12:34:56") is None
    dnsmasq.close()
    dnsmasq.close()

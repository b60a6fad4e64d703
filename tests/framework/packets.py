# SPDX-License-Identifier: Apache-2.0
"""Small Ethernet frames that a test makes and reads: ARP, DHCP, UDP and TCP over IPv4. For a guest that the test plays.

Formats: RFC 826 (ARP), RFC 791 (IPv4), RFC 768 (UDP), RFC 9293 (TCP), RFC 2131 and 2132 (DHCP).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from socket import inet_aton, inet_ntoa

BROADCAST = b"\xff" * 6
ETHERTYPE_IPV4, ETHERTYPE_ARP = 0x0800, 0x0806
TCP, UDP = 6, 17
FIN, SYN, ACK = 0x01, 0x02, 0x10
DHCP_MAGIC = bytes.fromhex("63825363")
DHCP_DISCOVER, DHCP_OFFER, DHCP_REQUEST, DHCP_ACK = 1, 2, 3, 5
OPTION_MASK, OPTION_ROUTER, OPTION_DNS, OPTION_TYPE, OPTION_SEARCH = 1, 3, 6, 53, 119
_WINDOW = 65_535


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


@dataclass(frozen=True)
class Packet:
    """A TCP segment or UDP datagram that was read."""

    protocol: int
    source: str
    target: str
    source_port: int
    target_port: int
    data: bytes
    flags: int = 0
    sequence: int = 0
    acknowledged: int = 0


@dataclass
class Guest:
    """Makes frames from one address to a gateway."""

    mac: bytes = bytes.fromhex("525400123456")
    address: str = "10.0.2.15"
    gateway: str = "10.0.2.2"
    gateway_mac: bytes = BROADCAST

    def ethernet(self, ethertype: int, payload: bytes, target: bytes | None = None) -> bytes:
        return (target or self.gateway_mac) + self.mac + struct.pack(">H", ethertype) + payload

    def arp_request(self, target: str) -> bytes:
        hardware, operation = 1, 1
        head = struct.pack(">HHBBH", hardware, ETHERTYPE_IPV4, 6, 4, operation)
        return self.ethernet(
            ETHERTYPE_ARP, head + self.mac + inet_aton(self.address) + bytes(6) + inet_aton(target), BROADCAST
        )

    def ipv4(self, protocol: int, payload: bytes, target: str, source: str | None = None) -> bytes:
        source = self.address if source is None else source
        first = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol)
        ends = inet_aton(source) + inet_aton(target)
        return self.ethernet(
            ETHERTYPE_IPV4, first + struct.pack(">H", checksum(first + b"\0\0" + ends)) + ends + payload
        )

    def udp(self, source_port: int, target_port: int, data: bytes, target: str, source: str | None = None) -> bytes:
        head = struct.pack(">HHHH", source_port, target_port, 8 + len(data), 0)  # no checksum: allowed by RFC 768
        return self.ipv4(UDP, head + data, target, source)

    def tcp(self, ports: tuple[int, int], sequence: int, acknowledged: int, flags: int, data: bytes = b"") -> bytes:
        """From ``ports[0]`` here to ``ports[1]`` of the gateway."""
        head = struct.pack(">HHIIBBHHH", *ports, sequence, acknowledged, 5 << 4, flags, _WINDOW, 0, 0)
        pseudo = inet_aton(self.address) + inet_aton(self.gateway) + struct.pack(">HH", TCP, len(head + data))
        summed = head[:16] + struct.pack(">H", checksum(pseudo + head + data)) + head[18:]
        return self.ipv4(TCP, summed + data, self.gateway)

    def dhcp(self, kind: int) -> bytes:
        bootp = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + bytes(16) + self.mac + bytes(10 + 192)
        asked = bytes([55, 4, OPTION_MASK, OPTION_ROUTER, OPTION_DNS, OPTION_SEARCH])
        options = DHCP_MAGIC + bytes([OPTION_TYPE, 1, kind]) + asked + b"\xff"
        return self.udp(68, 67, bootp + options, "255.255.255.255", "0.0.0.0")


def read_packet(frame: bytes) -> Packet | None:
    """None: neither TCP nor UDP over IPv4."""
    if frame[12:14] != struct.pack(">H", ETHERTYPE_IPV4) or frame[23] not in (TCP, UDP):
        return None
    head = 14 + 4 * (frame[14] & 0xF)
    end = 14 + int.from_bytes(frame[16:18], "big")
    source, target = inet_ntoa(frame[26:30]), inet_ntoa(frame[30:34])
    source_port, target_port = struct.unpack_from(">HH", frame, head)
    if frame[23] == UDP:
        return Packet(UDP, source, target, source_port, target_port, frame[head + 8 : end])
    sequence, acknowledged, length, flags = struct.unpack_from(">IIBB", frame, head + 4)
    data = frame[head + 4 * (length >> 4) : end]
    return Packet(TCP, source, target, source_port, target_port, data, flags, sequence, acknowledged)


@dataclass(frozen=True)
class DhcpReply:
    """What a server offers."""

    kind: int
    address: str
    options: dict[int, bytes]


def read_dhcp(frame: bytes) -> DhcpReply | None:
    """None: no message of a DHCP server."""
    packet = read_packet(frame)
    if packet is None or packet.protocol != UDP or packet.source_port != 67:
        return None
    options: dict[int, bytes] = {}
    rest = packet.data[240:]
    while rest and rest[0] != 0xFF:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return DhcpReply(options[OPTION_TYPE][0], inet_ntoa(packet.data[16:20]), options)

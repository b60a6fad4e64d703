# SPDX-License-Identifier: Apache-2.0
"""virtio-net: the control queue (virtio 1.2 §5.1.6.5): receive modes, MAC addresses, VLANs, announcement, queue pairs,
offloads. RSS and hash configuration are not implemented and not offered.

A command is copied from guest memory once, bounded, and parsed from the copy.
"""

from __future__ import annotations

import enum
import struct
from time import monotonic_ns
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.chain import resolve, split
from vmmd.devices.virtio.net import features as f
from vmmd.devices.virtio.net.config import MAC_BYTES, STATUS_ANNOUNCE
from vmmd.devices.virtio.net.filter import TABLE_MAX, VLANS
from vmmd.devices.virtio.net.header import gather
from vmmd.devices.virtio.net.worker import TURN_NS, NetWorker
from vmmd.devices.virtio.queue import RingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.net.device import VirtioNet
    from vmmd.devices.virtio.queue import VirtQueue

OK, ERR = 0, 1
#: commands in one turn of the loop
TURN_COMMANDS = 8
#: bytes of one command that are looked at; address tables of drivers are far shorter
COMMAND_BYTES_MAX = 64 << 10


class Class(enum.IntEnum):
    """Classes of commands (virtio 1.2 §5.1.6.5)."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5


#: RX commands, in the order of their numbers
RX_MODES = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
MAC_TABLE_SET, MAC_ADDR_SET = 0, 1
VLAN_ADD, VLAN_DEL = 0, 1
ANNOUNCE_ACK = 0
MQ_VQ_PAIRS_SET = 0
GUEST_OFFLOADS_SET = 0

_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")


class ControlWorker(NetWorker):
    """Carries commands out, in order."""

    __slots__ = ()

    def __init__(self, net: VirtioNet, index: int, ring: VirtQueue) -> None:
        super().__init__(net, index, ring)
        self.pair = 0  # it serves all

    def serve(self) -> None:
        ring = self.ring
        end_ns = monotonic_ns() + TURN_NS
        ring.disable_notify()
        for _ in range(TURN_COMMANDS):
            chains = ring.pop_batch(1)
            if not chains and ring.enable_notify():
                chains = ring.pop_batch(1)
            if not chains:
                return
            ring.push(chains[0][0], self._command(chains[0]))
            self.give_back(1)
            if monotonic_ns() > end_ns:  # queue pairs of a tap take the kernel milliseconds
                break
        self.schedule()

    def _command(self, chain: Chain) -> int:
        """One command; its answer is stored. How many bytes that is."""
        readable, writable = split(chain)
        try:
            sent = resolve(self._memory, readable, writable=False)
            answer = resolve(self._memory, writable, writable=True)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None
        data = gather(sent, COMMAND_BYTES_MAX)
        if len(data) < 2 or not answer:
            raise RingError("a command without header or room for the answer")
        answer[0][0] = OK if execute(self._net, data[0], data[1], data[2:]) else ERR
        return 1


def execute(net: VirtioNet, kind: int, command: int, data: bytes) -> bool:
    """Carry one command out: True when it is well-formed, and done. Loop, without the lock."""
    handler = _HANDLERS.get(kind)
    return handler is not None and handler(net, command, data)


def _rx(net: VirtioNet, command: int, data: bytes) -> bool:
    if command >= len(RX_MODES) or len(data) < 1:
        return False
    net.filter.set_mode(RX_MODES[command], bool(data[0]))
    net.filter_changed()
    return True


def _mac(net: VirtioNet, command: int, data: bytes) -> bool:
    if command == MAC_ADDR_SET:
        if len(data) != MAC_BYTES:
            return False
        net.set_mac(data)
    elif command == MAC_TABLE_SET:
        tables = _tables(data)
        if tables is None:
            return False
        net.filter.set_tables(*tables)
    else:
        return False
    net.filter_changed()
    return True


def _tables(data: bytes) -> tuple[tuple[bytes, ...] | None, tuple[bytes, ...] | None] | None:
    """The unicast and the multicast table of MAC_TABLE_SET; None for one that there is no room for, and altogether
    when their lengths are wrong."""
    unicast, at = _table(data, 0)
    if at is None:
        return None
    multicast, end = _table(data, at)
    if end != len(data):
        return None
    stored = unicast if unicast is not None and len(unicast) <= TABLE_MAX else None
    room = TABLE_MAX - len(stored or ())
    return stored, multicast if multicast is not None and len(multicast) <= room else None


def _table(data: bytes, at: int) -> tuple[tuple[bytes, ...] | None, int | None]:
    """One table: a count, and so many addresses; where it ends. End None: it is not all there."""
    if len(data) < at + _U32.size:
        return None, None
    (count,) = _U32.unpack_from(data, at)
    at += _U32.size
    end = at + count * MAC_BYTES
    if end > len(data):
        return None, None
    if count > TABLE_MAX:
        return None, end
    return tuple(data[each : each + MAC_BYTES] for each in range(at, end, MAC_BYTES)), end


def _vlan(net: VirtioNet, command: int, data: bytes) -> bool:
    if len(data) < _U16.size or command not in (VLAN_ADD, VLAN_DEL):
        return False
    (vid,) = _U16.unpack_from(data)
    if vid >= VLANS:
        return False
    if command == VLAN_ADD:
        net.filter.vlans.add(vid)
    else:
        net.filter.vlans.discard(vid)
    net.filter_changed()
    return True


def _announce(net: VirtioNet, command: int, data: bytes) -> bool:
    if command != ANNOUNCE_ACK or not net.link_status & STATUS_ANNOUNCE:
        return False
    net.announced()
    return True


def _mq(net: VirtioNet, command: int, data: bytes) -> bool:
    if command != MQ_VQ_PAIRS_SET or len(data) < _U16.size or not net.negotiated(f.F_MQ):
        return False
    (pairs,) = _U16.unpack_from(data)
    if not 1 <= pairs <= net.options.pairs:
        return False
    net.use_pairs(pairs)
    return True


def _offloads(net: VirtioNet, command: int, data: bytes) -> bool:
    if command != GUEST_OFFLOADS_SET or len(data) < _U64.size or not net.negotiated(f.F_CTRL_GUEST_OFFLOADS):
        return False
    (wanted,) = _U64.unpack_from(data)
    if wanted & ~(net.accepted_features & f.GUEST_OFFLOADS):
        return False
    net.set_guest_offloads(wanted)
    return True


_HANDLERS: dict[int, Callable[[VirtioNet, int, bytes], bool]] = {
    Class.RX: _rx,
    Class.MAC: _mac,
    Class.VLAN: _vlan,
    Class.ANNOUNCE: _announce,
    Class.MQ: _mq,
    Class.GUEST_OFFLOADS: _offloads,
}

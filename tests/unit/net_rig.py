# SPDX-License-Identifier: Apache-2.0
"""A virtio NIC on fakes, its netdev and its driver; shared by the tests of virtio-net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.framework.virtqueue_driver import F_EVENT_IDX, Buffer, Driver, DriverQueue
from tests.unit.fakes import FakeNetdev, make_context
from tests.unit.virtio_rig import FunctionRig
from vmmd.devices.virtio.net.pci import VirtioNetPci

if TYPE_CHECKING:
    from collections.abc import Sequence

RAM_BYTES = 4 << 20
RINGS, RX_DATA, TX_DATA, COMMANDS = 0x1_0000, 0x10_0000, 0x20_0000, 0x30_0000
RX_STRIDE = 0x1000
MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("525400abcdef")
ALL = (1 << 64) - 1
#: virtio 1.2 §5.1.3, on purpose not taken from the device's code
GUEST_CSUM, CTRL_GUEST_OFFLOADS, GUEST_TSO4, MRG_RXBUF, STATUS = 1 << 1, 1 << 2, 1 << 7, 1 << 15, 1 << 16
CTRL_VQ, CTRL_RX, CTRL_VLAN, ANNOUNCE, MQ, CTRL_MAC = 1 << 17, 1 << 18, 1 << 19, 1 << 21, 1 << 22, 1 << 23
INDIRECT = 1 << 28


def frame(length: int = 60, *, to: bytes = MAC, vlan: int | None = None) -> bytes:
    """An Ethernet frame whose bytes tell their places."""
    tag = b"" if vlan is None else b"\x81\x00" + vlan.to_bytes(2, "big")
    head = to + PEER + tag + b"\x88\xb5"
    return head + bytes(each & 0xFF for each in range(length - len(head)))


class NetRig(FunctionRig):
    """Everything by name. The test is the vCPU and the loop."""

    def __init__(
        self, device_type: type[VirtioNetPci] = VirtioNetPci, *, netdev: FakeNetdev | None = None, **given: str
    ) -> None:
        machine = make_context(RAM_BYTES)
        self.memory = machine.memory
        self.netdev = netdev or FakeNetdev()
        self.queue = self.netdev.queues[0]
        machine.backends.netdevs[self.netdev.id] = self.netdev
        given.setdefault("netdev", self.netdev.id)
        super().__init__(device_type, "nic0", machine, **{k: v for k, v in given.items() if v})
        self.driver: Driver
        self.rings: list[DriverQueue] = []

    @property
    def net(self) -> Any:
        return self.device.virtio

    def start(self, features: int = ALL, *, modern: bool = True, pairs: int = 1) -> NetRig:
        """A driver that has set up the queues of ``pairs``, and the control queue."""
        self.driver = Driver(self.registers, self.memory, modern=modern)
        self.driver.negotiate(features & ~(1 << 40))
        count = 2 * pairs + 1
        self.rings = [self.driver.setup_queue(index, RINGS + 0x4000 * index) for index in range(count)]
        self.driver.ready()
        self.run()
        return self

    @property
    def header(self) -> int:
        return 12 if self.driver.modern or self.driver.features & MRG_RXBUF else 10

    # -- receive -------------------------------------------------------------------------------------------

    def post(self, *lengths: int, ring: int = 0, pieces: Sequence[int] = ()) -> None:
        """One receive buffer of each length; or one made of ``pieces``."""
        queue = self.rings[ring]
        for length in lengths:
            at = RX_DATA + RX_STRIDE * (queue.avail_index % 256)
            self.memory.write(at, b"\xcc" * length)
            queue.add([], [Buffer(at, length)])
        if pieces:
            at = RX_DATA + RX_STRIDE * (queue.avail_index % 256)
            buffers = []
            for each in pieces:
                buffers.append(Buffer(at, each))
                at += each + 16
            queue.add([], buffers)
        queue.kick()
        self.run()

    def received(self, ring: int = 0) -> list[tuple[bytes, bytes]]:
        """(header, frame) of all frames that came, mergeable ones put together."""
        queue = self.rings[ring]
        self.run()
        places = {head: list(each) for head, each in self._buffers(queue).items()}
        parts = [(places[head], written) for head, written in queue.collect()]
        found = []
        while parts:
            data = self._read(*parts.pop(0))
            count = int.from_bytes(data[10:12], "little") if self.header == 12 else 1
            for _ in range(count - 1):
                data += self._read(*parts.pop(0))
            found.append((data[: self.header], data[self.header :]))
        return found

    def _buffers(self, queue: DriverQueue) -> dict[int, list[Buffer]]:
        buffers = {}
        for head, chain in queue.chains.items():
            descriptors = [self.memory.read(queue.desc + 16 * index, 12) for index in chain]
            buffers[head] = [
                Buffer(int.from_bytes(each[:8], "little"), int.from_bytes(each[8:], "little")) for each in descriptors
            ]
        return buffers

    def _read(self, buffers: list[Buffer], written: int) -> bytes:
        return b"".join(self.memory.read(*each) for each in buffers)[:written]

    # -- transmit ------------------------------------------------------------------------------------------

    def send(self, *frames: bytes, header: bytes | None = None, ring: int = 1, split: int = 0) -> None:
        """Make frames available and ring. ``split``: bytes in the first buffer."""
        queue = self.rings[ring]
        for each in frames:
            data = (bytes(self.header) if header is None else header) + each
            at = TX_DATA + 0x1000 * (queue.avail_index % 0x80)
            self.memory.write(at, data)
            parts = [Buffer(at, len(data))]
            if split:
                parts = [Buffer(at, split), Buffer(at + split, len(data) - split)]
            queue.add(parts, [])
        queue.kick()
        self.run()

    # -- control -------------------------------------------------------------------------------------------

    def command(self, kind: int, number: int, data: bytes = b"") -> int:
        """One command; its answer."""
        ring = self.rings[-1]
        self.memory.write(COMMANDS, bytes([kind, number]) + data)
        self.memory.write(COMMANDS + 0x2_0000, b"\xee")
        parts = [Buffer(COMMANDS, 2)] + ([Buffer(COMMANDS + 2, len(data))] if data else [])
        ring.add(parts, [Buffer(COMMANDS + 0x2_0000, 1)])
        ring.kick()
        self.run()
        assert [written for _, written in ring.collect()] == [1]
        return self.memory.u8(COMMANDS + 0x2_0000)


__all__ = ["F_EVENT_IDX", "NetRig", "frame"]

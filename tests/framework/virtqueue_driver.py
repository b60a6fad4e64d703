# SPDX-License-Identifier: Apache-2.0
"""The driver's side of virtio, for tests: split virtqueues, and both PCI interfaces by real register accesses.

The same driver drives a device object on fakes and a whole machine over the qtest wire: registers come by
``FunctionRegisters``, guest memory by ``DriverMemory``. Nothing of the device's own code is used.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tests.framework.virtio_function import COMMON, DEVICE, ISR, NOTIFY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.framework.virtio_function import FunctionRegisters

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
F_INDIRECT, F_EVENT_IDX, F_VERSION_1, F_RING_RESET = 1 << 28, 1 << 29, 1 << 32, 1 << 40
NO_VECTOR = 0xFFFF


class DriverMemory(Protocol):
    """Guest memory as a driver uses it: ``vmmd.core.memory.GuestMemory``, or one on the wire."""

    def read(self, gpa: int, length: int) -> bytes: ...

    def write(self, gpa: int, data: bytes) -> None: ...

    def u16(self, gpa: int) -> int: ...

    def store_u16(self, gpa: int, value: int) -> None: ...


class Buffer(NamedTuple):
    """A run of guest memory."""

    gpa: int
    length: int


class DriverQueue:
    """Driver side of one split virtqueue (virtio 1.2 §2.7). Raw memory access, nothing of the device's code."""

    def __init__(self, memory: DriverMemory, size: int, rings: tuple[int, int, int], features: int) -> None:
        self.memory = memory
        self.size = size
        self.desc, self.avail, self.used = rings
        self.event_idx = bool(features & F_EVENT_IDX)
        self.indirect = bool(features & F_INDIRECT)
        self.avail_index = 0
        self.kicked_index = 0  # avail index at the last kick
        self.used_index = 0
        self.free = list(range(size))
        self.chains: dict[int, list[int]] = {}  # head -> its descriptors
        self.notify: Callable[[], None] = lambda: None

    def write_desc(self, table: int, index: int, gpa: int, length: int, flags: int, following: int = 0) -> None:
        self.memory.write(table + 16 * index, struct.pack("<QIHH", gpa, length, flags, following))

    def add(self, readable: Sequence[Buffer], writable: Sequence[Buffer], indirect_at: int | None = None) -> int:
        """Make one chain available; ``indirect_at``: address of an indirect table to use. Returns its head."""
        parts = [(each, 0) for each in readable] + [(each, DESC_WRITE) for each in writable]
        if indirect_at is not None:
            for index, (buffer, flags) in enumerate(parts):
                more = DESC_NEXT if index + 1 < len(parts) else 0
                self.write_desc(indirect_at, index, buffer.gpa, buffer.length, flags | more, index + 1)
            head = self.free.pop(0)
            self.chains[head] = [head]
            self.write_desc(self.desc, head, indirect_at, 16 * len(parts), DESC_INDIRECT)
        else:
            taken = [self.free.pop(0) for _ in parts]
            head = taken[0]
            self.chains[head] = taken
            for position, (buffer, flags) in enumerate(parts):
                last = position + 1 == len(parts)
                following = 0 if last else taken[position + 1]
                flags |= 0 if last else DESC_NEXT
                self.write_desc(self.desc, taken[position], buffer.gpa, buffer.length, flags, following)
        self.offer(head)
        return head

    def offer(self, head: int) -> None:
        """Put ``head`` on the available ring."""
        self.memory.store_u16(self.avail + 4 + 2 * (self.avail_index % self.size), head)
        self.avail_index = (self.avail_index + 1) & 0xFFFF
        self.memory.store_u16(self.avail + 2, self.avail_index)

    def wants_kick(self) -> bool:
        """Whether the device asked to be notified (§2.7.10)."""
        new, old = self.avail_index, self.kicked_index
        if self.event_idx:
            event = self.memory.u16(self.used + 4 + 8 * self.size)
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self.memory.u16(self.used) & 1

    def kick(self) -> bool:
        """Notify the device if it wants that; True when it was."""
        wanted = self.wants_kick()
        self.kicked_index = self.avail_index
        if wanted:
            self.notify()
        return wanted

    def collect(self) -> list[tuple[int, int]]:
        """(head, written) of what came back; their descriptors are free again."""
        found: list[tuple[int, int]] = []
        index = self.memory.u16(self.used + 2)
        while self.used_index != index:
            at = self.used + 4 + 8 * (self.used_index % self.size)
            head, written = struct.unpack("<II", self.memory.read(at, 8))
            self.free += self.chains.pop(head)
            self.used_index = (self.used_index + 1) & 0xFFFF
            found.append((head, written))
        return found

    def interrupt_at(self, index: int) -> None:
        """used_event: ask for an interrupt when the used index passes ``index``."""
        self.memory.store_u16(self.avail + 4 + 2 * self.size, index & 0xFFFF)

    def set_no_interrupt(self, suppress: bool) -> None:
        self.memory.store_u16(self.avail, 1 if suppress else 0)


class Driver:
    """A virtio PCI driver: resets, negotiates and sets queues up through one of the two interfaces."""

    def __init__(self, registers: FunctionRegisters, memory: DriverMemory, *, modern: bool) -> None:
        self.registers = registers
        self.memory = memory
        self.modern = modern
        self.features = 0
        self.queues: list[DriverQueue] = []
        structures = registers.structures() if modern else {}
        self._space = registers.mmio if modern else registers.pio
        self._base = structures[COMMON].address if modern else registers.bar(0)
        self._structures = structures

    # -- registers -----------------------------------------------------------------------------------------

    def get(self, offset: int, size: int) -> int:
        """A register of the common configuration, or of the legacy interface."""
        return self.registers.read(self._space, self._base + offset, size)

    def put(self, offset: int, size: int, value: int) -> None:
        self.registers.write(self._space, self._base + offset, size, value)

    @property
    def status(self) -> int:
        return self.get(0x14 if self.modern else 0x12, 1)

    @status.setter
    def status(self, value: int) -> None:
        self.put(0x14 if self.modern else 0x12, 1, value)

    @property
    def isr(self) -> int:
        """What happened since the last look (1: queues, 2: configuration); reading forgets it."""
        address = self._structures[ISR].address if self.modern else self._base + 0x13
        return self.registers.read(self._space, address, 1)

    @property
    def config_vector(self) -> int:
        return self.get(0x10 if self.modern else 0x14, 2)

    @config_vector.setter
    def config_vector(self, vector: int) -> None:
        self.put(0x10 if self.modern else 0x14, 2, vector)

    @property
    def queue_count(self) -> int:
        """How many queues there are; legacy drivers look at the size of one after the other."""
        if self.modern:
            return self.get(0x12, 2)
        count = 0
        while self.queue_size(count):
            count += 1
        return count

    def queue_size(self, index: int) -> int:
        """The most entries of queue ``index``; 0: no such queue."""
        self.put(0x16 if self.modern else 0x0E, 2, index)
        return self.get(0x18 if self.modern else 0x0C, 2)

    def config(self, offset: int, size: int) -> int:
        """Device configuration."""
        return self.registers.read(self._space, self._config_base() + offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self.registers.write(self._space, self._config_base() + offset, size, value)

    def _config_base(self) -> int:
        if self.modern:
            return self._structures[DEVICE].address
        return self._base + (0x18 if self.registers.msix_enabled else 0x14)

    # -- life ----------------------------------------------------------------------------------------------

    def offered(self) -> int:
        if not self.modern:
            return self.get(0, 4)
        value = 0
        for select in (0, 1):
            self.put(0, 4, select)
            value |= self.get(4, 4) << (32 * select)
        return value

    def negotiate(self, wanted: int) -> int:
        """Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK; returns the status read back."""
        self.status = 0
        self.queues.clear()
        self.status = 1
        self.status = 3
        offered = self.offered()
        self.features = wanted & offered | (F_VERSION_1 if self.modern else 0)
        if not self.modern:
            self.features &= 0xFFFF_FFFF & ~(1 << 30)
            self.put(4, 4, self.features)
            return self.status
        for select in (0, 1):
            self.put(8, 4, select)
            self.put(0xC, 4, self.features >> (32 * select) & 0xFFFF_FFFF)
        self.status = 11
        return self.status

    def setup_queue(self, index: int, at: int, *, size: int | None = None, vector: int | None = None) -> DriverQueue:
        """Lay the rings of queue ``index`` at page ``at`` and enable it."""
        size = size or self.queue_size(index)
        desc, avail = at, at + 16 * size
        used = (avail + 6 + 2 * size + 4095) & ~4095
        self.memory.write(at, bytes(used - at + 6 + 8 * size))
        return self.place_queue(index, size, (desc, avail, used), vector=vector)

    def place_queue(
        self, index: int, size: int, rings: tuple[int, int, int], *, vector: int | None = None
    ) -> DriverQueue:
        """Tell the device where the rings are, right or wrong, and enable the queue. The legacy interface is told the
        page of the descriptor table only."""
        self.put(0x16 if self.modern else 0x0E, 2, index)
        if vector is not None:
            self.put(0x1A if self.modern else 0x16, 2, vector)
        if self.modern:
            self.put(0x18, 2, size)
            for register, gpa in zip((0x20, 0x28, 0x30), rings, strict=True):
                self.put(register, 4, gpa & 0xFFFF_FFFF)
                self.put(register + 4, 4, gpa >> 32)
            self.put(0x1C, 2, 1)
            notify = self._structures[NOTIFY]
            address = notify.address + notify.multiplier * self.get(0x1E, 2)
        else:
            self.put(0x08, 4, rings[0] >> 12)
            address = self._base + 0x10
        ring = DriverQueue(self.memory, size, rings, self.features)
        ring.notify = lambda: self.registers.write(self._space, address, 2, index)
        self.queues.append(ring)
        return ring

    def reset_queue(self, index: int) -> bool:
        """Reset one queue (§2.6.1); True when the device says that it is done."""
        self.put(0x16, 2, index)
        self.put(0x3A, 2, 1)
        return self.get(0x3A, 2) == 0 and self.get(0x1C, 2) == 0

    def ready(self) -> None:
        self.status = self.status | 4

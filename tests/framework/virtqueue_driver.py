# SPDX-License-Identifier: Apache-2.0
"""The driver's side of virtio, for tests: a split virtqueue, and both PCI interfaces through real register accesses.

``LoopThread`` is the event loop as a device sees it: a thread, so that a test is the vCPU and locks, hand-shakes and
completions interleave as in the real machine. ``LoopThread.settle`` waits until nothing is left to do. Registers are
reached through the machine's port, memory and configuration spaces with the DeviceLock held, as a vCPU does.
"""

from __future__ import annotations

import queue
import struct
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.address_space import AddressSpace
    from vmmd.core.memory import GuestMemory

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
F_INDIRECT, F_EVENT_IDX, F_VERSION_1, F_RING_RESET = 1 << 28, 1 << 29, 1 << 32, 1 << 40
SETTLE_S = 10.0

LEGACY_BASE, MSIX_BASE, MODERN_BASE = 0xC000, 0xE000_0000, 0xE100_0000
MSI_ADDRESS = 0xFEE0_0000


class LoopThread:
    """LoopPort on a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Callable[..., None], tuple[object, ...]] | None] = queue.Queue()
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="test-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                item[0](*item[1])
            except BaseException as error:  # reported by settle()
                self.errors.append(error)
            finally:
                self._queue.task_done()

    def post(self, callback: Callable[..., None], *args: object) -> None:
        self._queue.put((callback, args))

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> Any:
        raise NotImplementedError("virtio devices use no host timers")

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        raise NotImplementedError("virtio devices read no host fds")

    def remove_reader(self, fd: int) -> None:
        raise NotImplementedError("virtio devices read no host fds")

    def on_loop_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[..., Any], *args: object) -> Any:
        """Run ``callback`` on the loop and return what it returns."""
        result: list[Any] = []
        done = threading.Event()

        def run() -> None:
            try:
                result.append(callback(*args))
            finally:
                done.set()

        self.post(run)
        if not done.wait(SETTLE_S):
            raise TimeoutError("the loop is stuck")
        self._check()
        return result[0]

    def settle(self) -> None:
        """Return when everything posted, and what that posts, has run. Raises what a callback raised."""
        with self._queue.all_tasks_done:
            if not self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, SETTLE_S):
                raise TimeoutError("the loop is stuck")
        self._check()

    def _check(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(SETTLE_S)
        self._check()


class LoopDoorbells:
    """DoorbellFactory: a guest write that matches posts the callback to the loop, as an ioeventfd does."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self.attached: dict[tuple[str, int, int | None], Callable[[], None]] = {}
        self.rings = 0

    def attach(
        self, space: str, address: int, size: int, datamatch: int | None, callback: Callable[[], None]
    ) -> LoopDoorbell:
        key = (space, address, datamatch)
        if key in self.attached:
            raise ValueError(f"two doorbells at {key}")
        self.attached[key] = callback
        return LoopDoorbell(self, key)

    def ring(self, space: str, address: int, value: int) -> bool:
        """True when a doorbell took the write."""
        callback = self.attached.get((space, address, None)) or self.attached.get((space, address, value))
        if callback is None:
            return False
        self.rings += 1
        self._loop.post(callback)
        return True


class LoopDoorbell:
    def __init__(self, factory: LoopDoorbells, key: tuple[str, int, int | None]) -> None:
        self._factory, self._key = factory, key

    def close(self) -> None:
        del self._factory.attached[self._key]


class Registers:
    """One PCI function's registers as a vCPU reaches them."""

    def __init__(
        self, function: Any, pio: AddressSpace, mmio: AddressSpace, doorbells: LoopDoorbells, lock: threading.Lock
    ) -> None:
        self.function, self.pio, self.mmio, self.doorbells, self.lock = function, pio, mmio, doorbells, lock

    def config_read(self, offset: int, size: int) -> int:
        with self.lock:
            return int(self.function.config_read(offset, size))

    def config_write(self, offset: int, size: int, value: int) -> None:
        with self.lock:
            self.function.config_write(offset, size, value)

    def read(self, space: AddressSpace, address: int, size: int) -> int:
        with self.lock:
            return space.read(address, size)

    def write(self, space: AddressSpace, address: int, size: int, value: int) -> None:
        if self.doorbells.ring("pio" if space is self.pio else "mmio", address, value):
            return
        with self.lock:
            space.write(address, size, value)

    def map_bars(self) -> None:
        """Assign the three BARs and switch decoding and bus mastering on, as firmware does."""
        for register, value in ((0x10, LEGACY_BASE), (0x14, MSIX_BASE), (0x20, MODERN_BASE), (0x24, 0)):
            self.config_write(register, 4, value)
        self.config_write(4, 2, 7)

    def capabilities(self) -> list[tuple[int, int]]:
        """(id, offset) along the list."""
        found: list[tuple[int, int]] = []
        at = self.config_read(0x34, 1)
        while at and len(found) < 48:
            found.append((self.config_read(at, 1), at))
            at = self.config_read(at + 1, 1)
        return found

    def enable_msix(self, vectors: int) -> None:
        """Unmask ``vectors`` vectors; vector n sends data 0x40 + n."""
        at = next(offset for id_, offset in self.capabilities() if id_ == 0x11)
        self.config_write(at + 2, 2, 0x8000)
        for vector in range(vectors):
            entry = MSIX_BASE + 16 * vector
            for offset, value in ((0, MSI_ADDRESS), (4, 0), (8, 0x40 + vector), (12, 0)):
                self.write(self.mmio, entry + offset, 4, value)


class Buffer(NamedTuple):
    """A run of guest memory."""

    gpa: int
    length: int


class DriverQueue:
    """Driver side of one split virtqueue (virtio 1.2 §2.7). Raw memory access, nothing of the device's code."""

    def __init__(self, memory: GuestMemory, size: int, rings: tuple[int, int, int], features: int) -> None:
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

    def __init__(self, registers: Registers, memory: GuestMemory, *, modern: bool) -> None:
        self.registers = registers
        self.memory = memory
        self.modern = modern
        self.features = 0
        self.queues: list[DriverQueue] = []
        self.notify_base = 0

    # -- registers -----------------------------------------------------------------------------------------

    def _space(self) -> tuple[AddressSpace, int]:
        return (self.registers.mmio, MODERN_BASE) if self.modern else (self.registers.pio, LEGACY_BASE)

    def get(self, offset: int, size: int) -> int:
        space, base = self._space()
        return self.registers.read(space, base + offset, size)

    def put(self, offset: int, size: int, value: int) -> None:
        space, base = self._space()
        self.registers.write(space, base + offset, size, value)

    @property
    def status(self) -> int:
        return self.get(0x14 if self.modern else 0x12, 1)

    @status.setter
    def status(self, value: int) -> None:
        self.put(0x14 if self.modern else 0x12, 1, value)

    @property
    def isr(self) -> int:
        return self.get(0x1000 if self.modern else 0x13, 1)

    def config(self, offset: int, size: int) -> int:
        return self.get(self._config_base() + offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self.put(self._config_base() + offset, size, value)

    def _config_base(self) -> int:
        if self.modern:
            return 0x2000
        at = next((offset for id_, offset in self.registers.capabilities() if id_ == 0x11), None)
        enabled = at is not None and self.registers.config_read(at + 2, 2) & 0x8000
        return 0x18 if enabled else 0x14

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
        self.put(0x16 if self.modern else 0x0E, 2, index)
        most = self.get(0x18 if self.modern else 0x0C, 2)
        size = size or most
        self.memory.write(at, bytes(16 * size + 6 + 2 * size + 4096 + 6 + 8 * size))
        desc, avail = at, at + 16 * size
        used = (avail + 6 + 2 * size + 4095) & ~4095
        if vector is not None:
            self.put(0x1A if self.modern else 0x16, 2, vector)
        if self.modern:
            self.put(0x18, 2, size)
            for register, gpa in ((0x20, desc), (0x28, avail), (0x30, used)):
                self.put(register, 4, gpa & 0xFFFF_FFFF)
                self.put(register + 4, 4, gpa >> 32)
            self.put(0x1C, 2, 1)
            offset = 0x3000 + 4 * self.get(0x1E, 2)
        else:
            self.put(0x08, 4, at >> 12)
            offset = 0x10
        ring = DriverQueue(self.memory, size, (desc, avail, used), self.features)
        ring.notify = lambda: self.put(offset, 2, index)
        self.queues.append(ring)
        return ring

    def ready(self) -> None:
        self.status = self.status | 4

# SPDX-License-Identifier: Apache-2.0
"""A machine of fakes with one virtio function; and one with virtio-blk, an in-memory disk and a driver. Shared by the
virtio tests."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.framework.loop_thread import LoopDoorbells, LoopThread
from tests.framework.virtio_function import Registers
from tests.framework.virtqueue_driver import Buffer, Driver, DriverQueue
from tests.unit.fakes import make_context, props
from vmmd.core.backend import BlockStats
from vmmd.core.device import ResetKind
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.virtio.blk.device import VirtioBlkPci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.unit.fakes import FakeMachine
    from vmmd.devices.virtio.pci_transport import VirtioPciDevice

DISK_BYTES = 256 * 1024
RAM_BYTES = 1 << 20

# request kinds and answers of virtio 1.2 §5.2.6, on purpose not taken from the device's code
IN, OUT, SCSI, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 2, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
NOT_ANSWERED = 0xEE

# guest memory
RINGS, INDIRECT, HEADERS, DATA = 0x10000, 0x40000, 0x50000, 0x60000
FULL = 0x3000_0000 | 0x7E54


class FunctionRig:
    """A function on fakes, plugged. The test is the vCPU and the loop."""

    device: Any

    def __init__(self, device_type: type[VirtioPciDevice], name: str, machine: FakeMachine, **given: str) -> None:
        self.machine = machine
        self.machine.loop.hold = True
        self.device = device_type(props(device_type, **given), machine.ctx, name)
        self.device.qom_path = f"/machine/peripheral/{name}"
        self.device.bus = PciBus()
        with machine.lock:
            self.device.plug()
        self.registers = Registers(self.device, machine.pio, machine.mmio, machine.doorbells, machine.lock)
        self.registers.map_bars()

    def run(self) -> None:
        self.machine.loop.run()

    def advance(self, nanoseconds: int) -> None:
        """Virtual time goes on."""
        with self.machine.lock:
            self.machine.clock.advance(nanoseconds)
        self.run()

    def stop_vm(self) -> None:
        done: list[bool] = []
        for begin in list(self.machine.requests.quiesce_callbacks):
            begin(lambda: done.append(True))
        assert done == [True] * len(self.machine.requests.quiesce_callbacks)

    def resume_vm(self) -> None:
        for callback in list(self.machine.requests.resume_callbacks):
            callback()
        self.run()

    def reset(self) -> None:
        with self.machine.lock:
            self.device.reset(ResetKind.COLD)
        self.run()
        self.registers.map_bars()

    def unplug(self) -> None:
        with self.machine.lock:
            self.device.unrealize()
        self.run()


class MemoryDisk:
    """BlockBackend over a bytearray. ``hold``: requests wait for ``complete``; ``fail``: errnos by operation."""

    request_alignment = 1

    def __init__(self, size: int = DISK_BYTES) -> None:
        self.name = "drive0"
        self.data = bytearray(size)
        self.read_only = False
        self.writes_through = False
        self.supports_discard = True
        self.hold = False
        self.pins = 0
        self.held: list[Callable[[], None]] = []
        self.fail: dict[str, int] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.resize_callbacks: list[Callable[[], None]] = []

    def pin(self) -> None:
        self.pins += 1

    def unpin(self) -> None:
        self.pins -= 1

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def _do(self, name: str, work: Callable[[], None], done: Callable[[int], None]) -> None:
        def run() -> None:
            error = self.fail.get(name, 0)
            if not error:
                work()
            done(error)

        if self.hold:
            self.held.append(run)
        else:
            run()

    def complete(self, order: Callable[[list[Any]], list[Any]] = list) -> None:
        """Carry out what is held. On the loop."""
        held, self.held = order(self.held), []
        for run in held:
            run()

    def readv(self, offset: int, buffers: Sequence[memoryview], done: Callable[[int], None]) -> None:
        self.calls.append(("read", offset, sum(map(len, buffers))))

        def work() -> None:
            at = offset
            for each in buffers:
                each[:] = self.data[at : at + len(each)]
                at += len(each)

        self._do("read", work, done)

    def writev(self, offset: int, buffers: Sequence[memoryview], done: Callable[[int], None]) -> None:
        self.calls.append(("write", offset, sum(map(len, buffers))))

        def work() -> None:
            at = offset
            for each in buffers:
                self.data[at : at + len(each)] = each
                at += len(each)

        self._do("write", work, done)

    def flush(self, done: Callable[[int], None]) -> None:
        self.calls.append(("flush",))
        self._do("flush", lambda: None, done)

    def discard(self, offset: int, length: int, done: Callable[[int], None]) -> None:
        self.calls.append(("discard", offset, length))
        self._do("discard", lambda: None, done)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: Callable[[int], None]) -> None:
        self.calls.append(("zero", offset, length, may_unmap))

        def work() -> None:
            self.data[offset : offset + length] = bytes(length)

        self._do("zero", work, done)

    def on_resize(self, callback: Callable[[], None]) -> None:
        self.resize_callbacks.append(callback)


class FakeDrive:
    """DriveHandle."""

    def __init__(self, backend: MemoryDisk) -> None:
        self.backend = backend
        self.name = "drive0"
        self.node_name = None
        self.rerror = self.werror = "auto"
        self.serial: str | None = None
        self.qdev: str | None = None
        self.io_status: str | None = "ok"
        self.share_rw = False
        self.stats = BlockStats()
        self.lost: Callable[[], None] | None = None

        self.inserted = True
        self.media: Any = None

    def on_lost(self, callback: Callable[[], None]) -> None:
        self.lost = callback

    def attach_media(self, device: Any) -> None:
        self.media = device

    def head(self, count: int) -> bytes:
        return bytes(self.backend.data[:count])


class Rig:
    """Everything by name. The test thread is the vCPU."""

    def __init__(
        self,
        device_type: type[VirtioBlkPci] = VirtioBlkPci,
        *,
        ram_bytes: int = RAM_BYTES,
        vcpus: int = 1,
        **given: str,
    ) -> None:
        self.machine = make_context(ram_bytes)
        self.machine.ctx.vcpus = vcpus
        self.loop = LoopThread()
        self.doorbells = LoopDoorbells(self.loop)
        self.machine.ctx.loop = self.loop
        self.machine.ctx.doorbells = self.doorbells
        self.disk = MemoryDisk()
        self.drive = FakeDrive(self.disk)
        self.machine.backends.drives["drive0"] = self.drive
        self.device = device_type(props(device_type, drive="drive0", **given), self.machine.ctx, "vda")
        self.device.qom_path = "/machine/peripheral/vda"
        self.device.bus = PciBus()
        self.memory = self.machine.memory
        self.ram = self.machine.ram
        self.registers = Registers(self.device, self.machine.pio, self.machine.mmio, self.doorbells, self.machine.lock)

    def plug(self) -> Rig:
        with self.machine.lock:
            self.device.plug()
        self.registers.map_bars()
        return self

    def driver(
        self, *, modern: bool = True, features: int = FULL, msix: bool = False, size: int | None = None, queues: int = 1
    ) -> Driver:
        """A driver that has set up ``queues`` queues and said DRIVER_OK."""
        driver = Driver(self.registers, self.memory, modern=modern)
        if msix:
            self.registers.enable_msix(queues + 1)
        driver.negotiate(features)
        if msix:
            driver.put(0x10 if modern else 0x14, 2, 0)
        for index in range(queues):
            driver.setup_queue(index, RINGS + 0x4000 * index, size=size, vector=index + 1 if msix else None)
        driver.ready()
        self.loop.settle()
        return driver

    def request(
        self,
        ring: DriverQueue,
        kind: int,
        sector: int = 0,
        data: bytes | int = b"",
        *,
        slot: int = 0,
        indirect: bool = False,
    ) -> int:
        """Make one request available: ``data`` is sent, or a number of bytes to receive. Returns the head."""
        header, at, status = HEADERS + 32 * slot, DATA + 0x2000 * slot, HEADERS + 0x8000 + slot
        self.memory.write(header, struct.pack("<IIQ", kind, 0, sector))
        self.memory.write(status, bytes([NOT_ANSWERED]))
        readable, writable = [Buffer(header, 16)], [Buffer(status, 1)]
        if isinstance(data, int):
            self.memory.write(at, b"\xcc" * data)
            if data:
                writable.insert(0, Buffer(at, data))
        elif data:
            self.memory.write(at, data)
            readable.append(Buffer(at, len(data)))
        return ring.add(readable, writable, INDIRECT + 1024 * slot if indirect else None)

    def status(self, slot: int = 0) -> int:
        return self.memory.u8(HEADERS + 0x8000 + slot)

    def data(self, length: int, slot: int = 0) -> bytes:
        return self.memory.read(DATA + 0x2000 * slot, length)

    def run(self, ring: DriverQueue, kind: int, sector: int = 0, data: bytes | int = b"", **how: Any) -> int:
        """One request from start to end; its status byte."""
        self.request(ring, kind, sector, data, **how)
        ring.kick()
        self.loop.settle()
        assert len(ring.collect()) == 1
        return self.status(how.get("slot", 0))

    def stop_vm(self) -> bool:
        """Quiesce as the machine does; True when the device reported idle at once."""
        done: list[bool] = []
        for begin in list(self.machine.requests.quiesce_callbacks):
            self.loop.call(begin, lambda: done.append(True))
        self.quiesced = done
        return bool(done)

    def resume_vm(self) -> None:
        for callback in list(self.machine.requests.resume_callbacks):
            self.loop.call(callback)
        self.loop.settle()

    def reset(self) -> None:
        with self.machine.lock:
            self.device.reset(ResetKind.COLD)

    def close(self) -> None:
        with self.machine.lock:
            self.device.unrealize()
        self.loop.settle()
        self.loop.close()


@contextmanager
def rig(device_type: type[VirtioBlkPci] = VirtioBlkPci, *, vcpus: int = 1, **given: str) -> Iterator[Rig]:
    """A plugged device with mapped BARs."""
    made = Rig(device_type, vcpus=vcpus, **given)
    try:
        yield made.plug()
    finally:
        made.close()

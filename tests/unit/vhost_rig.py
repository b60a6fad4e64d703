# SPDX-License-Identifier: Apache-2.0
"""A virtio device of two queues whose rings a real vhost-user back end serves, in memory that it maps: everything but
KVM, the chardev and the NIC."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, ClassVar

from tests.framework.virtqueue_driver import Buffer, DriverQueue
from tests.unit.fakes import make_context
from tests.unit.select_loop import SelectLoop
from vmmd.core.memory import GuestMemory, make_region
from vmmd.devices.virtio.device import F_VERSION_1, Status, VirtioDevice
from vmmd.devices.virtio.vhost import VhostWorker
from vmmd.log import get_logger
from vmmd.net.vhost_user.backend import VhostUser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vmmd.devices.virtio.queue import VirtQueue

RAM_BYTES = 1 << 20
RING_SIZE = 8
HEADER_BYTES = 12
#: for a machine that is busy
PATIENCE_S = 30.0
RINGS, BUFFERS = 0x10000, 0x40000


class SharedRam:
    """Guest memory of a memfd."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, RAM_BYTES)
        self.map = mmap.mmap(self.fd, RAM_BYTES)
        hva = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.memory = GuestMemory([make_region(0, memoryview(self.map), hva, "ram", self.fd, 0)])


class SocketLink:
    """Link over a socket that is connected by ``connect``."""

    def __init__(self, loop: SelectLoop, path: Path) -> None:
        self.loop, self.path = loop, path
        self.user: VhostUser
        self.connection: socket.socket | None = None

    def connect(self) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(self.path))
        self.connection.setblocking(False)
        self.loop.add_reader(self.connection.fileno(), self._readable)
        self.user.connected()

    def send(self, data: bytes, fds: Sequence[int]) -> bool:
        try:
            return self.connection is not None and socket.send_fds(self.connection, [data], list(fds)) == len(data)
        except OSError:
            return False

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _readable(self) -> None:
        assert self.connection is not None
        try:
            data = self.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.user.receive(data)
            return
        self.loop.remove_reader(self.connection.fileno())
        self.connection.close()
        self.connection = None
        self.user.lost()


class FakeTransport:
    """Transport: what the device did to it."""

    name = "net0"

    def __init__(self, memory: GuestMemory) -> None:
        self.dma = memory
        self.doorbells: dict[int, Any] = {}
        self.interrupts: list[int] = []
        self.messages: dict[int, tuple[int, int] | None] = {}
        self.resets = 0

    def interrupt_queue(self, index: int) -> None:
        self.interrupts.append(index)

    def queue_message(self, index: int) -> tuple[int, int] | None:
        return self.messages.get(index)

    def interrupt_config(self) -> None:
        """Not looked at."""

    def attach_doorbell(self, index: int, ring: Callable[[], None] | int) -> None:
        self.doorbells[index] = ring

    def detach_doorbell(self, index: int) -> None:
        self.doorbells.pop(index, None)

    def reset_registers(self) -> None:
        self.resets += 1


class TwoQueues(VirtioDevice):
    """A NIC's receive and transmit queue, and nothing else."""

    virtio_id = 1

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.machine.ctx, get_logger("test"), [RING_SIZE, RING_SIZE])
        self.vhost = rig.user
        self.offered = F_VERSION_1

    def make_worker(self, index: int, ring: VirtQueue) -> VhostWorker:
        return VhostWorker(self, index, ring, self.vhost)

    def reset_device(self) -> None:
        """Nothing of its own."""


class Rig:
    """All of it; ``start`` is the driver. ``close_all`` ends those that a test has made."""

    made: ClassVar[list[Rig]] = []

    def __init__(self, path: Path, pairs: int = 1) -> None:
        self.made.append(self)
        self.machine = make_context(RAM_BYTES)
        self.loop = SelectLoop()
        self.machine.ctx.loop = self.loop
        self.ram = SharedRam()
        self.link = SocketLink(self.loop, path)
        self.alive: list[bool] = []
        self.user = VhostUser("net0", self.loop, self.link, pairs, self.alive.append)
        self.link.user = self.user
        with self.machine.lock:
            self.user.join(self.ram.memory)
        self.transport = FakeTransport(self.ram.memory)
        self.device = TwoQueues(self)
        self.device.transport = self.transport
        self.queues: list[DriverQueue] = []

    @classmethod
    def close_all(cls) -> None:
        while cls.made:
            rig = cls.made.pop()
            with rig.machine.lock:
                rig.device.reset_by_machine()
            rig.loop.settle(3)
            if rig.link.connection is not None:
                rig.link.connection.close()
            os.close(rig.ram.fd)

    def connect(self) -> None:
        self.link.connect()
        self.loop.until(lambda: self.alive and self.alive[-1], PATIENCE_S)
        self.device.offered = self.user.mask_features((1 << 64) - 1)

    def start(self, features: int = F_VERSION_1) -> None:
        """A driver sets up both queues and says DRIVER_OK."""
        memory, device = self.ram.memory, self.device
        self.queues = []
        with self.machine.lock:
            device.driver_features = features
            for index, queue in enumerate(device.queues):
                base = RINGS + 0x3000 * index
                memory.write(base, bytes(0x3000))
                rings = base, base + 0x1000, base + 0x2000
                queue.desc_gpa, queue.avail_gpa, queue.used_gpa = rings
                queue.enabled = True
                self.queues.append(made := DriverQueue(memory, RING_SIZE, rings, features))
                made.notify = lambda index=index: self.ring(index)  # type: ignore[misc]
            device.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
            device.set_status(device.status | Status.FEATURES_OK)
            device.set_status(device.status | Status.DRIVER_OK)

    def ring(self, index: int) -> None:
        """The driver's notification, as KVM would give it on."""
        os.eventfd_write(self.transport.doorbells[index], 1)

    def offer(self, count: int = 4) -> None:
        """Receive buffers."""
        for _ in range(count):
            head = self.queues[0].free[0]
            self.queues[0].add([], [Buffer(BUFFERS + 0x1000 * head, 2048)])
        self.queues[0].kick()

    def send(self, frame: bytes) -> None:
        gpa = BUFFERS + 0x20000 + 0x1000 * self.queues[1].free[0]
        self.ram.memory.write(gpa, bytes(HEADER_BYTES) + frame)
        self.queues[1].add([Buffer(gpa, HEADER_BYTES + len(frame))], [])
        self.queues[1].kick()

    def receive(self) -> bytes:
        """The next frame that comes. The loop turns meanwhile."""
        found: list[tuple[int, int]] = []

        def look() -> bool:
            found.extend(self.queues[0].collect())
            return bool(found)

        self.loop.until(look, PATIENCE_S)
        assert len(found) == 1
        head, written = found[0]
        data = self.ram.memory.read(BUFFERS + 0x1000 * head, written)
        assert struct.unpack_from("<H", data, 10) == (1,)  # one buffer
        return data[HEADER_BYTES:]

    def echo(self, frame: bytes) -> None:
        """Send a frame, and get it back from the back end."""
        self.send(frame)
        assert self.receive() == frame
        self.queues[1].collect()

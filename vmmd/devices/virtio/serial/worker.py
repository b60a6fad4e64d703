# SPDX-License-Identifier: Apache-2.0
"""What the loop's sides of all virtio-serial queues share, and those of the two control queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.core.trace_events import VIRTIO_SERIAL_SEND_CONTROL_EVENT
from vmmd.devices.virtio.chain import Pairs, resolve, split, take_front, total
from vmmd.devices.virtio.queue import RingError, VirtQueue
from vmmd.devices.virtio.serial.messages import MESSAGE, Event
from vmmd.devices.virtio.turns import TurnWorker

if TYPE_CHECKING:
    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.serial.device import VirtioSerial

#: chains of one turn of the loop
CONTROL_CHAINS = 32


class Worker(TurnWorker):
    """Base."""

    def __init__(self, serial: VirtioSerial, index: int, ring: VirtQueue) -> None:
        super().__init__(serial, index, ring)
        self._serial = serial

    def _fail(self, error: RingError) -> None:
        """Posted: the caller may hold the DeviceLock."""
        self.closed = True
        self._serial.ctx.loop.post(self._serial.worker_failed, self, f"queue {self._index}: {error}")

    def _views(self, pairs: Pairs, *, writable: bool) -> list[memoryview]:
        try:
            return resolve(self._memory, pairs, writable=writable)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None

    def _give_back(self, done: list[tuple[int, int]], *, posted: bool = False) -> None:
        """(head, bytes written) of finished chains. ``posted``: the caller holds the DeviceLock."""
        self.ring.push_batch(done)
        self._counters.requests += len(done)
        if not posted:
            self._publish()
        elif self.ring.publish():
            self._counters.interrupts += 1
            self._serial.ctx.loop.post(self._serial.transport.interrupt_queue, self._index)


class ControlSender(Worker):
    """Messages to the driver."""

    def _serve(self) -> bool:
        outbox = self._serial.outbox
        done: list[tuple[int, int]] = []
        try:
            while len(outbox) and len(done) < CONTROL_CHAINS:
                chains = self._pop(1)
                if not chains:
                    return False
                done.append((chains[0][0], self._send(chains[0])))
        finally:
            if done:
                self._give_back(done)
        return len(outbox) > 0

    def _send(self, chain: Chain) -> int:
        """Put the next message into a chain; how many bytes of it were filled."""
        views = self._views(split(chain)[1], writable=True)
        message = self._serial.outbox.first()
        if message is None or sum(map(len, views)) < MESSAGE.size:
            return 0  # no room: the message stays
        port, event, value = message
        self._serial.outbox.drop_first()
        if VIRTIO_SERIAL_SEND_CONTROL_EVENT.on:
            VIRTIO_SERIAL_SEND_CONTROL_EVENT(self._serial.transport.name, port, event, value)
        data = MESSAGE.pack(*message)
        if event == Event.PORT_NAME:
            data += self._serial.name_of(port).encode("utf-8", "replace") + b"\0"
        written = 0
        for view in views:
            part = data[written : written + len(view)]
            view[: len(part)] = part
            written += len(part)
        return written


class ControlReceiver(Worker):
    """Messages from the driver."""

    def _serve(self) -> bool:
        done: list[tuple[int, int]] = []
        costly = False
        try:
            while len(done) < CONTROL_CHAINS and not costly:
                chains = self._pop(1)
                if not chains:
                    return False
                costly = self._take(chains[0])
                done.append((chains[0][0], 0))
        finally:
            if done:
                self._give_back(done)
        return True

    def _take(self, chain: Chain) -> bool:
        """Obey a message; True when that took long."""
        readable = split(chain)[0]
        if total(readable) < MESSAGE.size:
            return False  # it says nothing
        try:
            data, _ = take_front(self._memory, readable, MESSAGE.size)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None
        port, event, value = MESSAGE.unpack(data)
        self._serial.control(port, event, value)
        return bool(event == Event.DEVICE_READY)  # about every port

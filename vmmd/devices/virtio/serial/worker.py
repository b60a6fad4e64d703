# SPDX-License-Identifier: Apache-2.0
"""What the loop's sides of all virtio-serial queues share, and those of the two control queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.core.trace_events import VIRTIO_QUEUE_NOTIFY, VIRTIO_SERIAL_SEND_CONTROL_EVENT
from vmmd.devices.virtio.chain import Pairs, resolve, split, take_front, total
from vmmd.devices.virtio.queue import RingError, VirtQueue
from vmmd.devices.virtio.serial.messages import MESSAGE, Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.serial.device import VirtioSerial

#: chains of one turn of the loop
CONTROL_CHAINS = 32


class Worker:
    """Base. Loop thread, without the lock; ``abandon`` as QueueWorker says."""

    def __init__(self, serial: VirtioSerial, index: int, ring: VirtQueue) -> None:
        self.ring = ring
        self._serial = serial
        self._index = index
        self._counters = serial.counters[index]
        self._memory = serial.transport.dma
        self._scheduled = False
        self.closed = False

    def kick(self) -> None:
        if VIRTIO_QUEUE_NOTIFY.on:
            VIRTIO_QUEUE_NOTIFY(self._serial.transport.name, self._index)
        self._counters.notifications += 1
        self.look()

    def look(self) -> None:
        self._scheduled = False
        if self.closed or self._serial.paused:
            return
        try:
            more = self._serve()
        except RingError as error:
            self._fail(error)
            return
        if more:
            self.schedule()

    def schedule(self) -> None:
        """Look in the loop's next turn."""
        if not self._scheduled:
            self._scheduled = True
            self._serial.ctx.loop.post(self.look)

    def _serve(self) -> bool:
        """Do a bounded part of what there is to do; True when there is more. Raises RingError."""
        raise NotImplementedError

    def _fail(self, error: RingError) -> None:
        """The driver broke a rule. Posted: the caller may hold the DeviceLock."""
        self.closed = True
        self._serial.ctx.loop.post(self._serial.worker_failed, self, f"queue {self._index}: {error}")

    def _pop(self, limit: int) -> list[Chain]:
        """New chains; empty: the driver rings when there are some. Raises RingError."""
        chains = self.ring.pop_batch(limit)
        if not chains and self.ring.enable_notify():  # some that came meanwhile
            chains = self.ring.pop_batch(limit)
        return chains

    def _views(self, pairs: Pairs, *, writable: bool) -> list[memoryview]:
        try:
            return resolve(self._memory, pairs, writable=writable)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None

    def _give_back(self, done: list[tuple[int, int]], *, posted: bool = False) -> None:
        """(head, bytes written) of finished chains. ``posted``: the caller holds the DeviceLock."""
        self.ring.push_batch(done)
        self._counters.requests += len(done)
        if self.ring.publish():
            self._counters.interrupts += 1
            if posted:
                self._serial.ctx.loop.post(self._serial.transport.interrupt_queue, self._index)
            else:
                self._serial.transport.interrupt_queue(self._index)

    def stop(self, done: Callable[[], None]) -> None:
        """What is in hand is not lost: whoever goes on with these rings takes it again."""
        self.closed = True
        unserved = self._forget()
        self.ring.resume_at(self.ring.last_avail - unserved, self.ring.used_index)
        done()

    def abandon(self) -> None:
        self.closed = True
        self._forget()

    def _forget(self) -> int:
        """Let go of popped chains; how many there were, which are the latest."""
        return 0


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

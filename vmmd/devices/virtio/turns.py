# SPDX-License-Identifier: Apache-2.0
"""What the loop's sides of queues have in common whose devices need no extreme speed: rng, balloon, serial.

They serve in turns: a bounded part of the work, then the loop has others to look after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.trace_events import VIRTIO_QUEUE_NOTIFY
from vmmd.devices.virtio.queue import RingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.device import VirtioDevice
    from vmmd.devices.virtio.queue import VirtQueue


class TurnWorker:
    """Base of such workers. Loop thread, without the lock; ``abandon`` as QueueWorker says."""

    def __init__(self, device: VirtioDevice, index: int, ring: VirtQueue) -> None:
        self.ring = ring
        self.closed = False  # takes no more chains: stopped, or its ring is broken
        self._device = device
        self._index = index
        self._counters = device.counters[index]
        self._memory = device.transport.dma
        self._scheduled = False

    def kick(self) -> None:
        if VIRTIO_QUEUE_NOTIFY.on:
            VIRTIO_QUEUE_NOTIFY(self._device.transport.name, self._index)
        self._counters.notifications += 1
        self.look()

    def look(self) -> None:
        """Do what there is to do, for one turn."""
        self._scheduled = False
        if self.closed or self._device.paused:
            return
        try:
            more = self._serve()
        except RingError as error:
            self._fail(error)
        except Exception:  # this device is broken, the loop and the others go on (safety.md P7)
            self._device.log_defect("queue %d: a chain could not be served", self._index)
            self._fail(RingError("the device has failed, see the log"))
        else:
            if more:
                self.schedule()

    def schedule(self) -> None:
        """Look in the loop's next turn. Any thread."""
        if not self._scheduled:
            self._scheduled = True
            self._device.ctx.loop.post(self.look)

    def _serve(self) -> bool:
        """One turn's work; True when there is more. Raises RingError."""
        raise NotImplementedError

    def _fail(self, error: RingError) -> None:
        """The driver broke a rule."""
        self.closed = True
        self._device.worker_failed(self, f"queue {self._index}: {error}")

    def _pop(self, limit: int) -> list[Chain]:
        """New chains; empty: the driver rings when there are some. Raises RingError."""
        chains = self.ring.pop_batch(limit)
        if not chains and self.ring.enable_notify():  # some that came meanwhile
            chains = self.ring.pop_batch(limit)
        return chains

    def _publish(self) -> None:
        """Show the driver what was pushed, and interrupt if it wants that."""
        if self.ring.publish():
            self._counters.interrupts += 1
            self._device.transport.interrupt_queue(self._index)

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

# SPDX-License-Identifier: Apache-2.0
"""What the loop's sides of all virtio-net queues have in common. Loop thread, without the lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.trace_events import VIRTIO_QUEUE_NOTIFY
from vmmd.devices.virtio.queue import RingError, VirtQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.virtio.net.device import VirtioNet

#: chains taken from a ring at once (safety.md P5)
BATCH = 64
#: a turn ends with the batch that ends later than this
TURN_NS = 100_000


class NetWorker:
    """Handler of one active queue. Subclasses take chains in ``serve``."""

    __slots__ = ("_counters", "_home", "_index", "_memory", "_net", "_scheduled", "closed", "pair", "ring")

    def __init__(self, net: VirtioNet, index: int, ring: VirtQueue) -> None:
        self.ring = ring
        self.pair = index // 2
        self.closed = False  # takes no more chains: stopped, or its ring is broken
        self._net = net
        self._index = index
        self._counters = net.counters[index]
        self._memory = net.transport.dma
        #: the RAM region that the short way serves
        self._home = max(self._memory.regions, key=lambda region: region.size_bytes)
        self._scheduled = False

    def kick(self) -> None:
        self.count_kick()
        self.look()

    def count_kick(self) -> None:
        """The driver has rung."""
        if VIRTIO_QUEUE_NOTIFY.on:
            VIRTIO_QUEUE_NOTIFY(self._net.transport.name, self._index)
        self._counters.notifications += 1

    def look(self) -> None:
        """Do what there is to do, a bounded amount."""
        self._scheduled = False
        self.guarded(self.serve)

    def guarded(self, work: Callable[[], None]) -> None:
        """``work()`` unless the queue rests; what goes wrong breaks this device only (safety.md P7)."""
        if self.closed or not self._net.serves(self.pair):
            return
        try:
            work()
        except RingError as error:
            self._broken(str(error))
        except Exception:
            self._net.log_defect("queue %d: a frame could not be handled", self._index)
            self._broken("the device has failed, see the log")

    def serve(self) -> None:
        """The queue is not closed, the VM runs, the netdev is set up. Raises RingError."""
        raise NotImplementedError

    def rest(self) -> None:
        """Hold nothing: the VM stops, or the queue does."""

    def schedule(self) -> None:
        """Go on in the loop's next turn; the others have theirs before."""
        if not self._scheduled:
            self._scheduled = True
            self._net.ctx.loop.post(self.look)

    def give_back(self, count: int) -> None:
        """``count`` chains were pushed: show them, and interrupt if the driver wants it."""
        self._counters.requests += count
        if self.ring.publish():
            self._counters.interrupts += 1
            self._net.transport.interrupt_queue(self._index)

    def _broken(self, reason: str) -> None:
        self.closed = True
        self.rest()
        self._net.worker_failed(self, f"queue {self._index}: {reason}")

    def stop(self, done: Callable[[], None]) -> None:
        self.rest()
        self.closed = True
        done()

    def abandon(self) -> None:
        self.closed = True
        if self._net.ctx.loop.on_loop_thread():
            self.rest()
        else:
            self._net.ctx.loop.post(self.rest)

# SPDX-License-Identifier: Apache-2.0
"""The loop's side of virtio-rng's queue: takes one chain at a time, asks for random bytes, fills it.

A chain gets as many bytes as it can hold, up to 64 KiB, and what the rate limit leaves (virtio 1.2 §5.4.6: the device
may give less than the buffer holds, but at least one byte).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.core.trace_events import VIRTIO_QUEUE_NOTIFY
from vmmd.devices.virtio.chain import Pairs, resolve, split, total
from vmmd.devices.virtio.queue import RingError, VirtQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.virtio.rng.device import VirtioRng

#: a chain can describe more memory than the guest has (safety.md P6)
REQUEST_BYTES_MAX = 64 << 10
#: chains in one turn of the loop, as long as bytes come at once
TURN_CHAINS = 4


class RngWorker:
    """Loop thread, without the lock; ``abandon`` as QueueWorker says."""

    def __init__(self, rng: VirtioRng, index: int, ring: VirtQueue) -> None:
        self.ring = ring
        self._rng = rng
        self._index = index
        self._counters = rng.counters[index]
        self._memory = rng.transport.dma
        self._head: int | None = None  # the chain that waits for bytes
        self._buffers: Pairs = []
        self._asked = False
        self._scheduled = False
        self.closed = False

    def kick(self) -> None:
        if VIRTIO_QUEUE_NOTIFY.on:
            VIRTIO_QUEUE_NOTIFY(self._rng.transport.name, self._index)
        self._counters.notifications += 1
        self.look()

    def look(self) -> None:
        """Serve what is there, a bounded number of chains a turn."""
        self._scheduled = False
        try:
            for _ in range(TURN_CHAINS):
                if not self._next():
                    return
        except RingError as error:
            self.closed = True
            self._rng.worker_failed(self, f"queue {self._index}: {error}")
            return
        if not self._scheduled:
            self._scheduled = True
            self._rng.ctx.loop.post(self.look)

    def _next(self) -> bool:
        """Take a chain and ask for its bytes. False when there is nothing to do now."""
        if self.closed or self._rng.paused or self._asked:
            return False
        if self._head is None and not self._take():
            return False
        if not self._buffers:  # no room: given back, and it counts, since the guest may publish as fast as we take
            self._give_back(0)
            return True
        count = self._rng.grant(min(total(self._buffers), REQUEST_BYTES_MAX))
        if not count:
            return False  # the rate limit's timer looks again
        self._asked = True
        self._rng.source.read(count, self._arrived)
        return not self._asked

    def _take(self) -> bool:
        """Take the next chain; False when there is none."""
        chains = self.ring.pop_batch(1)
        if not chains and self.ring.enable_notify():  # one that came meanwhile
            chains = self.ring.pop_batch(1)
        if not chains:
            return False
        self._head, (_, self._buffers) = chains[0][0], split(chains[0])
        return True

    def _arrived(self, data: bytes) -> None:
        """Random bytes, at least one."""
        self._asked = False
        if self.closed or self._head is None:
            return
        self._rng.spend(len(data))
        try:
            self._fill(data)
        except RingError as error:
            self.closed = True
            self._rng.worker_failed(self, f"queue {self._index}: {error}")
            return
        if not self._scheduled:
            self._scheduled = True
            self._rng.ctx.loop.post(self.look)

    def _fill(self, data: bytes) -> None:
        try:  # all of the chain, whatever part of it is filled (safety.md §3.2 #4)
            views = resolve(self._memory, self._buffers, writable=True)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None
        at = 0
        for view in views:
            part = data[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        self._give_back(at)

    def _give_back(self, written: int) -> None:
        assert self._head is not None  # the callers have looked
        self.ring.push(self._head, written)
        self._head, self._buffers = None, []
        self._counters.requests += 1
        if self.ring.publish():
            self._counters.interrupts += 1
            self._rng.transport.interrupt_queue(self._index)

    def stop(self, done: Callable[[], None]) -> None:
        """The chain that waits is not lost: whoever goes on with these rings takes it again."""
        self.closed = True
        self._forget()
        done()

    def pause(self) -> None:
        """The VM stops: nothing is asked for any more, the chain waits."""
        if self._asked:
            self._asked = False
            self._rng.source.cancel()

    def abandon(self) -> None:
        self.closed = True
        self._forget()

    def _forget(self) -> None:
        self.pause()
        if self._head is not None:
            self.ring.resume_at(self.ring.last_avail - 1, self.ring.used_index)
            self._head = None

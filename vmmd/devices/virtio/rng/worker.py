# SPDX-License-Identifier: Apache-2.0
"""The loop's side of virtio-rng's queue: takes one chain at a time, asks for random bytes, fills it.

A chain gets as many bytes as it can hold, up to 64 KiB, and what the rate limit leaves (virtio 1.2 §5.4.6: the device
may give less than the buffer holds, but at least one byte).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.chain import Pairs, resolve, split, total
from vmmd.devices.virtio.queue import RingError, VirtQueue
from vmmd.devices.virtio.turns import TurnWorker

if TYPE_CHECKING:
    from vmmd.devices.virtio.rng.device import VirtioRng

#: a chain can describe more memory than the guest has (safety.md P6)
REQUEST_BYTES_MAX = 64 << 10
#: chains in one turn of the loop, as long as bytes come at once
TURN_CHAINS = 4


class RngWorker(TurnWorker):
    """The handler of the queue."""

    def __init__(self, rng: VirtioRng, index: int, ring: VirtQueue) -> None:
        super().__init__(rng, index, ring)
        self._rng = rng
        self._head: int | None = None  # the chain that waits for bytes
        self._buffers: Pairs = []
        self._asked = False

    def _serve(self) -> bool:
        return all(self._next() for _ in range(TURN_CHAINS))

    def _next(self) -> bool:
        """Take a chain and ask for its bytes. False when there is nothing to do now."""
        if self.closed or self._asked:
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
        chains = self._pop(1)
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
            self._fail(error)
            return
        self.schedule()

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
        self._publish()

    def pause(self) -> None:
        """The VM stops: nothing is asked for any more, the chain waits."""
        if self._asked:
            self._asked = False
            self._rng.source.cancel()

    def _forget(self) -> int:
        self.pause()
        head, self._head = self._head, None
        return int(head is not None)

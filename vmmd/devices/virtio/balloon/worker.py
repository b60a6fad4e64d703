# SPDX-License-Identifier: Apache-2.0
"""The loop's side of the balloon's queues: of those whose chains are lists of pages, and of the statistics queue.

A page worker takes one chain after the other, does what it asks for in bounded steps, and ends its turn by the clock.
The statistics worker keeps the guest's buffer until the host wants new numbers (virtio 1.2 §5.5.6.3).
"""

from __future__ import annotations

import struct
from time import monotonic_ns
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.chain import Pairs, split, take_front, total
from vmmd.devices.virtio.queue import RingError
from vmmd.devices.virtio.turns import TurnWorker
from vmmd.units import NS_PER_US

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmmd.devices.virtio.balloon.device import VirtioBalloon
    from vmmd.devices.virtio.queue import VirtQueue

TURN_NS = 150 * NS_PER_US
#: one statistic: tag and value (§5.5.6.3.1)
STATISTIC = struct.Struct("<HQ")
STATISTICS_MAX = 64  # read of one buffer
#: buffers in one turn of the loop: a lawful driver has one
TURN_BUFFERS = 4


class BalloonWorker(TurnWorker):
    """What both kinds have in common: one chain at a time, one interrupt a turn."""

    def __init__(self, balloon: VirtioBalloon, index: int, ring: VirtQueue) -> None:
        super().__init__(balloon, index, ring)
        self._balloon = balloon
        self._head: int | None = None  # the chain in hand

    def _serve(self) -> bool:
        try:
            return self._turn()
        finally:
            self._publish()

    def _turn(self) -> bool:
        """One turn's work; True when there is more. Raises RingError."""
        raise NotImplementedError

    def _take(self) -> tuple[Pairs, Pairs] | None:
        """Take the next chain in hand: its readable and writable pairs; None when there is none."""
        chains = self._pop(1)
        if not chains:
            return None
        self._head = chains[0][0]
        return split(chains[0])

    def _give_back(self) -> None:
        assert self._head is not None  # the callers have looked
        self.ring.push(self._head, 0)
        self._head = None
        self._counters.requests += 1

    def _forget(self) -> int:
        head, self._head = self._head, None
        return int(head is not None)


class PageWorker(BalloonWorker):
    """A queue of pages that the guest gives away, takes back, or reports as free."""

    def __init__(
        self,
        balloon: VirtioBalloon,
        index: int,
        ring: VirtQueue,
        begin: Callable[[Pairs, Pairs], Iterator[None]],
    ) -> None:
        """``begin(readable, writable)`` does what a chain asks for, a bounded piece a step."""
        super().__init__(balloon, index, ring)
        self._begin = begin
        self._work: Iterator[None] = iter(())

    def _turn(self) -> bool:
        ends = monotonic_ns() + TURN_NS
        while monotonic_ns() < ends:
            if self._head is None:
                chain = self._take()
                if chain is None:
                    return False
                self._work = self._begin(*chain)
            for _ in self._work:
                break
            else:
                self._give_back()
        return True


class StatisticsWorker(BalloonWorker):
    """The statistics queue."""

    def __init__(self, balloon: VirtioBalloon, index: int, ring: VirtQueue) -> None:
        super().__init__(balloon, index, ring)
        self._wanted = False  # the buffer in hand is to go back, so that the guest fills it anew

    @property
    def waiting(self) -> bool:
        """The guest's buffer is here."""
        return self._head is not None

    def want(self) -> None:
        """Have the guest fill its buffer anew."""
        self._wanted = True
        self.look()

    def _turn(self) -> bool:
        for _ in range(TURN_BUFFERS):
            if self._wanted and self._head is not None:
                self._wanted = False
                self._give_back()
            if not self._receive():
                return False
        return True

    def _receive(self) -> bool:
        """Take a buffer with numbers, if there is one. One that is here still goes back: the driver should not have
        sent another."""
        before, self._head = self._head, None
        chain = self._take()
        if chain is None:
            self._head = before
            return False
        if before is not None:
            taken, self._head = self._head, before
            self._give_back()
            self._head = taken
        readable = chain[0]
        count = min(total(readable) // STATISTIC.size, STATISTICS_MAX)
        try:
            data, _ = take_front(self._memory, readable, count * STATISTIC.size) if count else (b"", readable)
        except GuestAddressError as error:
            raise RingError(f"statistics that are not in RAM: {error}") from None
        self._balloon.statistics_arrived(STATISTIC.iter_unpack(data))
        return True

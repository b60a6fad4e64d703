# SPDX-License-Identifier: Apache-2.0
"""virtio-net: the loop's side of a transmit queue (virtio 1.2 §5.1.6.2): chains → views of guest memory → netdev.

Frames leave in order, without a copy, header included where the netdev knows it. What the netdev has no room for stays
in the ring. A driver that answered frames at once is awaited for some microseconds after the next ones, and need not
ring: where its processor runs beside the loop's, that halves a round trip. ``DelayedTxWorker`` (tx=timer) collects
frames for a while before it sends them.
"""

from __future__ import annotations

import os
from time import monotonic_ns
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.net.header import FRAME_BYTES_MAX, LONG_BYTES, cut_front
from vmmd.devices.virtio.net.worker import BATCH, TURN_NS, NetWorker
from vmmd.devices.virtio.queue import RingError

if TYPE_CHECKING:
    from vmmd.core.backend import NetQueue
    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.net.device import VirtioNet
    from vmmd.devices.virtio.queue import VirtQueue

#: an answer is awaited for so long
AWAITED_NS = 15_000
#: ... by one who has seen doorbells so soon after frames, 1 to SOON_NEEDED_MAX of them
SOON_NS = 200_000
SOON_NEEDED_MAX = 16
#: missing answers in a row that are forgiven, to begin with and to one who has answered often
TRUST_FIRST = 2
TRUST_MAX = 8

_write = os.write
_writev = os.writev
_BYTES_MAX = FRAME_BYTES_MAX + LONG_BYTES


class TxWorker(NetWorker):
    """Sends what the driver makes available."""

    __slots__ = ("_blocked", "_delivered_ns", "_expecting", "_soon", "_soon_needed", "_trust")

    def __init__(self, net: VirtioNet, index: int, ring: VirtQueue) -> None:
        super().__init__(net, index, ring)
        self._blocked = False  # the netdev has no room
        self._delivered_ns = 0  # when the driver received last
        self._expecting = False  # notifications are off for an answer
        self._trust = 0  # so many answers may be missing in a row
        self._soon = 0  # doorbells that came soon after frames
        self._soon_needed = 1  # ... before an answer is awaited again

    # -- a driver that answers: its frame is awaited for a moment, which spares both sides the doorbell ------------

    def kick(self) -> None:
        if self._trust <= 0 and monotonic_ns() - self._delivered_ns < SOON_NS:
            self._soon += 1
            if self._soon >= self._soon_needed:
                self._soon, self._trust = 0, TRUST_FIRST
        super().kick()

    def expect_answer(self) -> None:
        """Frames are about to be shown to the driver."""
        self._expecting = self._trust > 0 and not self._blocked and not self.closed
        if self._expecting:
            self.ring.withdraw_notify()

    def await_answer(self) -> None:
        """Frames were shown to the driver. Waits for what it sends only if it was quick the last times."""
        self._delivered_ns = now_ns = monotonic_ns()
        if not self._expecting:
            return
        self._expecting = False
        has_work, end_ns = self.ring.has_work, now_ns + AWAITED_NS
        while not (answered := has_work()) and monotonic_ns() < end_ns:
            pass
        if answered:
            self._trust = min(self._trust + 1, TRUST_MAX)
            self._soon_needed = 1
        else:
            self._trust -= 1
            if not self._trust:
                self._soon_needed = min(2 * self._soon_needed, SOON_NEEDED_MAX)
        self.look()

    def serve(self) -> None:
        if self._blocked:
            return
        ring, left = self.ring, self._net.options.tx_burst
        end_ns = monotonic_ns() + TURN_NS
        ring.disable_notify()
        while True:
            count = self._some(min(BATCH, left))
            if self._blocked:
                return  # notifications stay off
            if count:
                left -= count
                if left <= 0 or monotonic_ns() > end_ns:
                    self.schedule()
                    return
                if ring.has_work():
                    continue
            if not ring.enable_notify():
                return
            ring.disable_notify()

    def _some(self, limit: int) -> int:
        """Take up to ``limit`` frames from the ring, send them, give back what was sent; how many were taken."""
        net, ring = self._net, self.ring
        queue, skip = net.queue(self.pair), net.added_header_bytes
        heads, frames = ring.pop_buffers(limit, skip, _BYTES_MAX)
        if heads:
            sent = len(heads) if queue is None else self._send_buffers(queue, frames)
        else:
            chains = ring.pop_batch(limit)
            if not chains:
                return 0
            heads = [chain[0] for chain in chains]
            sent = len(heads) if queue is None else self._send_chains(queue, chains, skip)
        if sent < len(heads):
            ring.unpop(len(heads) - sent)
            self._blocked = True
        if sent:
            ring.push_many(heads[:sent])
            self.give_back(sent)
        return len(heads)

    def _send_buffers(self, queue: NetQueue, frames: list[memoryview]) -> int:
        """Hand frames of one buffer each to the netdev; how many it took. The hot loop."""
        fd = self._net.direct_fd(self.pair)
        at = 0
        while at < len(frames):
            if fd is not None:
                try:
                    for at in range(at, len(frames)):  # noqa: B020  # goes on where it was
                        _write(fd, frames[at])
                    return len(frames)
                except OSError:
                    pass  # ``queue.write`` meets it again, and knows what it means
            if not queue.write([frames[at]]):
                return at
            at += 1
        return at

    def _send_chains(self, queue: NetQueue, chains: list[Chain], skip: int) -> int:
        """The same for chains of any shape."""
        fd = self._net.direct_fd(self.pair)
        for number, chain in enumerate(chains):
            frame = self._frame(chain, skip)
            if not frame:
                continue
            if fd is not None:
                try:
                    _writev(fd, frame)
                    continue
                except OSError:
                    pass
            if not queue.write(frame):
                return number
        return len(chains)

    def _frame(self, chain: Chain, skip: int) -> list[memoryview]:
        """A frame of any shape, without its first ``skip`` bytes. Empty when it is too long, or no longer than that."""
        if not chain[1]:
            raise RingError("a frame without buffers")
        home, size = self._home, 0
        base, end, data = home.gpa, home.end, home.bytes_
        views: list[memoryview] = []
        for at in range(2, 2 + 2 * chain[1], 2):
            gpa, length = chain[at], chain[at + 1]
            size += length
            if size > _BYTES_MAX:
                return []
            if base <= gpa and gpa + length <= end:
                views.append(data[gpa - base : gpa - base + length])
            else:
                views += self._elsewhere(gpa, length)
        if size <= skip:
            return []
        return cut_front(views, skip)[1] if skip else views

    def _elsewhere(self, gpa: int, length: int) -> list[memoryview]:
        try:
            return self._memory.views(gpa, length)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None

    def rest(self) -> None:
        self._blocked = False  # asked again when the queue goes on

    def writable(self) -> None:
        """The netdev has room again."""
        self._blocked = False
        self.look()


class DelayedTxWorker(TxWorker):
    """tx=timer: the first notification starts a delay, its end or a second notification sends."""

    __slots__ = ("_timer",)

    def __init__(self, net: VirtioNet, index: int, ring: VirtQueue) -> None:
        super().__init__(net, index, ring)
        self._timer = net.ctx.clock.timer(self._over)

    def kick(self) -> None:
        self.count_kick()
        self.guarded(self._collect)

    def _collect(self) -> None:
        ctx = self._net.ctx
        with ctx.lock:
            waiting = self._timer.deadline_ns is not None
            if waiting:
                self._timer.cancel()
            else:
                self._timer.arm(ctx.clock.now_ns() + self._net.options.tx_delay_ns)
        if waiting:
            self.serve()
        else:
            self.ring.disable_notify()

    def _over(self) -> None:
        """DeviceLock held."""
        self._net.ctx.loop.post(self.look)

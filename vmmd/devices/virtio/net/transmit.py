# SPDX-License-Identifier: Apache-2.0
"""virtio-net: the loop's side of a transmit queue (virtio 1.2 §5.1.6.2): chains → views of guest memory → netdev.

Frames leave in order, without a copy, header included where the netdev knows it. What the netdev has no room for stays
in the ring. ``DelayedTxWorker`` (tx=timer) collects frames for a while before it sends them.
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
    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.net.device import VirtioNet
    from vmmd.devices.virtio.queue import VirtQueue

_writev = os.writev
_BYTES_MAX = FRAME_BYTES_MAX + LONG_BYTES
#: looks at the ring after the last batch before notifications are enabled again: adaptive between the two
POLL_MIN, POLL_MAX = 2, 128
#: every so many doorbells the longest look is tried, to find out whether it would pay off
POLL_TRIAL = 16


class TxWorker(NetWorker):
    """Sends what the driver makes available."""

    __slots__ = ("_blocked", "_kicks", "_poll_limit")

    def __init__(self, net: VirtioNet, index: int, ring: VirtQueue) -> None:
        super().__init__(net, index, ring)
        self._blocked = False  # the netdev has no room
        self._poll_limit = POLL_MIN
        self._kicks = 0

    def serve(self) -> None:
        if self._blocked:
            return
        self._kicks += 1
        if not self._kicks % POLL_TRIAL:
            self._poll_limit = POLL_MAX
        ring, left = self.ring, self._net.options.tx_burst
        end_ns = monotonic_ns() + TURN_NS
        ring.disable_notify()
        while True:
            chains = ring.pop_batch(min(BATCH, left))
            if chains:
                self._transmit(chains)
                if self._blocked:
                    return  # notifications stay off
                left -= len(chains)
                if left <= 0 or monotonic_ns() > end_ns:
                    self.schedule()
                    return
            elif not self._poll():
                if not ring.enable_notify():
                    return
                ring.disable_notify()

    def _transmit(self, chains: list[Chain]) -> None:
        """Send, and give back what was sent; the rest stays in the ring."""
        ring = self.ring
        sent = self._send(chains)
        if sent < len(chains):
            ring.unpop(len(chains) - sent)
            del chains[sent:]
            self._blocked = True
        if chains:
            ring.push_many([chain[0] for chain in chains])
            self.give_back(len(chains))

    def _poll(self) -> bool:
        """Look again for a moment; longer where that paid off lately."""
        has_work = self.ring.has_work
        for _ in range(self._poll_limit):
            if has_work():
                self._poll_limit = min(2 * self._poll_limit, POLL_MAX)
                return True
        self._poll_limit = max(self._poll_limit >> 1, POLL_MIN)
        return False

    def _send(self, chains: list[Chain]) -> int:
        """Hand frames to the netdev; how many it took. The hot loop: the common shape, one buffer, is in line."""
        net, home = self._net, self._home
        queue, fd, skip = net.queue(self.pair), net.direct_fd(self.pair), net.added_header_bytes
        if queue is None:
            return len(chains)  # nobody is there
        base, end, data = home.gpa, home.end, home.bytes_
        for number, chain in enumerate(chains):
            if (
                len(chain) == 4 and chain[1] and base <= (gpa := chain[2])
                and gpa + (length := chain[3]) <= end and skip < length <= _BYTES_MAX
            ):  # fmt: skip
                frame = [data[gpa - base + skip : gpa - base + length]]
            else:
                frame = self._frame(chain, skip)
                if not frame:
                    continue
            if fd is not None:
                try:
                    _writev(fd, frame)
                    continue
                except OSError:
                    pass  # ``write`` meets it again, and knows what it means
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

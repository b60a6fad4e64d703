# SPDX-License-Identifier: Apache-2.0
"""virtio-net: the loop's side of a transmit queue (virtio 1.2 §5.1.6.2): chains → views of guest memory → netdev.

Frames leave in order, without a copy, header included where the netdev knows it. What the netdev has no room for stays
in the ring. ``DelayedTxWorker`` (tx=timer) collects frames for a while before it sends them.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.chain import resolve, split, total
from vmmd.devices.virtio.net.header import FRAME_BYTES_MAX, LONG_BYTES, cut_front
from vmmd.devices.virtio.net.worker import BATCH, TURN_NS, NetWorker
from vmmd.devices.virtio.queue import RingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.net.device import VirtioNet
    from vmmd.devices.virtio.queue import VirtQueue

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
            ring.push_read(chains)
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

    def _send(self, chains: list[Chain]) -> int:  # noqa: C901  # the hot loop: both common shapes in line
        """Hand frames to the netdev; how many it took. The common shapes, one or two buffers, are in line."""
        queue, home, skip = self._net.tx_queue(self.pair), self._home, self._net.added_header_bytes
        if queue is None:
            return len(chains)  # nobody is there
        base, end, data, write = home.gpa, home.end, home.bytes_, queue.write
        for number, chain in enumerate(chains):
            if len(chain) == 4 and chain[1]:
                _, _, gpa, length = chain
                if base <= gpa and gpa + length <= end and skip < length <= _BYTES_MAX:
                    if not write([data[gpa - base + skip : gpa - base + length]]):
                        return number
                    continue
            elif len(chain) == 6 and chain[1] == 2:
                _, _, gpa, length, gpa1, length1 = chain
                if (
                    base <= gpa and gpa + length <= end and base <= gpa1 and gpa1 + length1 <= end
                    and length + length1 <= _BYTES_MAX
                ):  # fmt: skip
                    frame = data[gpa1 - base : gpa1 - base + length1]
                    if not skip:
                        if not write([data[gpa - base : gpa - base + length], frame]):
                            return number
                        continue
                    if skip == length:
                        if not write([frame]):
                            return number
                        continue
            if not self._send_any(chain, write, skip):
                return number
        return len(chains)

    def _send_any(self, chain: Chain, write: Callable[[list[memoryview]], bool], skip: int) -> bool:
        """A frame of any shape. One that is too long, or shorter than its header, is gone."""
        readable, _ = split(chain)
        if not readable:
            raise RingError("a frame without buffers")
        if not skip < total(readable) <= _BYTES_MAX:
            return True
        try:
            views = resolve(self._memory, readable, writable=True)  # read only, but of one kind with the short ways
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None
        return write(cut_front(views, skip)[1] if skip else views)

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

    def serve(self) -> None:
        ctx = self._net.ctx
        with ctx.lock:
            waiting = self._timer.deadline_ns is not None
            if waiting:
                self._timer.cancel()
            else:
                self._timer.arm(ctx.clock.now_ns() + self._net.options.tx_delay_ns)
        if waiting:
            super().serve()
        else:
            self.ring.disable_notify()

    def _over(self) -> None:
        """DeviceLock held."""
        self._net.ctx.loop.post(self.guarded, super().serve)

    def schedule(self) -> None:
        self._net.ctx.loop.post(self.guarded, super().serve)

    def writable(self) -> None:
        self._blocked = False
        self.guarded(super().serve)

# SPDX-License-Identifier: Apache-2.0
"""virtio-net: the loop's side of a receive queue (virtio 1.2 §5.1.6.3, §5.1.6.4): netdev → the driver's buffers.

Chains are taken from the ring ahead of the frames, and a frame is read into one by the call that takes it from the
host. While the driver has no buffers posted nothing is read: the host keeps the frames. With mergeable buffers a frame
may need several chains. As many as the last long frame needed are offered at once, half as many after each that was
shorter; a frame that is longer overflows into a buffer of vmmd's and is copied from there (or waits there, when the
driver has too few).
"""

from __future__ import annotations

import os
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.chain import resolve, split, total
from vmmd.devices.virtio.net.features import F_MRG_RXBUF
from vmmd.devices.virtio.net.filter import LOOKED_AT
from vmmd.devices.virtio.net.header import (
    FRAME_BYTES_MAX,
    LONG_BYTES,
    ONE_BUFFER,
    SHORT_BYTES,
    cut_front,
    fill,
    gather,
)
from vmmd.devices.virtio.net.worker import BATCH, TURN_NS, NetWorker
from vmmd.devices.virtio.queue import RingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import NetQueue
    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.net.device import VirtioNet
    from vmmd.devices.virtio.queue import VirtQueue

#: frames between two looks at the clock, and interrupts
FRAMES_A_LOOK = 48
#: chains offered for a frame at most; longer ones overflow
SPAN_MAX = 64
#: buffers of one read (IOV_MAX)
BUFFERS_MAX = 1024
#: buffers that a frame may be spread over; one that needs more is gone
_PIECES_MAX = 2048
_SPILL_BYTES = FRAME_BYTES_MAX + LONG_BYTES

_readv = os.readv


class Place(NamedTuple):
    """A chain of any shape, as it is read into."""

    head: int
    room: int  # bytes that a read may put into it
    views: list[memoryview]  # what is read into: from the driver's header on, or behind it
    header: list[memoryview]  # the driver's header, when it is the first of its frame


class RxWorker(NetWorker):
    """Fills what the driver makes available."""

    __slots__ = (
        "_added", "_at", "_bare_header", "_chains", "_header_bytes", "_heads", "_held", "_lengths", "_mergeable",
        "_numbered", "_queue", "_span", "_spill", "_watching",
    )  # fmt: skip

    def __init__(self, net: VirtioNet, index: int, ring: VirtQueue) -> None:
        super().__init__(net, index, ring)
        self._mergeable = bool(net.accepted_features & F_MRG_RXBUF)
        self._header_bytes = net.header_bytes
        self._numbered = self._header_bytes == LONG_BYTES
        #: of a frame that came without one
        self._bare_header = bytes(SHORT_BYTES) + (ONE_BUFFER if self._numbered else b"")
        self._added = 0  # bytes of a header that the netdev does not know: all of it, or none
        self._queue: NetQueue | None = None  # while it is watched
        self._watching = False
        #: popped from the ring; from ``_at`` on they wait for frames, those before it have theirs
        self._chains: list[Chain] = []
        self._at = 0
        self._span = 1  # chains offered for a frame: half as many for each that needs fewer
        self._spill = memoryview(bytearray(_SPILL_BYTES))
        self._held: bytes | None = None  # a frame that needs more chains than there are
        #: chains of this batch that hold frames, and the bytes in each
        self._heads: list[int] = []
        self._lengths: list[int] = []

    # -- when to read --------------------------------------------------------------------------------------

    def serve(self) -> None:
        """The driver may have posted buffers: let frames come, and take those that wait."""
        if not self._watching:
            self._queue = self._net.queue(self.pair)
            self._added = self._net.added_header_bytes
            if self._queue is None or not self._ready(1):
                return
            self._watching = True
            self._queue.watch(True)
            self.receive()

    def readable(self) -> None:
        """Frames wait at the netdev."""
        if self._watching:
            self.guarded(self.receive)

    def _out_of_buffers(self) -> None:
        """The host keeps the frames until the driver rings."""
        if self._watching and self._queue is not None:
            self._queue.watch(False)
        self._watching = False

    def rest(self) -> None:
        self._out_of_buffers()
        self.ring.unpop(len(self._chains) - self._at)
        self._chains, self._at = [], 0

    def _ready(self, count: int) -> bool:
        """Have ``count`` chains at hand, if the driver has posted so many; asks for a notification when it has not."""
        ring, chains = self.ring, self._chains
        if len(chains) - self._at < count:
            del chains[: self._at]
            self._at = 0
            ring.disable_notify()
            while len(chains) < count:
                chains += ring.pop_batch(BATCH)
                if len(chains) < count and not ring.has_work() and not ring.enable_notify():
                    return False
        return True

    # -- frames --------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Take frames from the netdev: a bounded number, and at most one interrupt for each FRAMES_A_LOOK."""
        end_ns = monotonic_ns() + TURN_NS
        more, answers = True, None
        while more and monotonic_ns() < end_ns:
            more = self._batch(end_ns)
            if self._heads:
                if answers is None:
                    answers = self._net.answers_to(self.pair)
                    if answers is not None:
                        answers.expect_answer()
                self.ring.push_many(self._heads, self._lengths)
                self.give_back(len(self._heads))
                self._heads, self._lengths = [], []
        if answers is not None:
            answers.await_answer()
        # still watched, unless there are no buffers: called again in the next turn if frames wait

    def _batch(self, end_ns: int) -> bool:  # noqa: C901  # the hot loop: a chain of one buffer is in line
        """A few frames; False when there is nothing more to do now. Those that take long do not begin after
        ``end_ns``."""
        net, queue, chains, home, spill = self._net, self._queue, self._chains, self._home, self._spill
        if queue is None or (self._held is not None and not self._deliver_held()):
            return False
        base, end, data, low = home.gpa, home.end, home.bytes_, self._header_bytes
        fd, added, numbered = net.direct_fd(self.pair), self._added, self._numbered
        read, accepts = queue.read, None if net.filter.promisc else net.filter.accepts
        at, ready = self._at, len(chains)  # of those that wait; ``self._at`` follows when somebody else looks
        for _ in range(FRAMES_A_LOOK):
            if at == ready:
                self._at = at
                if not self._ready(1):
                    self._out_of_buffers()
                    return False
                at, ready = self._at, len(chains)
            chain = chains[at]
            if (
                len(chain) != 4 or chain[1] or (gpa := chain[2]) < base or gpa + (length := chain[3]) > end
                or length <= low or self._span > 1
            ):  # fmt: skip
                self._at = at
                if monotonic_ns() >= end_ns:
                    return True
                if not self._any_frame(read):
                    return False
                at, ready = self._at, len(chains)
                continue
            start = gpa - base
            buffers = [data[start + added : start + length], spill]
            try:
                got = (read(buffers) if fd is None else _readv(fd, buffers)) + added
            except BlockingIOError:
                self._at = at
                return False
            except OSError:
                got = read(buffers) + added  # which knows what it means
            if got == added:
                self._at = at
                return False
            if accepts is not None and not accepts(self._front(buffers)):
                continue
            if got <= length:
                if added:
                    data[start : start + added] = self._bare_header
                elif numbered:
                    data[start + SHORT_BYTES] = 1
                    data[start + SHORT_BYTES + 1] = 0
                self._heads.append(chain[0])
                self._lengths.append(got)
                at += 1
            elif self._mergeable:
                self._at = at
                if not self._spread(got - added, [self._place(chain, first=True)]):
                    return False
                at, ready = self._at, len(chains)
                if at < ready and monotonic_ns() >= end_ns:  # a ring that has run dry is found to be so
                    return True
        self._at = at
        return True

    def _front(self, buffers: list[memoryview]) -> bytes:
        """The beginning of a frame that was read, for the filter."""
        skip = self._header_bytes - self._added
        return gather(buffers, skip + LOOKED_AT)[skip:]

    # -- chains of any shape, frames that need several -----------------------------------------------------------

    def _room(self, chain: Chain) -> int:
        """Bytes in it. Raises RingError."""
        room = chain[3] if len(chain) == 4 and not chain[1] else total(split(chain)[1])
        if room <= self._header_bytes:
            raise RingError(f"a receive buffer of {room} bytes")
        return room

    def _place(self, chain: Chain, *, first: bool) -> Place:
        """``first``: of its frame; there the driver's header is, and nowhere else (§5.1.6.4)."""
        added, home = self._added if first else 0, self._home
        room = self._room(chain) - added
        if len(chain) == 4 and home.gpa <= chain[2] and chain[2] + chain[3] <= home.end:
            start, data = chain[2] - home.gpa, home.bytes_
            header = data[start : start + self._header_bytes]
            return Place(chain[0], room, [data[start + added : start + chain[3]]], [header])
        _, writable = split(chain)
        try:
            views = resolve(self._memory, writable, writable=True)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None
        if len(views) >= BUFFERS_MAX:
            raise RingError(f"a receive buffer in {len(views)} pieces")
        front, _ = cut_front(views, self._header_bytes)
        if added:
            _, views = cut_front(views, added)
        return Place(chain[0], room, views, front)

    def _any_frame(self, read: Callable[[list[memoryview]], int]) -> bool:
        """The next frame, into one or more chains of any shape. False when there is nothing more to do now."""
        if len(self._chains) - self._at < self._span:
            self._chains += self.ring.pop_batch(BATCH)
        offered: list[Place] = []
        buffers: list[memoryview] = []
        for chain in self._chains[self._at : self._at + self._span]:
            place = self._place(chain, first=not offered)
            if len(buffers) + len(place.views) >= BUFFERS_MAX:
                break
            offered.append(place)
            buffers += place.views
        buffers.append(self._spill)
        got = read(buffers)
        if not got:
            return False
        self._span = (self._span + 1) // 2
        filter_ = self._net.filter
        if not filter_.promisc and not filter_.accepts(self._front(buffers)):
            return True
        if got > offered[0].room and not self._mergeable:
            return True  # longer than the driver's buffers: gone
        return self._spread(got, offered)

    def _spread(self, got: int, offered: list[Place]) -> bool:
        """A frame of ``got`` bytes was read into chains, and overflowed into the spill buffer. False when it has to
        wait for more chains."""
        over = self._spill[: max(0, got - sum(place.room for place in offered))]
        places = self._places_for(got, offered)
        if places is None:
            self._held = b"".join([*(view for place in offered for view in place.views), over])
            self._out_of_buffers()
            return False
        if not places:
            return True
        fill([view for place in places[len(offered) :] for view in place.views], over)
        self._push(got, places)
        self._span = min(max(len(places), self._span), SPAN_MAX)
        return True

    def _places_for(self, length: int, known: list[Place]) -> list[Place] | None:
        """The chains that a frame needs, of which the first are ``known``; None when there are not enough yet, none
        when there never will be: the frame is gone."""
        count = self._count_chains(length)
        if count is None:
            return None if self.ring.in_flight < self.ring.size else []
        at = self._at
        places = known[:count]
        for chain in self._chains[at + len(places) : at + count]:
            places.append(self._place(chain, first=not places))
        return places

    def _count_chains(self, length: int) -> int | None:
        """How many a frame needs; 0: so many that it cannot be. None when there are not enough."""
        count = words = 0
        length += self._added
        while self._ready(count + 1):
            for chain in self._chains[self._at + count :]:
                count += 1
                words += len(chain)
                length -= self._room(chain)
                if words > 2 * _PIECES_MAX + 2 * count:
                    return 0
                if length <= 0:
                    return count
        return None

    def _push(self, length: int, places: list[Place]) -> None:
        """``places`` hold a frame."""
        header = places[0].header
        if self._added:
            fill(header, self._bare_header)
        if self._numbered:
            fill(cut_front(header, SHORT_BYTES)[1], len(places).to_bytes(2, "little"))
        more = self._added
        for place in places:
            part = min(place.room, length)
            self._heads.append(place.head)
            self._lengths.append(part + more)
            length -= part
            more = 0
        self._at += len(places)

    def _deliver_held(self) -> bool:
        """The frame that waits for chains. False when there are still too few."""
        data = self._held
        assert data is not None  # the caller has looked
        places = self._places_for(len(data), [])
        if places is None:
            self._out_of_buffers()
            return False
        self._held = None
        if places:
            fill([view for place in places for view in place.views], data)
            self._push(len(data), places)
        return True

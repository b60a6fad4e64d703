# SPDX-License-Identifier: Apache-2.0
"""virtio-net: the loop's side of a receive queue (virtio 1.2 §5.1.6.3, §5.1.6.4): netdev → the driver's buffers.

Buffers are taken from the ring ahead of the frames, and a frame is read into them by the one call that takes it from
the host. While the driver has no buffers posted nothing is read: the host keeps the frames. With mergeable buffers a
frame may need several chains. As many as the last long frames needed are offered at once; a frame that is longer still
overflows into a buffer of vmmd's and is copied from there (or waits there, when the driver has too few).
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.chain import resolve, split
from vmmd.devices.virtio.net.features import F_MRG_RXBUF
from vmmd.devices.virtio.net.filter import LOOKED_AT
from vmmd.devices.virtio.net.header import (
    FRAME_BYTES_MAX,
    LONG_BYTES,
    ONE_BUFFER,
    SHORT_BYTES,
    ZERO_HEADER,
    cut_front,
    fill,
    gather,
)
from vmmd.devices.virtio.net.worker import BATCH, TURN_NS, NetWorker
from vmmd.devices.virtio.queue import RingError

if TYPE_CHECKING:
    from vmmd.core.backend import NetQueue
    from vmmd.devices.virtio.chain import Chain
    from vmmd.devices.virtio.net.device import VirtioNet
    from vmmd.devices.virtio.queue import VirtQueue

#: frames between two looks at the clock
FRAMES_A_LOOK = 32
#: chains offered for a frame at most; longer ones overflow
SPAN_MAX = 64
#: so many frames after the last that needed several chains, one chain is offered again
NARROW_AFTER = 256
#: buffers of one read (IOV_MAX)
BUFFERS_MAX = 1024
_SPILL_BYTES = FRAME_BYTES_MAX + LONG_BYTES


#: one chain, ready to be read into: head; bytes that a read may put into it; what is read into, from the header on or
#: behind it, with the spill buffer at its end; where the driver's header lies
Place = tuple[int, int, "list[memoryview]", "list[memoryview]"]


class RxWorker(NetWorker):
    """Fills what the driver makes available."""

    __slots__ = (
        "_added",
        "_at",
        "_header_bytes",
        "_held",
        "_mergeable",
        "_narrow_in",
        "_places",
        "_queue",
        "_span",
        "_spill",
        "_watching",
    )  # fmt: skip

    def __init__(self, net: VirtioNet, index: int, ring: VirtQueue) -> None:
        super().__init__(net, index, ring)
        self._mergeable = bool(net.driver_features & F_MRG_RXBUF)
        self._header_bytes = net.header_bytes
        self._added = 0  # bytes of a header that the netdev does not know
        self._queue: NetQueue | None = None  # while it is watched
        self._watching = False
        #: chains that were popped, from ``_at`` on; those before it are pushed
        self._places: list[Place] = []
        self._at = 0
        self._span = 1  # chains offered for a frame
        self._narrow_in = 0  # frames until ``_span`` is 1 again
        self._spill = memoryview(bytearray(_SPILL_BYTES))
        self._held: bytes | None = None  # a frame that needs more chains than there are

    # -- when to read --------------------------------------------------------------------------------------

    def serve(self) -> None:
        """The driver may have posted buffers: let frames come, and take those that wait."""
        if not self._watching:
            self._queue = self._net.rx_queue(self.pair)
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
        self.ring.unpop(len(self._places) - self._at)
        self._places, self._at = [], 0

    # -- buffers -------------------------------------------------------------------------------------------

    def _ready(self, count: int) -> bool:
        """Have ``count`` chains at hand, if the driver has posted so many; asks for a notification when it has not."""
        ring = self.ring
        while len(self._places) - self._at < count:
            ring.disable_notify()
            chains = ring.pop_batch(BATCH)
            if not chains:
                if ring.enable_notify():
                    continue
                return False
            if self._at:
                del self._places[: self._at]
                self._at = 0
            try:
                self._places += [self._place(chain) for chain in chains]
            except RingError:
                ring.unpop(len(chains))
                raise
        return True

    def _place(self, chain: Chain) -> Place:
        home, header_bytes = self._home, self._header_bytes
        if len(chain) == 4 and not chain[1]:
            head, _, gpa, length = chain
            if home.gpa <= gpa and gpa + length <= home.end and length > header_bytes:
                at, data = gpa - home.gpa, home.bytes_
                view = data[at + self._added : at + length]
                return (head, length - self._added, [view, self._spill], [data[at : at + header_bytes]])
        return self._place_any(chain)

    def _place_any(self, chain: Chain) -> Place:
        _, writable = split(chain)
        try:
            views = resolve(self._memory, writable, writable=True)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in RAM: {error}") from None
        room = sum(map(len, views))
        if len(views) >= BUFFERS_MAX:
            raise RingError(f"a receive buffer in {len(views)} pieces")
        if room <= self._header_bytes:
            raise RingError(f"a receive buffer of {room} bytes")
        header, _ = cut_front(views, self._header_bytes)
        if self._added:
            _, views = cut_front(views, self._added)
        return (chain[0], room - self._added, [*views, self._spill], header)

    # -- frames --------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Take frames from the netdev: a bounded number, one interrupt for all of them."""
        end_ns = monotonic_ns() + TURN_NS
        while True:
            done: list[tuple[int, int]] = []
            more = self._batch(done)
            if done:
                self.ring.push_batch(done)
                self.give_back(len(done))
            if not more or monotonic_ns() > end_ns:
                return  # still watched: called again in the next turn if frames wait

    def _batch(self, done: list[tuple[int, int]]) -> bool:  # noqa: C901  # the hot loop
        """A few frames; False when there is nothing more to do now."""
        if self._held is not None and not self._deliver_held(done):
            return False
        net, queue, places, added = self._net, self._queue, self._places, self._added
        assert queue is not None  # watched
        read, promisc, numbered = queue.read, net.filter.promisc, self._header_bytes == LONG_BYTES
        for _ in range(FRAMES_A_LOOK):
            if self._at == len(places) and not self._ready(1):
                self._out_of_buffers()
                return False
            head, room, buffers, header = places[self._at]
            count, offered = 1, room
            if self._span > 1:
                buffers, count, offered = self._wide()
            got = read(buffers)
            if not got:
                return False
            if not promisc and not net.filter.accepts(self._front(buffers)):
                continue
            if got <= room and len(header) == 1:
                if added:
                    header[0][:] = ZERO_HEADER[: self._header_bytes]
                if numbered:
                    header[0][SHORT_BYTES:] = ONE_BUFFER
                done.append((head, got + added))
                self._at += 1
            elif (got <= room or self._mergeable) and not self._spread(done, got, count, offered):
                self._out_of_buffers()
                return False
        return True

    def _front(self, buffers: list[memoryview]) -> bytes:
        """The beginning of a frame that was read, for the filter."""
        skip = self._header_bytes - self._added
        return gather(buffers, skip + LOOKED_AT)[skip:]

    # -- frames that need several chains, and headers in pieces ------------------------------------------------

    def _wide(self) -> tuple[list[memoryview], int, int]:
        """Buffers of several chains, how many chains, and the room in them."""
        self._ready(self._span)
        buffers: list[memoryview] = []
        count = room = 0
        for place in self._places[self._at : self._at + self._span]:
            if len(buffers) + len(place[2]) > BUFFERS_MAX:
                break
            buffers += place[2][:-1]
            room += place[1]
            count += 1
        self._narrow_in -= 1
        if not self._narrow_in:
            self._span = 1
        return [*buffers, self._spill], count, room

    def _spread(self, done: list[tuple[int, int]], got: int, count: int, offered: int) -> bool:
        """A frame of ``got`` bytes was read into ``count`` chains of ``offered`` bytes and the spill buffer. False when
        it has to wait for more chains."""
        over = self._spill[: max(0, got - offered)]
        chains = self._chains_for(got)
        if chains is None:
            if self.ring.in_flight < self.ring.size:  # else there never will be enough: the frame is gone
                places = self._places[self._at : self._at + count]
                self._held = b"".join([*(view for place in places for view in place[2][:-1]), over])
                return False
            return True
        fill([view for place in self._places[self._at + count : self._at + chains] for view in place[2][:-1]], over)
        self._push(done, got, chains)
        if chains > 1:
            self._span, self._narrow_in = min(max(chains, self._span), SPAN_MAX), NARROW_AFTER
        return True

    def _chains_for(self, length: int) -> int | None:
        """How many chains a frame needs; None when there are not enough."""
        covered = count = 0
        while covered < length:
            if self._at + count >= len(self._places) and not self._ready(count + 1):
                return None
            covered += self._places[self._at + count][1]
            count += 1
        return count

    def _push(self, done: list[tuple[int, int]], length: int, count: int) -> None:
        """``count`` chains hold a frame."""
        header = self._places[self._at][3]
        if self._added:
            fill(header, ZERO_HEADER[: self._header_bytes])
        if self._header_bytes == LONG_BYTES:
            fill(cut_front(header, SHORT_BYTES)[1], count.to_bytes(2, "little"))
        more = self._added
        for head, room, _, _ in self._places[self._at : self._at + count]:
            part = min(room, length)
            done.append((head, part + more))
            length -= part
            more = 0
        self._at += count

    def _deliver_held(self, done: list[tuple[int, int]]) -> bool:
        """The frame that waits for chains. False when there are still too few."""
        data = self._held
        assert data is not None  # the caller has looked
        chains = self._chains_for(len(data))
        if chains is None and self.ring.in_flight < self.ring.size:
            self._out_of_buffers()
            return False
        self._held = None
        if chains is not None:
            fill([view for place in self._places[self._at : self._at + chains] for view in place[2][:-1]], data)
            self._push(done, len(data), chains)
        return True

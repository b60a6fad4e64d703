# SPDX-License-Identifier: Apache-2.0
"""Split virtqueue, device side (virtio 1.2 §2.7): the three rings as cast views of guest RAM.

A ``VirtQueue`` is made on activation and belongs to the event loop from then on; it takes no lock. Everything in the
rings is hostile: each index is bounded where it is used, every descriptor is read once into Python integers, a walk
over a chain takes at most ``size`` steps. A broken ring raises ``RingError``; the device then asks for a reset.

This module is hot. ``pop_batch`` hands out chains as flat tuples of integers (see ``chain.py``) and has fast cases,
chains of one to three descriptors, and indirect tables in order; ``push_batch`` and ``publish`` store through the
views only, so the guest never sees a torn index (docs/adr/0005).
"""

from __future__ import annotations

import threading
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vmmd.core.memory import GuestAddressError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.memory import GuestMemory
    from vmmd.devices.virtio.chain import Chain

#: Descriptor flags (§2.7.5)
DESC_NEXT = 1
DESC_WRITE = 2
DESC_INDIRECT = 4
#: avail.flags: the driver wants no interrupts; used.flags: the device wants no notifications (§2.7.7, §2.7.10)
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1

#: The largest queue that PCI drivers may be offered (§2.7)
QUEUE_SIZE_MAX = 32768

_U32 = 0xFFFF_FFFF
# the fast case of indirect chains: one table of three descriptors, in order
_TABLE_OF_3 = 48
_LINK_MASK = 0xFFFF << 16 | 7
_NEXT_1 = 1 << 16 | DESC_NEXT
_NEXT_2 = 2 << 16 | DESC_NEXT
#: words of long chains after which ``pop_batch`` returns early: bounds the time of one dispatch (safety.md P5)
_WORK_LIMIT = 4096
_NOTHING: list[Chain] = []
_NO_HEADS: list[int] = []

_barrier = threading.Lock()


def fence() -> None:
    """A full memory barrier (store → load), which x86 otherwise does not order.

    # ORDERING: taking a lock is one locked instruction (0.2 µs); the lock is private to barriers and never waits long.
    """
    with _barrier:
        pass


class RingError(Exception):
    """The driver broke a rule of the ring. Never leaves the device."""


class VirtQueue:
    """One enabled split virtqueue. Owner: the loop, from activation to deactivation."""

    __slots__ = (
        "_avail", "_avail_event", "_desc", "_elements", "_home", "_lengths", "_links", "_memory", "_used", "event_idx",
        "in_flight", "indirect", "last_avail", "mask", "notify_on_empty", "signalled", "size", "used_index",
    )  # fmt: skip

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        rings: tuple[int, int, int],
        *,
        event_idx: bool,
        indirect: bool,
        notify_on_empty: bool = False,
    ) -> None:
        """``rings``: guest addresses of the descriptor table, available and used ring. Raises RingError when the
        size is no power of two up to 32768, a ring is misaligned or not wholly in one RAM region, or two overlap."""
        if not 0 < size <= QUEUE_SIZE_MAX or size & (size - 1):
            raise RingError(f"queue size {size} is not a power of two up to {QUEUE_SIZE_MAX}")
        desc_gpa, avail_gpa, used_gpa = rings
        if desc_gpa & 15 or avail_gpa & 1 or used_gpa & 3:
            raise RingError(f"rings at {desc_gpa:#x}, {avail_gpa:#x}, {used_gpa:#x} are misaligned")
        # what the device stores would change what it reads next; the event fields at the ends may not be there
        parts = sorted(((desc_gpa, 16 * size), (avail_gpa, 4 + 2 * size), (used_gpa, 4 + 8 * size)))
        if any(gpa + length > following for (gpa, length), (following, _) in pairwise(parts)):
            raise RingError(f"rings at {desc_gpa:#x}, {avail_gpa:#x}, {used_gpa:#x} overlap")
        self._memory = memory
        self.size = size
        self.mask = size - 1
        self.event_idx = event_idx
        self.indirect = indirect
        self.notify_on_empty = notify_on_empty
        try:
            region = memory.find(desc_gpa, 16 * size)
            start = (desc_gpa - region.gpa) >> 3
            #: two 64-bit words per descriptor: address; length | flags << 32 | next << 48
            self._desc = region.qwords[start : start + 2 * size]
            #: the same as 32-bit and as 16-bit words: lengths; flags and next
            self._lengths = region.dwords[2 * start : 2 * start + 4 * size]
            self._links = region.words[4 * start : 4 * start + 8 * size]
            region = memory.find(avail_gpa, 6 + 2 * size)
            start = (avail_gpa - region.gpa) >> 1
            #: flags, idx, ring[size], used_event
            self._avail = region.words[start : start + 3 + size]
            region = memory.find(used_gpa, 6 + 8 * size)
            start = (used_gpa - region.gpa) >> 1
            #: flags, idx, ring[size] of 8 bytes, avail_event
            self._used = region.words[start : start + 3 + 4 * size]
            start >>= 1
            self._elements = region.dwords[start : start + 1 + 2 * size]
        except GuestAddressError as error:
            raise RingError(f"a ring is not in RAM: {error}") from None
        self._avail_event = 2 + 4 * size
        #: where indirect tables are looked for first
        self._home = max(memory.regions, key=lambda region: region.size_bytes)
        self.in_flight = 0  # popped, not yet pushed
        self.last_avail = 0  # next entry of the available ring to look at
        self.used_index = 0  # next entry of the used ring to fill, ahead of what is published
        self.signalled = 0  # used index at the last decision about an interrupt

    def resume_at(self, last_avail: int, used_index: int) -> None:
        """Go on where an earlier object for the same rings stopped."""
        self.last_avail = last_avail & 0xFFFF
        self.used_index = self.signalled = used_index & 0xFFFF

    def hand_over(self) -> None:
        """Somebody outside serves the rings from now on, beginning at ``last_avail``: the driver is to ring for each
        chain until it is told otherwise."""
        self._used[0] = 0

    def taken_back(self, last_avail: int | None) -> None:
        """Who served the rings outside has stopped, and says that ``last_avail`` is the next entry of the available
        ring. None, or a number that cannot be: all it has taken is what it has given back."""
        self.used_index = self.signalled = used = self._used[1]
        avail = self._avail[1]
        if last_avail is None or (avail - last_avail) & 0xFFFF > self.size or (last_avail - used) & 0xFFFF > self.size:
            last_avail = used
        self.last_avail = last_avail & 0xFFFF
        self.in_flight = 0

    def has_work(self) -> bool:
        """True when the driver has made chains available that were not popped yet."""
        return self._avail[1] != self.last_avail

    def _next_heads(self, limit: int) -> list[int]:
        """Heads of at most ``limit`` chains that were not popped yet. Raises RingError."""
        avail = self._avail
        last = self.last_avail
        count = (avail[1] - last) & 0xFFFF
        if not count:
            return _NO_HEADS
        size = self.size
        if count > size - self.in_flight:
            raise RingError(f"available index jumped by {count} with {self.in_flight} of {size} in flight")
        # ORDERING: x86 does not reorder these loads with that of the index
        first = 2 + (last & self.mask)
        count = min(count, limit)
        heads = avail[first : min(first + count, 2 + size)].tolist()
        if len(heads) < count:
            heads += avail[2 : 2 + count - len(heads)].tolist()
        return heads

    def pop_batch(self, limit: int) -> list[Chain]:
        """At most ``limit`` new chains, in order; empty when there is none. Raises RingError; chains before the
        offending one are handed out first."""
        heads = self._next_heads(limit)
        if not heads:
            return _NOTHING
        chains = self._read_chains(heads)
        self.last_avail = (self.last_avail + len(chains)) & 0xFFFF
        self.in_flight += len(chains)
        return chains

    def pop_buffers(self, limit: int, skip: int, length_max: int) -> tuple[list[int], list[memoryview]]:
        """The next chains as long as each is one readable buffer in the largest RAM region, of more than ``skip`` and
        at most ``length_max`` bytes: heads, and views without the first ``skip`` bytes. Nothing when the next chain has
        another shape, or there is none (``pop_batch`` tells). Raises RingError."""
        desc, links, lengths, size, home = self._desc, self._links, self._lengths, self.size, self._home
        base, end, data = home.gpa, home.end, home.bytes_
        heads = self._next_heads(limit)
        views: list[memoryview] = []
        for head in heads:
            if head >= size or links[8 * head + 6]:
                break
            gpa, length = desc[2 * head], lengths[4 * head + 2]
            if gpa < base or gpa + length > end or not skip < length <= length_max:
                break
            gpa -= base
            views.append(data[gpa + skip : gpa + length])
        count = len(views)
        self.last_avail = (self.last_avail + count) & 0xFFFF
        self.in_flight += count
        return heads[:count], views

    def _read_chains(self, heads: list[int]) -> list[Chain]:  # noqa: C901  # the hot loop: the fast cases in line
        desc, links, lengths = self._desc, self._links, self._lengths
        size, indirect, home = self.size, self.indirect, self._home
        base, end, qwords = home.gpa, home.end, home.qwords
        chains: list[Chain] = []
        work = 0
        for head in heads:
            if head < size:
                flags = links[8 * head + 6]
                if flags == DESC_INDIRECT:
                    gpa = desc[2 * head]
                    if (
                        lengths[4 * head + 2] == _TABLE_OF_3 and indirect
                        and base <= gpa and gpa + _TABLE_OF_3 <= end and not gpa & 7
                    ):  # fmt: skip
                        at = (gpa - base) >> 3
                        gpa0, word0, gpa1, word1, gpa2, word2 = qwords[at : at + 6].tolist()
                        if (
                            word0 >> 32 & _LINK_MASK == _NEXT_1 and word1 >> 32 & ~DESC_WRITE & _LINK_MASK == _NEXT_2
                            and word2 >> 32 & 7 == DESC_WRITE and word0 & _U32 and word1 & _U32 and word2 & _U32
                        ):  # fmt: skip
                            chains.append((
                                head, 1 if word1 >> 32 & DESC_WRITE else 2,
                                gpa0, word0 & _U32, gpa1, word1 & _U32, gpa2, word2 & _U32,
                            ))  # fmt: skip
                            continue
                    elif chain := self._table_in_order(head, gpa, lengths[4 * head + 2]):
                        chains.append(chain)
                        work += len(chain)
                        if work > _WORK_LIMIT:
                            break
                        continue
                elif flags == DESC_NEXT:
                    second, length0 = links[8 * head + 7], lengths[4 * head + 2]
                    if second < size and length0:
                        flags, length1 = links[8 * second + 6], lengths[4 * second + 2]
                        readable = 1 if flags & DESC_WRITE else 2
                        if flags & 5 == DESC_NEXT:
                            third = links[8 * second + 7]
                            if third < size and links[8 * third + 6] == DESC_WRITE:
                                length2 = lengths[4 * third + 2]
                                if length1 and length2:
                                    chains.append((
                                        head, readable, desc[2 * head], length0, desc[2 * second], length1,
                                        desc[2 * third], length2,
                                    ))  # fmt: skip
                                    continue
                        elif not flags & 5 and length1:
                            chains.append((head, readable, desc[2 * head], length0, desc[2 * second], length1))
                            continue
                elif not flags & 5:
                    length0 = lengths[4 * head + 2]
                    if length0:
                        chains.append((head, 0 if flags & DESC_WRITE else 1, desc[2 * head], length0))
                        continue
            try:
                chain = self._walk(head)
                chains.append(chain)
                work += len(chain)
                if work > _WORK_LIMIT:
                    break
            except RingError:
                if not chains:
                    raise
                break  # those before it first; the next pop meets the error again
        return chains

    def _table_in_order(self, head: int, gpa: int, length: int) -> Chain | None:
        """A chain in an indirect table whose descriptors follow each other, as drivers make it; None for others."""
        home = self._home
        if not self.indirect or gpa & 7 or length & 15 or not 0 < length <= 16 * self.size:
            return None
        if gpa < home.gpa or gpa + length > home.end:
            return None
        at = (gpa - home.gpa) >> 3
        words = home.qwords[at : at + (length >> 3)].tolist()  # a copy: read once
        parts: list[int] = [head, 0]
        for index in range(0, len(words), 2):
            word = words[index + 1]
            link = DESC_NEXT | (index // 2 + 1) << 16 if index + 2 < len(words) else 0
            if not word & _U32 or (word >> 32 & ~DESC_WRITE & _LINK_MASK if link else word >> 32 & 5) != link:
                return None
            if not word >> 32 & DESC_WRITE:
                if parts[1] != index // 2:
                    return None  # a readable one behind a writable one
                parts[1] += 1
            parts += (words[index], word & _U32)
        return tuple(parts)

    def _walk(self, head: int) -> Chain:
        """Any chain, descriptor by descriptor. Reads every word once."""
        table: list[int] | memoryview = self._desc
        entries = self.size
        index = head
        readable = 0
        parts: list[int] = []
        writing = in_table = False
        for _ in range(self.size + 1):
            if index >= entries:
                raise RingError(f"descriptor index {index} of a table of {entries}")
            gpa, word = table[2 * index], table[2 * index + 1]
            flags = word >> 32 & 7
            if flags & DESC_INDIRECT:
                if in_table or flags & DESC_NEXT or not self.indirect:
                    raise RingError("an indirect descriptor where none may be")
                table = self._indirect_table(gpa, word & _U32)
                entries, index, in_table = len(table) // 2, 0, True
                continue
            if not flags & DESC_WRITE:
                if writing:
                    raise RingError("a readable descriptor behind a writable one")
                readable += 1 if word & _U32 else 0
            else:
                writing = True
            if word & _U32:  # an empty buffer counts as a step and is gone
                parts += (gpa, word & _U32)
            if not flags & DESC_NEXT:
                return (head, readable, *parts)
            index = word >> 48
        raise RingError(f"a chain longer than the queue size {self.size}")

    def _indirect_table(self, gpa: int, length: int) -> list[int]:
        """A copy of an indirect table (§2.7.5.3) as 64-bit words."""
        if not length or length & 15 or length > 16 * self.size:
            raise RingError(f"an indirect table of {length} bytes")
        try:
            if gpa & 7:
                return memoryview(self._memory.read(gpa, length)).cast("Q").tolist()
            region = self._memory.find(gpa, length)
        except GuestAddressError as error:
            raise RingError(f"an indirect table that is not in RAM: {error}") from None
        start = (gpa - region.gpa) >> 3
        return region.qwords[start : start + (length >> 3)].tolist()

    def push(self, head: int, written: int) -> None:
        """Give a chain back; ``written`` bytes of its writable part were filled. Seen by the guest after publish()."""
        self.push_batch([(head, written)])

    def push_batch(self, done: Sequence[tuple[Any, ...]]) -> None:
        """Give chains back in the order of completion: tuples that begin with (head, bytes written). Seen by the
        guest after publish()."""
        index, mask, elements = self.used_index, self.mask, self._elements
        for each in done:
            slot = 1 + 2 * (index & mask)
            elements[slot] = each[0]
            elements[slot + 1] = each[1]
            index += 1
        self.used_index = index & 0xFFFF
        self.in_flight -= len(done)

    def push_many(self, heads: Sequence[int], written: Sequence[int] = ()) -> None:
        """As ``push_batch``: ``heads``, and the bytes written in each (empty: none anywhere). Seen after publish()."""
        count, first = len(heads), self.used_index & self.mask
        used = array("I", bytes(8 * count))
        used[::2] = array("I", heads)
        if written:
            used[1::2] = array("I", written)
        fits = 2 * min(count, self.size - first)
        view, elements = memoryview(used), self._elements
        elements[1 + 2 * first : 1 + 2 * first + fits] = view[:fits]
        elements[1 : 1 + 2 * count - fits] = view[fits:]
        self.used_index = (self.used_index + count) & 0xFFFF
        self.in_flight -= count

    def unpop(self, count: int) -> None:
        """Forget the last ``count`` chains that were popped, in which nothing was done: they are popped again."""
        self.last_avail = (self.last_avail - count) & 0xFFFF
        self.in_flight -= count

    def publish(self) -> bool:
        """Show pushed chains to the guest; True when it wants an interrupt for them (§2.7.7.2)."""
        new, old = self.used_index, self.signalled
        if new == old:
            return False
        # ORDERING: x86 keeps the order of stores: elements before the index
        self._used[1] = new
        self.signalled = new
        fence()  # ORDERING: the index must be visible before the driver's wish is read (§2.7.13.4.1)
        avail = self._avail
        if self.notify_on_empty and not self.in_flight and avail[1] == self.last_avail:
            return True
        if self.event_idx:
            return (new - avail[2 + self.size] - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not avail[0] & AVAIL_NO_INTERRUPT

    def disable_notify(self) -> None:
        """Ask the driver not to ring (a hint). With EVENT_IDX leaving avail_event behind does it."""
        if not self.event_idx:
            self._used[0] = USED_NO_NOTIFY

    def withdraw_notify(self) -> None:
        """Take back what ``enable_notify`` has asked for, before the driver has rung (a hint)."""
        if self.event_idx:
            self._used[self._avail_event] = (self.last_avail - 1) & 0xFFFF
        else:
            self._used[0] = USED_NO_NOTIFY

    def enable_notify(self) -> bool:
        """Ask the driver to ring for the next chain. True when one is there already: look again (§2.7.10)."""
        if self.event_idx:
            self._used[self._avail_event] = self.last_avail
        else:
            self._used[0] = 0
        fence()  # ORDERING: our wish must be visible before the index is read again, or a chain sits unseen
        return self._avail[1] != self.last_avail

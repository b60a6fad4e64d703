# SPDX-License-Identifier: Apache-2.0
"""Dispatch of port and memory-mapped accesses to device registers.

Two instances exist per machine: ``pio`` (64 KiB of ports) and ``mmio``. Ranges are added and removed under
the DeviceLock; each change publishes a new immutable snapshot with one reference store, so a vCPU that looks
up concurrently finishes on the old entry, whose device is kept alive by reference (architecture §5).

Policy, in this one place: an access no range claims reads all-ones and drops writes (counted); an access
wider than the range takes, not aligned in it, or running over its end, is split into smaller ones that are,
little-endian, lowest address first, as QEMU splits them. Where ranges overlap the higher ``priority`` wins, then
the later added.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.trace import TraceEvent

    #: of reads and writes, with the fields {address} {value} {dev}; the name is ``dev``
    RangeEvents = tuple[TraceEvent, TraceEvent, str]

#: all-ones by access size in bytes
MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}

#: Ranges up to this size get one dictionary entry per address (exact, one look-up)
_EXACT_LIMIT = 1024


class IoRange:
    """A claimed range. ``read(offset, size) -> int`` and ``write(offset, size, value)``; size is 1, 2, 4 or 8.

    ``max_width`` is the widest access the handlers take (wider ones are split). Handlers run on a vCPU thread
    (or the test driver) with the DeviceLock held and never raise on guest input.
    """

    __slots__ = ("base", "end", "events", "max_width", "name", "plain", "priority", "read", "read_items", "write")

    def __init__(  # noqa: PLR0913  # a range is what it is; all but four are by name
        self,
        base: int,
        size: int,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], None],
        *,
        name: str,
        max_width: int = 4,
        priority: int = 0,
        events: RangeEvents | None = None,
        read_items: Callable[[int, int, memoryview], None] | None = None,
    ) -> None:
        """``events``: trace events of the owner's own, and its name for them. ``read_items(offset, size, view)`` does
        what filling ``view`` with one ``read`` after the other does, at once: for ports that string instructions
        read."""
        if size <= 0:
            raise ValueError(f"{name}: an I/O range has a positive size")
        self.base = base
        self.end = base + size
        self.read = read
        self.write = write
        self.plain = (read, write)  # what ``read`` and ``write`` are while nobody looks on (access_trace)
        self.events = events
        self.read_items = read_items
        self.name = name
        self.max_width = max_width
        self.priority = priority

    def access_size(self, address: int, size: int) -> int:
        """Bytes of the first access that one of ``size`` bytes at ``address`` of this range is made of: as many as the
        handlers take, the range has, and are aligned in it."""
        offset = address - self.base
        width = min(self.max_width, 8)
        while width > 1 and (width > size or offset & (width - 1) or address + width > self.end):
            width >>= 1
        return width

    def __repr__(self) -> str:
        return f"<IoRange {self.base:#x}-{self.end - 1:#x} {self.name}>"


class AddressSpace:
    """A set of I/O ranges with fast look-up. Mutators: under the DeviceLock; look-ups: any thread."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.ranges: tuple[IoRange, ...] = ()
        #: address -> range for small ranges; replaced as a whole, never changed in place
        self.exact: dict[int, IoRange] = {}
        self._starts: list[int] = []
        self._spans: list[tuple[int, IoRange]] = []  # (end, range) of the flattened large ranges
        self.unassigned_reads = 0
        self.unassigned_writes = 0
        #: is told of accesses that no range claims: (space, address, size, value or None for a read)
        self.on_unassigned: Callable[[str, int, int, int | None], None] | None = None
        #: makes new ranges report what they are asked to
        self.dress: Callable[[IoRange], None] | None = None

    def add(self, entry: IoRange) -> None:
        """Claim a range (DeviceLock held)."""
        if entry.base < 0 or entry.end > self.size:
            raise ValueError(f"{entry!r} does not fit in {self.name}")
        if self.dress is not None:
            self.dress(entry)
        self._publish((*self.ranges, entry))

    def remove(self, entry: IoRange) -> None:
        """Give a range back (DeviceLock held)."""
        self._publish(tuple(each for each in self.ranges if each is not entry))

    def update(self, removed: list[IoRange], added: list[IoRange]) -> None:
        """Remove and add several ranges with one publication (BAR moves). DeviceLock held."""
        if self.dress is not None:
            for entry in added:
                self.dress(entry)
        gone = {id(each) for each in removed}
        self._publish((*(each for each in self.ranges if id(each) not in gone), *added))

    def _publish(self, ranges: tuple[IoRange, ...]) -> None:
        ordered = sorted(ranges, key=lambda each: each.priority)  # stable: later wins at equal priority
        exact: dict[int, IoRange] = {}
        large: list[IoRange] = []
        for entry in ordered:
            if entry.end - entry.base <= _EXACT_LIMIT:
                for address in range(entry.base, entry.end):
                    exact[address] = entry
            else:
                large.append(entry)
                if exact:
                    for address in [each for each in exact if entry.base <= each < entry.end]:
                        del exact[address]
        starts, spans = _flatten(large)
        self._starts, self._spans = starts, spans
        self.exact = exact
        self.ranges = ranges

    def find(self, address: int) -> IoRange | None:
        """The range that answers for ``address``, or None."""
        entry = self.exact.get(address)
        if entry is not None:
            return entry
        spans, starts = self._spans, self._starts
        index = bisect_right(starts, address) - 1
        if 0 <= index < len(spans):
            end, entry = spans[index]
            if address < end and entry.base <= address:
                return entry
        return None

    def read(self, address: int, size: int) -> int:
        """The value read (little-endian, within ``size`` bytes). DeviceLock held."""
        entry = self.exact.get(address) or self.find(address)
        if entry is None:
            self.unassigned_reads += 1
            if self.on_unassigned is not None:
                self.on_unassigned(self.name, address, size, None)
            return self._read_split(address, size) if size > 1 else 0xFF
        offset = address - entry.base
        if size <= entry.max_width and not offset & (size - 1) and address + size <= entry.end:
            return entry.read(offset, size) & MASKS[size]
        return self._read_split(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Write ``value`` (already within ``size`` bytes). DeviceLock held."""
        entry = self.exact.get(address) or self.find(address)
        if entry is None:
            self.unassigned_writes += 1
            if self.on_unassigned is not None:
                self.on_unassigned(self.name, address, size, value)
            if size > 1:
                self._write_split(address, size, value)
            return
        offset = address - entry.base
        if size <= entry.max_width and not offset & (size - 1) and address + size <= entry.end:
            entry.write(offset, size, value)
        else:
            self._write_split(address, size, value)

    def _read_split(self, address: int, size: int) -> int:
        value = done = 0
        while done < size:
            entry = self.find(address + done)
            if entry is None:
                step, part = 1, 0xFF
            else:
                step = entry.access_size(address + done, size - done)
                part = entry.read(address + done - entry.base, step) & MASKS[step]
            value |= part << (8 * done)
            done += step
        return value

    def _write_split(self, address: int, size: int, value: int) -> None:
        done = 0
        while done < size:
            entry = self.find(address + done)
            step = 1
            if entry is not None:
                step = entry.access_size(address + done, size - done)
                entry.write(address + done - entry.base, step, value >> (8 * done) & MASKS[step])
            done += step


def _flatten(ordered: list[IoRange]) -> tuple[list[int], list[tuple[int, IoRange]]]:
    """Non-overlapping spans of ranges given in rising priority: (sorted starts, [(end, range)])."""
    points = sorted({point for entry in ordered for point in (entry.base, entry.end)})
    starts: list[int] = []
    spans: list[tuple[int, IoRange]] = []
    for low, high in pairwise(points):
        top = None
        for entry in ordered:
            if entry.base <= low and high <= entry.end:
                top = entry
        if top is None:
            continue
        if spans and spans[-1][1] is top and spans[-1][0] == low:
            spans[-1] = (high, top)
        else:
            starts.append(low)
            spans.append((high, top))
    return starts, spans

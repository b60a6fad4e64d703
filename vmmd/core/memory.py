# SPDX-License-Identifier: Apache-2.0
"""Guest RAM: the only door to it. Bounds-checked, zero-copy, usable from any thread without the lock.

``GuestMemory`` is an immutable tuple of RAM regions swapped with one reference store (architecture §3 L4).
Every address and length comes from the guest: they are plain Python integers, so there is no wrap-around,
and an access that is not wholly inside one region raises GuestAddressError; callers turn that into the
device's own error path. DMA reaches RAM only, never MMIO (safety.md §3.2 #7).

Torn stores (docs/adr/0005): ``struct.pack_into`` on shared memory can be seen half done by a guest; fields
that the guest polls are stored only through the cast views (``store_u16`` …), one aligned store each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class GuestAddressError(Exception):
    """A guest-physical range that is not RAM. Never leaves a device (architecture §12)."""

    def __init__(self, gpa: int, length: int) -> None:
        super().__init__(f"guest address {gpa:#x} length {length:#x} is not in RAM")
        self.gpa = gpa
        self.length = length


class RamBacking(Protocol):
    """The host memory behind a region."""

    page_bytes: int  # of the host: what is given back is whole ones

    def discard(self, hva: int, length: int) -> None:
        """Give whole pages back to the host. They read as zeroes from now on (of a private mapping of a file: as the
        file). Raises OSError."""


class RamRegion(NamedTuple):
    """A run of guest-physical addresses backed by host memory. ``bytes_`` is a writable view of all of it."""

    gpa: int
    end: int  # first address behind it
    bytes_: memoryview
    hva: int  # host virtual address of gpa
    words: memoryview  # bytes_ cast to "H"
    dwords: memoryview  # bytes_ cast to "I"
    qwords: memoryview  # bytes_ cast to "Q"
    name: str
    fd: int | None = None  # another process can map it by this descriptor; None: it cannot
    fd_offset: int = 0  # of gpa
    backing: RamBacking | None = None  # None: it stays as it is

    @property
    def size_bytes(self) -> int:
        return self.end - self.gpa


def make_region(  # noqa: PLR0913  # the traits of a region
    gpa: int,
    view: memoryview,
    hva: int,
    name: str,
    fd: int | None = None,
    fd_offset: int = 0,
    backing: RamBacking | None = None,
) -> RamRegion:
    """A region over ``view`` (writable, format "B", a multiple of 4096 bytes) mapped at ``hva``; from ``fd_offset`` of
    ``fd`` on, when others can map it too."""
    if len(view) & 0xFFF or gpa & 0xFFF:
        raise ValueError("a RAM region is made of whole pages")
    casts = view.cast("H"), view.cast("I"), view.cast("Q")
    return RamRegion(gpa, gpa + len(view), view, hva, *casts, name, fd, fd_offset, backing)


class GuestMemory:
    """All RAM that devices may reach. Regions are added at start and by memory hotplug only."""

    __slots__ = ("_pins", "regions")

    def __init__(self, regions: Iterable[RamRegion] = ()) -> None:
        self._pins: list[str] = []
        self.regions: tuple[RamRegion, ...] = tuple(sorted(regions, key=lambda region: region.gpa))

    def publish(self, regions: Iterable[RamRegion]) -> None:
        """Swap the set of regions. Views handed out earlier stay valid as long as their holders keep them."""
        self.regions = tuple(sorted(regions, key=lambda region: region.gpa))

    def pin(self, reason: str) -> Callable[[], None]:
        """Somebody holds on to the host's pages themselves (they are locked, or another device does DMA to them): none
        may be given back until the function that this returns is called. Loop thread."""
        self._pins.append(reason)
        return lambda: self._pins.remove(reason)

    @property
    def pinned(self) -> str | None:
        """Why no page may be given back to the host; None: they may."""
        return self._pins[-1] if self._pins else None

    @property
    def size_bytes(self) -> int:
        return sum(region.end - region.gpa for region in self.regions)

    def find(self, gpa: int, length: int) -> RamRegion:
        """The region that wholly contains the range. Raises GuestAddressError."""
        for region in self.regions:
            if region.gpa <= gpa < region.end:
                if length >= 0 and gpa + length <= region.end:
                    return region
                break
        raise GuestAddressError(gpa, length)

    def view(self, gpa: int, length: int, *, writable: bool = False) -> memoryview:
        """A zero-copy view of ``length`` bytes inside one region. Raises GuestAddressError."""
        for region in self.regions:
            start = region.gpa
            if start <= gpa < region.end:
                if length >= 0 and gpa + length <= region.end:
                    view = region.bytes_[gpa - start : gpa - start + length]
                    return view if writable else view.toreadonly()
                break
        raise GuestAddressError(gpa, length)

    def views(self, gpa: int, length: int, *, writable: bool = False) -> list[memoryview]:
        """Views covering the range in order; it may span regions that touch. Raises GuestAddressError."""
        parts: list[memoryview] = []
        while True:
            region = self.find(gpa, 0)
            take = min(length, region.end - gpa)
            parts.append(self.view(gpa, take, writable=writable))
            length -= take
            gpa += take
            if length <= 0:
                return parts

    def hva(self, gpa: int, length: int) -> int:
        """Host virtual address of a range inside one region. Raises GuestAddressError."""
        region = self.find(gpa, length)
        return region.hva + (gpa - region.gpa)

    def read(self, gpa: int, length: int) -> bytes:
        """A copy of the range, which may span touching regions. Raises GuestAddressError."""
        for region in self.regions:
            start = region.gpa
            if start <= gpa and gpa + length <= region.end and length >= 0:
                return bytes(region.bytes_[gpa - start : gpa - start + length])
        return b"".join(self.views(gpa, length))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` into RAM; all or nothing. Raises GuestAddressError."""
        offset = 0
        for part in self.views(gpa, len(data), writable=True):
            part[:] = data[offset : offset + len(part)]
            offset += len(part)

    def u8(self, gpa: int) -> int:
        region = self.find(gpa, 1)
        return region.bytes_[gpa - region.gpa]

    def u16(self, gpa: int) -> int:
        """One aligned 16-bit load; an odd address is a GuestAddressError."""
        region = self.find(gpa, 2)
        if gpa & 1:
            raise GuestAddressError(gpa, 2)
        return region.words[(gpa - region.gpa) >> 1]

    def u32(self, gpa: int) -> int:
        region = self.find(gpa, 4)
        if gpa & 3:
            raise GuestAddressError(gpa, 4)
        return region.dwords[(gpa - region.gpa) >> 2]

    def u64(self, gpa: int) -> int:
        region = self.find(gpa, 8)
        if gpa & 7:
            raise GuestAddressError(gpa, 8)
        return region.qwords[(gpa - region.gpa) >> 3]

    def store_u8(self, gpa: int, value: int) -> None:
        region = self.find(gpa, 1)
        region.bytes_[gpa - region.gpa] = value

    def store_u16(self, gpa: int, value: int) -> None:
        """One aligned 16-bit store (never torn, see module head)."""
        region = self.find(gpa, 2)
        if gpa & 1:
            raise GuestAddressError(gpa, 2)
        region.words[(gpa - region.gpa) >> 1] = value

    def store_u32(self, gpa: int, value: int) -> None:
        region = self.find(gpa, 4)
        if gpa & 3:
            raise GuestAddressError(gpa, 4)
        region.dwords[(gpa - region.gpa) >> 2] = value

    def store_u64(self, gpa: int, value: int) -> None:
        region = self.find(gpa, 8)
        if gpa & 7:
            raise GuestAddressError(gpa, 8)
        region.qwords[(gpa - region.gpa) >> 3] = value

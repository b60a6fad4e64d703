# SPDX-License-Identifier: Apache-2.0
"""What a guest's pages in the balloon mean for the host's memory (virtio 1.2 §5.5.6.1, §5.5.6.3, §5.5.6.6).

``inflate``, ``deflate`` and ``report`` do what one chain asks for as generators: each step is a bounded piece of work,
so that the loop has its turn in between. Pages that are not RAM are left out, as QEMU does. Where the host's pages are
larger than the guest's (hugetlbfs), one is given back once the balloon has all of it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.core.trace_events import VIRTIO_BALLOON_BAD_ADDR, VIRTIO_BALLOON_DISCARD
from vmmd.devices.virtio.chain import Pairs, take_front, total
from vmmd.devices.virtio.queue import RingError
from vmmd.units import KiB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmmd.core.memory import GuestMemory, RamRegion
    from vmmd.log import Logger

PAGE_SHIFT = 12  # of the guest's page frame numbers, whatever the host has
PAGE_BYTES = 1 << PAGE_SHIFT
PFN_BYTES = 4
#: page frame numbers in one step; Linux sends 256 in a chain
STEP_PFNS = 512
#: bytes that the host takes back in one step: 15 to 60 µs
STEP_BYTES = 512 * KiB


def runs(frames: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(address, length) of the ranges that page frames make up."""
    ordered = sorted(set(frames))
    if not ordered:
        return
    start = ordered[0]
    for frame, following in pairwise([*ordered, -1]):
        if following != frame + 1:
            yield start << PAGE_SHIFT, (frame + 1 - start) << PAGE_SHIFT
            start = following


class GuestPages:
    """Takes pages out of the guest's memory. Loop thread, without the lock."""

    def __init__(self, name: str, memory: GuestMemory, log: Logger) -> None:
        self._name = name
        self._memory = memory
        self._log = log
        #: which guest pages (bits) of larger host pages (by number) are in the balloon
        self._partial: dict[int, int] = {}
        self._told: set[str] = set()  # what was logged: once each, a guest can cause any number

    def forget(self) -> None:
        """The guest starts anew: nothing is in the balloon."""
        self._partial.clear()

    # -- what a chain asks for -----------------------------------------------------------------------------

    def inflate(self, memory: GuestMemory, pairs: Pairs) -> Iterator[None]:
        """The guest gives pages away: page frame numbers of 32 bits. Raises RingError."""
        for frames in self._frames(memory, pairs):
            for gpa, length in runs(frames):
                for region, hva, part in self._parts(gpa, length):
                    backing = region.backing
                    if backing is None or backing.page_bytes == PAGE_BYTES:
                        yield from self._discard(region, hva, part)
                        continue
                    self._tell_once("the host's pages are larger than the guest's: few of them will be given back")
                    for page in self._filled(hva, part, backing.page_bytes):
                        yield from self._discard(region, page * backing.page_bytes, backing.page_bytes)
            yield

    def deflate(self, memory: GuestMemory, pairs: Pairs) -> Iterator[None]:
        """The guest takes pages back. The host finds memory for them when they are touched. Raises RingError."""
        if not self._partial:
            return
        for frames in self._frames(memory, pairs):
            for gpa, length in runs(frames):
                for region, hva, part in self._parts(gpa, length):
                    if region.backing is not None:
                        self._taken_back(hva, part, region.backing.page_bytes)
            yield

    def report(self, pairs: Pairs) -> Iterator[None]:
        """The guest does not use these ranges now, and will not expect what was in them."""
        for gpa, length in pairs:
            for region, hva, part in self._parts(gpa, length):
                mask = (region.backing.page_bytes if region.backing is not None else PAGE_BYTES) - 1
                start, end = hva + mask & ~mask, hva + part & ~mask
                if start < end:
                    yield from self._discard(region, start, end - start)
            yield

    def _frames(self, memory: GuestMemory, pairs: Pairs) -> Iterator[list[int]]:
        """The page frame numbers of a chain, some at a time; never more than there are pages."""
        left = min(total(pairs) // PFN_BYTES, self._memory.size_bytes >> PAGE_SHIFT)
        while left:
            count = min(left, STEP_PFNS)
            try:
                data, pairs = take_front(memory, pairs, count * PFN_BYTES)
            except GuestAddressError as error:
                raise RingError(f"page frame numbers that are not in RAM: {error}") from None
            left -= count
            yield memoryview(data).cast("I").tolist()

    def _parts(self, gpa: int, length: int) -> Iterator[tuple[RamRegion, int, int]]:
        """(region, host address, length) of what is RAM of a range."""
        found = False
        for region in self._memory.regions:
            start, end = max(gpa, region.gpa), min(gpa + length, region.end)
            if start < end:
                found = True
                yield region, region.hva + start - region.gpa, end - start
        if not found and VIRTIO_BALLOON_BAD_ADDR.on:
            VIRTIO_BALLOON_BAD_ADDR(gpa)

    # -- the host's side -----------------------------------------------------------------------------------

    def _discard(self, region: RamRegion, hva: int, length: int) -> Iterator[None]:
        """Give a range of whole host pages back, one bounded piece a step."""
        backing = region.backing
        if backing is None:
            return
        step_bytes = max(STEP_BYTES, backing.page_bytes)
        for at in range(hva, hva + length, step_bytes):
            part = min(step_bytes, hva + length - at)
            if self._memory.pinned is not None:
                self._tell_once(f"its pages stay with the process: {self._memory.pinned}")
                return
            if VIRTIO_BALLOON_DISCARD.on:
                VIRTIO_BALLOON_DISCARD(self._name, region.gpa + at - region.hva, part)
            try:
                backing.discard(at, part)
            except OSError as error:
                self._tell_once(f"memory '{region.name}' cannot be given back to the host: {error.strerror}")
                return
            yield

    def _filled(self, hva: int, length: int, page_bytes: int) -> Iterator[int]:
        """Note guest pages in the balloon; the numbers of the host pages of which it has all now."""
        full = (1 << (page_bytes >> PAGE_SHIFT)) - 1
        for page, bits in _bits(hva, length, page_bytes):
            before = self._partial.get(page, 0)
            self._partial[page] = before | bits
            if before | bits == full != before:
                yield page

    def _taken_back(self, hva: int, length: int, page_bytes: int) -> None:
        for page, bits in _bits(hva, length, page_bytes):
            left = self._partial.pop(page, 0) & ~bits
            if left:
                self._partial[page] = left

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._log.warning("%s", text)


def _bits(hva: int, length: int, page_bytes: int) -> Iterator[tuple[int, int]]:
    """(number, bits) of the host pages that a range touches: a bit for each guest page of it."""
    end = hva + length
    while hva < end:
        page, offset = divmod(hva, page_bytes)
        part = min(end - hva, page_bytes - offset)
        yield page, ((1 << (part >> PAGE_SHIFT)) - 1) << (offset >> PAGE_SHIFT)
        hva += part

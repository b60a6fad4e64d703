# SPDX-License-Identifier: Apache-2.0
"""Every way to break a virtqueue, by name (contract/safety.md §3.4 (1)): what a mutator does to a lawful ring.

Each takes a ``Chain``, whose descriptors are a lawful request of some device, and makes it available broken. Whether
the device must ask for a reset follows from the rule: what makes the ring itself meaningless must; a buffer that is
nowhere, or of a strange length, may be answered with an error of the device's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.framework.virtqueue_driver import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, DriverQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.framework.virtqueue_driver import Driver

RAM_BYTES = 1 << 20
#: guest memory of the tests
RINGS, RING_STRIDE, INDIRECT, DATA = 0x10000, 0x8000, 0x50000, 0x60000
ROM, HOLE, MMIO = 0xFFFF_0000, 0xE000_0000, 0xFEE0_0000
#: the end of RAM is in the middle of the buffer, or the buffer is nowhere
BAD_ADDRESSES = {
    "RAM end - 1": RAM_BYTES - 1,
    "RAM end": RAM_BYTES,
    "a PCI hole": HOLE,
    "MMIO": MMIO,
    "the ROM": ROM,
    "2^63": 1 << 63,
    "2^64 - 1": (1 << 64) - 1,
    "2^64 - 512": (1 << 64) - 512,
}
BAD_LENGTHS = (0, 0x8000_0000, 0xFFFF_FFFF)


class Chain:
    """A lawful request in descriptors 0, 1, … of the ring: (address, length, flags) each."""

    def __init__(self, ring: DriverQueue, parts: list[tuple[int, int, int]]) -> None:
        self.ring = ring
        self.parts = parts
        for index in range(len(parts)):
            self.put(index)

    @property
    def last(self) -> int:
        return len(self.parts) - 1

    def put(
        self,
        index: int,
        *,
        gpa: int | None = None,
        length: int | None = None,
        flags: int | None = None,
        following: int | None = None,
    ) -> None:
        """Write descriptor ``index``, lawful but for what is given."""
        good_gpa, good_length, good_flags = self.parts[index]
        good_flags |= DESC_NEXT if index < self.last else 0
        self.ring.write_desc(
            self.ring.desc,
            index,
            good_gpa if gpa is None else gpa,
            good_length if length is None else length,
            good_flags if flags is None else flags,
            index + 1 if following is None else following,
        )

    def table(self, entries: list[tuple[int, int, int, int]] | None = None) -> int:
        """An indirect table with these entries, or with the lawful chain; returns its length."""
        if entries is None:
            entries = [
                (gpa, length, flags | (DESC_NEXT if index < self.last else 0), index + 1)
                for index, (gpa, length, flags) in enumerate(self.parts)
            ]
        for index, entry in enumerate(entries):
            self.ring.write_desc(INDIRECT, index, *entry)
        return 16 * len(entries)

    def indirect(self, length: int, flags: int = DESC_INDIRECT, gpa: int = INDIRECT) -> None:
        """Make descriptor 0 point to the table, and available."""
        self.put(0, gpa=gpa, length=length, flags=flags)
        self.ring.offer(0)


class Rule(NamedTuple):
    """One way to break a ring."""

    breaks: Callable[[Chain], None]
    must_ask: bool  # for a reset; otherwise the device may go on
    modern_only: bool = False  # lawful with the 256 entries of a legacy queue


def _jump(by: int) -> Callable[[Chain], None]:
    def breaks(chain: Chain) -> None:
        ring = chain.ring
        ring.avail_index = (ring.avail_index + by) & 0xFFFF
        ring.memory.store_u16(ring.avail + 2, ring.avail_index)

    return breaks


def _offer(head: int) -> Callable[[Chain], None]:
    return lambda chain: chain.ring.offer(head)


def _offer_size(chain: Chain) -> None:
    chain.ring.offer(chain.ring.size)


def _edit(last: bool, **given: int) -> Callable[[Chain], None]:
    """The first or the last descriptor is broken."""

    def breaks(chain: Chain) -> None:
        index = chain.last if last else 0
        if "flags" in given or "following" in given:
            flags = chain.parts[index][2] | DESC_NEXT
            chain.put(index, **{"flags": flags, **given})
        else:
            chain.put(index, **given)
        chain.ring.offer(0)

    return breaks


def _next_is_size(chain: Chain) -> None:
    chain.put(chain.last, flags=chain.parts[chain.last][2] | DESC_NEXT, following=chain.ring.size)
    chain.ring.offer(0)


def _loop_to_itself(chain: Chain) -> None:
    chain.put(chain.last, flags=chain.parts[chain.last][2] | DESC_NEXT, following=chain.last)
    chain.ring.offer(0)


def _readable_behind_writable(chain: Chain) -> None:
    gpa = chain.parts[0][0]
    ring = chain.ring
    ring.write_desc(ring.desc, 0, gpa, 16, DESC_WRITE | DESC_NEXT, 1)
    ring.write_desc(ring.desc, 1, gpa + 16, 16, 0)
    ring.offer(0)


def _indirect_and_next(chain: Chain) -> None:
    chain.indirect(chain.table(), DESC_INDIRECT | DESC_NEXT)


def _indirect_inside(chain: Chain) -> None:
    entries = [(DATA, 16, DESC_NEXT, 1), (INDIRECT, 32, DESC_INDIRECT, 0)]
    chain.indirect(chain.table(entries))


def _indirect_of(length: int) -> Callable[[Chain], None]:
    def breaks(chain: Chain) -> None:
        chain.table()
        chain.indirect(length)

    return breaks


def _indirect_too_long(chain: Chain) -> None:
    size = chain.ring.size
    entries = [(DATA, 1, DESC_WRITE | DESC_NEXT, index + 1) for index in range(size)]
    chain.indirect(chain.table([*entries, (DATA, 1, DESC_WRITE, 0)]))


def _indirect_next_outside(chain: Chain) -> None:
    chain.indirect(chain.table([(DATA, 16, DESC_NEXT | DESC_WRITE, 2), (DATA, 1, DESC_WRITE, 0)]))


def _indirect_loop(chain: Chain) -> None:
    chain.indirect(chain.table([(DATA, 16, DESC_NEXT | DESC_WRITE, 0)]))


def _indirect_at(gpa: int) -> Callable[[Chain], None]:
    return lambda chain: chain.indirect(48, gpa=gpa)


def _twice(chain: Chain) -> None:
    chain.ring.offer(0)
    chain.ring.offer(0)


def _over_used_ring(chain: Chain) -> None:
    """The device's answer goes over the used ring: the guest harms only itself."""
    chain.put(chain.last, gpa=chain.ring.used, length=512, flags=DESC_WRITE)
    chain.ring.offer(0)


def _over_table(chain: Chain) -> None:
    """The device's answer goes over the descriptors that describe it."""
    chain.put(chain.last, gpa=chain.ring.desc, length=512, flags=DESC_WRITE)
    chain.ring.offer(0)


RULES: dict[str, Rule] = {
    "avail index jumps by more than the size": Rule(
        lambda chain: _jump(chain.ring.size + 1)(chain), must_ask=True, modern_only=True
    ),
    "avail index jumps far": Rule(_jump(0x8000), must_ask=True),
    "avail index goes backwards": Rule(_jump(-1), must_ask=True),
    "head is the size": Rule(_offer_size, must_ask=True),
    "head is ffff": Rule(_offer(0xFFFF), must_ask=True),
    "next is the size": Rule(_next_is_size, must_ask=True),
    "next is ffff": Rule(_edit(True, following=0xFFFF), must_ask=True),
    "next loops to itself": Rule(_loop_to_itself, must_ask=True),
    "next loops to the head": Rule(_edit(True, following=0), must_ask=True),
    "readable behind writable": Rule(_readable_behind_writable, must_ask=True),
    "indirect and next": Rule(_indirect_and_next, must_ask=True),
    "indirect inside indirect": Rule(_indirect_inside, must_ask=True),
    "indirect of length 0": Rule(_indirect_of(0), must_ask=True),
    "indirect of 17 bytes": Rule(_indirect_of(17), must_ask=True),
    "indirect of 4 GiB": Rule(_indirect_of(0xFFFF_FFF0), must_ask=True),
    "indirect longer than the queue": Rule(_indirect_too_long, must_ask=True),
    "indirect next outside its table": Rule(_indirect_next_outside, must_ask=True),
    "indirect loop": Rule(_indirect_loop, must_ask=True),
    "the same head twice": Rule(_twice, must_ask=False),
    "data over the used ring": Rule(_over_used_ring, must_ask=False),
    "data over the descriptor table": Rule(_over_table, must_ask=False),
    **{f"an indirect table at {name}": Rule(_indirect_at(gpa), must_ask=True) for name, gpa in BAD_ADDRESSES.items()},
    **{
        f"the {which} buffer at {name}": Rule(_edit(which == "last", gpa=gpa), must_ask=False)
        for which in ("first", "last")
        for name, gpa in BAD_ADDRESSES.items()
    },
    **{
        f"the {which} buffer of {length:#x} bytes": Rule(_edit(which == "last", length=length), must_ask=False)
        for which in ("first", "last")
        for length in BAD_LENGTHS
    },
}


# -- queues that are set up wrongly -------------------------------------------------------------------------

GOOD_RINGS = (RINGS, RINGS + 0x1000, RINGS + 0x2000)


class SetUp(NamedTuple):
    """A queue that cannot work (or just does): size, rings, and whether the device must ask for a reset."""

    size: int
    rings: tuple[int, int, int] = GOOD_RINGS
    must_ask: bool = True
    then: Callable[[Driver], None] = lambda driver: None


def _enable_again(driver: Driver) -> None:
    driver.put(0x1C, 2, 1)
    driver.put(0x20, 4, INDIRECT)  # of an enabled queue nothing changes
    driver.put(0x1C, 2, 0)
    driver.put(0x1C, 2, 1)


def _with_ring(position: int, gpa: int) -> tuple[int, int, int]:
    rings = list(GOOD_RINGS)
    rings[position] = gpa
    return rings[0], rings[1], rings[2]


_RING_NAMES = ("descriptor table", "available ring", "used ring")
SET_UPS: dict[str, SetUp] = {
    "queue size 0": SetUp(0, must_ask=False),  # the register keeps what it had
    "queue size 3": SetUp(3),
    "queue size 32769": SetUp(32769, must_ask=False),
    "enabled twice": SetUp(16, must_ask=False, then=_enable_again),
    "descriptor table over the used ring": SetUp(16, (RINGS, RINGS + 0x1000, RINGS)),
    "available ring over the used ring": SetUp(16, (RINGS, RINGS + 0x1000, RINGS + 0x1000)),
    "all rings at 0": SetUp(16, (0, 0, 0)),
    "descriptor table misaligned": SetUp(16, _with_ring(0, RINGS + 8)),
    "available ring misaligned": SetUp(16, _with_ring(1, RINGS + 0x1001)),
    "used ring misaligned": SetUp(16, _with_ring(2, RINGS + 0x2002)),
    **{
        f"{_RING_NAMES[position]} at {name}": SetUp(16, _with_ring(position, gpa & ~15))
        for position in range(3)
        for name, gpa in BAD_ADDRESSES.items()
    },
}

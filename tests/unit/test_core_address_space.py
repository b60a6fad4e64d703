# SPDX-License-Identifier: Apache-2.0
"""core.address_space: look-up, splitting, priorities, unassigned accesses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmmd.core.address_space import AddressSpace, IoRange


class Recorder:
    """A register file that answers with its tag in every byte and records writes."""

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.writes: list[tuple[int, int, int]] = []
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.reads.append((offset, size))
        return int.from_bytes(bytes([self.tag]) * size, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


def claim(space: AddressSpace, base: int, size: int, tag: int, *, max_width: int = 4, priority: int = 0) -> Recorder:
    recorder = Recorder(tag)
    space.add(
        IoRange(base, size, recorder.read, recorder.write, name=f"r{tag}", max_width=max_width, priority=priority)
    )
    return recorder


def test_unassigned_reads_all_ones_and_counts() -> None:
    space = AddressSpace("io", 0x10000)
    assert [space.read(0x80, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF]
    space.write(0x80, 4, 1)
    assert (space.unassigned_reads, space.unassigned_writes) == (3, 1)


def test_wide_access_is_split_to_what_the_range_takes() -> None:
    space = AddressSpace("io", 0x10000)
    recorder = claim(space, 0x70, 2, 0x11, max_width=1)
    space.write(0x70, 2, 0xBBAA)
    assert recorder.writes == [(0, 1, 0xAA), (1, 1, 0xBB)]
    assert space.read(0x70, 2) == 0x1111


def test_access_over_the_end_of_a_range_reads_ones_behind_it() -> None:
    space = AddressSpace("io", 0x10000)
    claim(space, 0x100, 2, 0x22)
    assert space.read(0x101, 2) == 0xFF22
    assert space.read(0xFF, 2) == 0x22FF


def test_higher_priority_wins_where_ranges_overlap() -> None:
    space = AddressSpace("io", 0x10000)
    claim(space, 0xCF8, 4, 0x01)
    claim(space, 0xCF9, 1, 0x02, priority=1)
    assert space.read(0xCF9, 1) == 0x02
    assert space.read(0xCF8, 1) == 0x01


def test_removing_the_upper_range_uncovers_the_lower_one() -> None:
    space = AddressSpace("memory", 1 << 52)
    claim(space, 0xFE000000, 0x10000, 1)
    upper = IoRange(0xFE001000, 0x1000, lambda offset, size: 2, lambda offset, size, value: None, name="u", priority=1)
    space.add(upper)
    assert space.read(0xFE001000, 1) == 2
    space.remove(upper)
    assert space.read(0xFE001000, 1) == 1


def test_range_outside_the_space_is_refused() -> None:
    space = AddressSpace("io", 0x10000)
    with pytest.raises(ValueError, match="does not fit"):
        claim(space, 0xFFFF, 2, 1)


@given(
    ranges=st.lists(st.tuples(st.integers(0, 0x4000), st.integers(1, 0x2000), st.integers(0, 3)), max_size=8),
    addresses=st.lists(st.integers(0, 0x7FFF), min_size=1, max_size=20),
)
def test_lookup_agrees_with_a_linear_search(ranges: list[tuple[int, int, int]], addresses: list[int]) -> None:
    """The exact map and the flattened spans together answer as the definition does: highest priority, then latest; a
    range of the dictionary kind never loses to a larger one of lower or equal age and priority."""
    space = AddressSpace("memory", 0x10000)
    entries = []
    for base, size, priority in ranges:
        entry = IoRange(base, size, lambda o, s: 0, lambda o, s, v: None, name="x", priority=priority)
        space.add(entry)
        entries.append(entry)
    for address in addresses:
        best = None
        for entry in sorted(entries, key=lambda each: each.priority):
            if entry.base <= address < entry.end:
                best = entry
        assert space.find(address) is best

# SPDX-License-Identifier: Apache-2.0
"""core.memory: bounds, widths and views of guest RAM."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmmd.core.memory import GuestAddressError, GuestMemory, make_region

#: two touching pages and, behind a hole, a third
LOW, HIGH, PAGE = 0x1000, 0x10_0000, 4096


def make_memory() -> GuestMemory:
    regions = [
        make_region(base, memoryview(mmap.mmap(-1, PAGE)), 0, name)
        for base, name in ((HIGH, "c"), (LOW, "a"), (LOW + PAGE, "b"))
    ]
    return GuestMemory(regions)


def test_view_inside_one_region_is_zero_copy() -> None:
    memory = make_memory()
    memory.view(LOW + 4, 3, writable=True)[:] = b"abc"
    assert bytes(memory.view(LOW + 4, 3)) == b"abc"


def test_view_for_reading_is_readonly() -> None:
    with pytest.raises(TypeError):
        make_memory().view(LOW, 1)[0] = 1


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (0, 1),
        (LOW - 1, 2),
        (LOW + PAGE - 1, 2),
        (HIGH + PAGE, 0),
        (HIGH + PAGE - 1, 2),
        (LOW, -1),
        (2**64 - 1, 1),
        (-1, 1),
    ],
)
def test_view_outside_one_region_is_refused(gpa: int, length: int) -> None:
    with pytest.raises(GuestAddressError):
        make_memory().view(gpa, length)


def test_views_span_touching_regions_and_write_is_all_or_nothing() -> None:
    memory = make_memory()
    memory.write(LOW + PAGE - 2, b"wxyz")
    assert memory.read(LOW + PAGE - 2, 4) == b"wxyz"
    before = memory.read(LOW + 2 * PAGE - 2, 2)
    with pytest.raises(GuestAddressError):
        memory.write(LOW + 2 * PAGE - 2, b"1234")
    assert memory.read(LOW + 2 * PAGE - 2, 2) == before


@pytest.mark.parametrize(
    ("load", "store", "size"), [("u16", "store_u16", 2), ("u32", "store_u32", 4), ("u64", "store_u64", 8)]
)
def test_integers_are_little_endian_and_aligned(load: str, store: str, size: int) -> None:
    memory = make_memory()
    value = int.from_bytes(bytes(range(1, size + 1)), "little")
    getattr(memory, store)(HIGH + 8, value)
    assert memory.read(HIGH + 8, size) == bytes(range(1, size + 1))
    assert getattr(memory, load)(HIGH + 8) == value
    for call in (lambda: getattr(memory, load)(HIGH + 1), lambda: getattr(memory, store)(HIGH + 1, 0)):
        with pytest.raises(GuestAddressError):
            call()


@given(gpa=st.integers(-(2**65), 2**65), length=st.integers(-10, 3 * PAGE))
def test_read_returns_exactly_length_or_refuses(gpa: int, length: int) -> None:
    memory = make_memory()
    try:
        data = memory.read(gpa, length)
    except GuestAddressError:
        return
    assert len(data) == length

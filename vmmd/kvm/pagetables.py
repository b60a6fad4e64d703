# SPDX-License-Identifier: Apache-2.0
"""Everything that page tables map, in order of address (Intel SDM vol. 3 §4.3 32-bit, §4.4 PAE, §4.5 4- and 5-level).

Pure: reads guest memory and changes nothing. The guest may write the tables meanwhile, or make them refer to
themselves: what comes out is then some mixture, and has no end that a caller could wait for. Callers bound what they
take.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.memory import GuestAddressError
from vmmd.kvm.cpustate import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.core.memory import GuestMemory
    from vmmd.kvm import abi

PRESENT = 1
WRITABLE = 1 << 1
USER = 1 << 2
WRITE_THROUGH = 1 << 3
UNCACHED = 1 << 4
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7
GLOBAL = 1 << 8
NO_EXECUTE = 1 << 63

ADDRESS_BITS = 0x000F_FFFF_FFFF_F000  # bits 12-51 of an 8-byte entry


#: mappings given at once
PIECE = 32


class Mapping(NamedTuple):
    """A page, mapped at a linear address. ``entry`` is the entry that maps it; ``user`` and ``writable`` are what all
    entries on the way allow together."""

    gva: int
    gpa: int
    page_bytes: int
    entry: int
    user: bool
    writable: bool


class _Shape(NamedTuple):
    """How tables are laid out."""

    levels: int
    entry_bytes: int
    index_bits: int
    large_levels: tuple[int, ...]  # levels whose entries may map a page
    address_bits: int  # width of a linear address

    def shift(self, level: int) -> int:
        return 12 + self.index_bits * (level - 1)

    def count(self, level: int) -> int:
        """Entries of a table."""
        if self.levels == 3 and level == 3:
            return 4  # the page-directory-pointer table of PAE
        return 1 << self.index_bits


def mapped(sregs: abi.Sregs, memory: GuestMemory) -> Iterator[list[Mapping]]:
    """The mappings of the active tables, ``PIECE`` at most at once, and an empty list for a table without any: a caller
    that has other things to do may pause between two. Nothing while paging is off."""
    if not sregs.cr0 & CR0_PG:
        return
    if sregs.efer & EFER_LMA:
        levels = 5 if sregs.cr4 & CR4_LA57 else 4
        shape, root = _Shape(levels, 8, 9, (2, 3), 12 + 9 * levels), sregs.cr3 & ADDRESS_BITS
    elif sregs.cr4 & CR4_PAE:
        shape, root = _Shape(3, 8, 9, (2,), 32), sregs.cr3 & 0xFFFF_FFE0
    else:
        shape, root = _Shape(2, 4, 10, (2,) if sregs.cr4 & CR4_PSE else (), 32), sregs.cr3 & 0xFFFF_F000
    yield from _table(memory, shape, shape.levels, root, (0, USER | WRITABLE))


def _table(
    memory: GuestMemory, shape: _Shape, level: int, table: int, above: tuple[int, int]
) -> Iterator[list[Mapping]]:
    """What a table maps; ``above``: (linear address that it begins at, rights that the entries before leave)."""
    start, rights = above
    shift = shape.shift(level)
    found: list[Mapping] = []
    for index, entry in enumerate(_entries(memory, shape, level, table)):
        if not entry & PRESENT:
            continue
        gva = _canonical(start | index << shift, shape)
        # entries of PAE's top table have no such bits
        allowed = rights if shape.levels == 3 and level == 3 else rights & entry
        is_page = level == 1 or bool(entry & LARGE and level in shape.large_levels)
        if is_page:
            gpa = _page_address(shape, entry, shift)
            found.append(Mapping(gva, gpa, 1 << shift, entry, bool(allowed & USER), bool(allowed & WRITABLE)))
            if len(found) < PIECE:
                continue
        if found:
            yield found
            found = []
        if is_page:
            continue
        next_table = entry & (ADDRESS_BITS if shape.entry_bytes == 8 else 0xFFFF_F000)
        yield from _table(memory, shape, level - 1, next_table, (gva, allowed))
    yield found


def _entries(memory: GuestMemory, shape: _Shape, level: int, table: int) -> tuple[int, ...]:
    count = shape.count(level)
    try:
        data = memory.read(table, count * shape.entry_bytes)
    except GuestAddressError:
        return ()  # as on a bus where nobody answers, but without inventing mappings
    return struct.unpack(f"<{count}{'Q' if shape.entry_bytes == 8 else 'I'}", data)


def _page_address(shape: _Shape, entry: int, shift: int) -> int:
    if shape.entry_bytes == 8:
        return entry & ADDRESS_BITS & -(1 << shift)
    if shift == 12:
        return entry & 0xFFFF_F000
    return (entry & 0xFFC0_0000) | (entry >> 13 & 0xFF) << 32  # PSE-36


def _canonical(gva: int, shape: _Shape) -> int:
    """A linear address with its upper bits as the CPU wants them."""
    top = shape.address_bits
    if top > 32 and gva >> (top - 1) & 1:
        return gva | ((1 << 64) - (1 << top))
    return gva

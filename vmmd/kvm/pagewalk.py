# SPDX-License-Identifier: Apache-2.0
"""Guest-virtual to guest-physical, step by step (Intel SDM vol. 3 §4.3 32-bit, §4.4 PAE, §4.5 4- and 5-level paging).

Pure: reads page tables from guest memory and changes nothing (no accessed bits).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.memory import GuestAddressError
from vmmd.kvm.cpustate import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA
from vmmd.kvm.pagetables import ADDRESS_BITS, LARGE, PRESENT

if TYPE_CHECKING:
    from vmmd.core.memory import GuestMemory
    from vmmd.kvm import abi

_NAMES = {5: "PML5E", 4: "PML4E", 3: "PDPTE", 2: "PDE", 1: "PTE"}


class WalkStep(NamedTuple):
    """One table entry, or the result.

    ``kind`` is PML5E, PML4E, PDPTE, PDE, PTE, then ``page`` (``page_bytes`` its size) or ``fault`` with the reason.
    """

    kind: str
    gpa: int  # where the entry was read; for ``page`` the translated address
    entry: int
    page_bytes: int = 0
    reason: str = ""


def walk(sregs: abi.Sregs, memory: GuestMemory, gva: int) -> list[WalkStep]:
    """The steps of the translation of ``gva`` with these control registers."""
    if not sregs.cr0 & CR0_PG:
        return [WalkStep("page", gva & 0xFFFF_FFFF, gva & 0xFFFF_FFFF, 4096)]
    if sregs.efer & EFER_LMA:
        levels = 5 if sregs.cr4 & CR4_LA57 else 4
        top = 12 + 9 * levels - 1
        if gva >> top not in (0, (1 << 64 - top) - 1):
            return [WalkStep("fault", gva, 0, reason="not a canonical address")]
        return _walk_64(memory, sregs.cr3 & ADDRESS_BITS, gva, levels)
    if gva >> 32:
        return [WalkStep("fault", gva, 0, reason="above the 32-bit address space")]
    if sregs.cr4 & CR4_PAE:
        return _walk_64(memory, sregs.cr3 & 0xFFFF_FFE0, gva, 3)
    return _walk_32(memory, sregs.cr3 & 0xFFFF_F000, gva, large_pages=bool(sregs.cr4 & CR4_PSE))


def _read(memory: GuestMemory, gpa: int, size: int) -> int | None:
    try:
        return int.from_bytes(memory.read(gpa, size), "little")
    except GuestAddressError:
        return None


def _walk_64(memory: GuestMemory, table: int, gva: int, levels: int) -> list[WalkStep]:
    """Tables of 8-byte entries. With 3 levels (PAE) the top table has four entries and no large pages."""
    steps: list[WalkStep] = []
    for level in range(levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        index = gva >> shift & (3 if levels == 3 and level == 3 else 511)
        entry_gpa = table + 8 * index
        entry = _read(memory, entry_gpa, 8)
        if entry is None:
            steps.append(WalkStep("fault", entry_gpa, 0, reason="the table is not in RAM"))
            return steps
        steps.append(WalkStep(_NAMES[level], entry_gpa, entry))
        if not entry & PRESENT:
            steps.append(WalkStep("fault", entry_gpa, entry, reason="not present"))
            return steps
        large = bool(entry & LARGE) and (level == 2 or (level == 3 and levels > 3))
        if level == 1 or large:
            size = 1 << shift
            gpa = (entry & ADDRESS_BITS & -size) | (gva & (size - 1))
            steps.append(WalkStep("page", gpa, gpa, size))
            return steps
        table = entry & ADDRESS_BITS
    raise AssertionError("level 1 ends the walk")


def _walk_32(memory: GuestMemory, directory: int, gva: int, *, large_pages: bool) -> list[WalkStep]:
    """Two tables of 4-byte entries; 4 MiB pages with PSE-36 (bits 13-20 are address bits 32-39)."""
    steps: list[WalkStep] = []
    table = directory
    for level, shift in ((2, 22), (1, 12)):
        entry_gpa = table + 4 * (gva >> shift & 1023)
        entry = _read(memory, entry_gpa, 4)
        if entry is None:
            steps.append(WalkStep("fault", entry_gpa, 0, reason="the table is not in RAM"))
            return steps
        steps.append(WalkStep(_NAMES[level], entry_gpa, entry))
        if not entry & PRESENT:
            steps.append(WalkStep("fault", entry_gpa, entry, reason="not present"))
            return steps
        if level == 2 and entry & LARGE and large_pages:
            gpa = (entry & 0xFFC0_0000) | (entry >> 13 & 0xFF) << 32 | (gva & 0x3F_FFFF)
            steps.append(WalkStep("page", gpa, gpa, 1 << 22))
            return steps
        table = entry & 0xFFFF_F000
    gpa = table | (gva & 0xFFF)
    steps.append(WalkStep("page", gpa, gpa, 4096))
    return steps

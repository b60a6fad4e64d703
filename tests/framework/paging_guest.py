# SPDX-License-Identifier: Apache-2.0
"""Firmware of 64 KiB that turns on paging with tables of the test's making, and halts: for looking at page tables.

The image lies at 0xFFFF0000 (``-bios``). It begins with the tables, which the code copies to ``TABLES``; then it goes
on at 0x7000, which the tables must map to itself. Assembled with binutils; the source:

    start: cli; lgdt cs:gdtp; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:prot                        (16 bits)
    prot:  mov eax, 16; mov ds, es, ss, eax; mov esi, 0xFFFF0000; mov edi, 0x10000; mov ecx, COUNT; rep movsd
           copy 256 bytes from start to 0x7000; lgdt [ramp]; jmp 8:ram (there)
    ram:   mov cr4, CR4; mov cr3, CR3; wrmsr 0xC0000080, EFER; mov cr0, 0x80010001; jmp SELECTOR:final
    final: hlt; jmp final
"""

from __future__ import annotations

import struct
from typing import NamedTuple

IMAGE = 0xFFFF0000
IMAGE_BYTES = 0x10000
CODE_OFFSET = 0xF000
#: where the tables are in RAM when the guest halts
TABLES = 0x10000

_COUNT, _CR4, _CR3, _EFER, _SELECTOR = 0x11111111, 0x22222222, 0x33333333, 0x44444444, 0x5555
_CODE = bytes.fromhex(
    "fa2e660f011688f00f20c00c010f22c066ea18f0ffff0800b8100000008ed88ec08ed0be0000ffffbf00000100b911111111f3a5be00f0ff"
    "ffbf00700000b940000000f3a50f011590700000ea537000000800b8222222220f22e0b8333333330f22d8b9800000c0b84444444431d20f"
    "30b8010001800f22c0ea807000005555f4ebfd8d742600901f0098f0ffff66901f009870000066900000000000000000ffff0000009bcf00"
    "ffff00000093cf00ffff0000009baf00"
)
_RESET_VECTOR = bytes.fromhex("e90df0")  # jmp start

PRESENT, WRITABLE, USER, WRITE_THROUGH, UNCACHED, ACCESSED, DIRTY, LARGE, GLOBAL = (1 << bit for bit in range(9))
NO_EXECUTE = 1 << 63
CR4_PSE, CR4_PAE = 0x10, 0x20
EFER_LONG_MODE, EFER_NO_EXECUTE = 0x100, 0x800


class Mode(NamedTuple):
    """What the control registers hold, and which code segment runs at the end (8: 32 bits, 24: 64 bits)."""

    cr4: int
    efer: int
    selector: int


MODES = {
    "32": Mode(CR4_PSE, 0, 8),
    "pae": Mode(CR4_PAE, EFER_NO_EXECUTE, 8),
    "64": Mode(CR4_PAE, EFER_LONG_MODE | EFER_NO_EXECUTE, 24),
}


class Tables:
    """Page tables: ``entry(table, index, value)``; a table's number is its page behind ``TABLES``, the root is 0."""

    def __init__(self, entry_bytes: int) -> None:
        self._entry_bytes = entry_bytes
        self._memory = bytearray(CODE_OFFSET)
        self._next = 1

    def new(self) -> int:
        """The number of another empty table."""
        self._next += 1
        return self._next - 1

    def entry(self, table: int, index: int, value: int) -> None:
        offset = table * 4096 + index * self._entry_bytes
        self._memory[offset : offset + self._entry_bytes] = value.to_bytes(self._entry_bytes, "little")

    def link(self, table: int, index: int, flags: int) -> int:
        """A new table, entered at ``index``; its number."""
        made = self.new()
        self.entry(table, index, TABLES + made * 4096 | flags)
        return made

    @property
    def image(self) -> bytes:
        return bytes(self._memory[: self._next * 4096])


def firmware(mode: Mode, tables: Tables) -> bytes:
    """The image for ``-bios``."""
    code = _CODE
    for placeholder, value in (
        (_COUNT, len(tables.image) // 4), (_CR4, mode.cr4), (_CR3, TABLES), (_EFER, mode.efer),
    ):  # fmt: skip
        code = code.replace(struct.pack("<I", placeholder), struct.pack("<I", value))
    code = code.replace(struct.pack("<H", _SELECTOR), struct.pack("<H", mode.selector))
    image = bytearray(IMAGE_BYTES)
    image[: len(tables.image)] = tables.image
    image[CODE_OFFSET : CODE_OFFSET + len(code)] = code
    image[0xFFF0 : 0xFFF0 + len(_RESET_VECTOR)] = _RESET_VECTOR
    return bytes(image)


def sample(name: str) -> bytes:
    """Firmware for a mode of ``MODES`` with mappings of every kind: sizes, flags, holes, both halves."""
    return firmware(MODES[name], {"32": _sample_32, "pae": _sample_pae, "64": _sample_64}[name]())


def _pages(tables: Tables, table: int, *, wide: bool) -> None:
    """A table of small pages of all flags, with holes."""
    every = PRESENT | WRITABLE
    for index in range(8):  # the code runs in page 7
        tables.entry(table, index, index << 12 | every | (ACCESSED if index == 7 else 0))
    for index, flags in enumerate((USER, WRITE_THROUGH, UNCACHED, ACCESSED, DIRTY, GLOBAL, USER | ACCESSED | DIRTY)):
        tables.entry(table, 16 + index, (0x40 + index) << 12 | PRESENT | flags)
    if wide:
        tables.entry(table, 30, 0x1000 | every | NO_EXECUTE)
        tables.entry(table, 31, 0x2000 | every | NO_EXECUTE | USER)


def _sample_32() -> Tables:
    tables = Tables(4)
    flags = PRESENT | WRITABLE | USER
    _pages(tables, tables.link(0, 0, flags), wide=False)
    tables.entry(0, 1, 0 << 22 | PRESENT | WRITABLE | LARGE)
    tables.entry(0, 2, 1 << 22 | PRESENT | WRITABLE | LARGE | DIRTY | ACCESSED | GLOBAL)
    tables.entry(0, 3, 1 << 22 | PRESENT | USER | LARGE)
    _pages(tables, tables.link(0, 512, PRESENT), wide=False)  # the entry above takes rights away
    tables.entry(0, 1023, 0xFFC0_0000 | PRESENT | WRITABLE | LARGE)
    return tables


def _sample_pae() -> Tables:
    tables = Tables(8)
    flags = PRESENT | WRITABLE | USER
    first = tables.link(0, 0, PRESENT)
    _pages(tables, tables.link(first, 0, flags), wide=True)
    tables.entry(first, 1, 1 << 21 | PRESENT | WRITABLE | LARGE)
    tables.entry(first, 2, 2 << 21 | PRESENT | WRITABLE | LARGE | NO_EXECUTE | USER)
    _pages(tables, tables.link(first, 4, PRESENT | NO_EXECUTE), wide=True)
    last = tables.link(0, 3, PRESENT)
    tables.entry(last, 511, 0xFFE0_0000 | PRESENT | WRITABLE | LARGE | GLOBAL)
    return tables


def _sample_64() -> Tables:
    tables = Tables(8)
    flags = PRESENT | WRITABLE | USER
    third = tables.link(0, 0, flags)
    second = tables.link(third, 0, flags)
    _pages(tables, tables.link(second, 0, flags), wide=True)
    tables.entry(second, 1, 1 << 21 | PRESENT | WRITABLE | LARGE)
    tables.entry(second, 2, 2 << 21 | PRESENT | WRITABLE | LARGE | NO_EXECUTE | USER)
    _pages(tables, tables.link(second, 4, PRESENT | NO_EXECUTE), wide=True)
    last = tables.link(third, 3, PRESENT | WRITABLE)
    tables.entry(last, 511, 0xFFE0_0000 | PRESENT | WRITABLE | LARGE | GLOBAL)
    high = tables.link(0, 256, flags)
    tables.entry(high, 0, tables.new() * 4096 + TABLES | PRESENT)
    upper = tables.link(0, 511, flags)
    upper_second = tables.link(upper, 510, flags)
    tables.entry(upper_second, 0, 0 << 21 | PRESENT | WRITABLE | LARGE | ACCESSED | DIRTY)
    tables.entry(upper_second, 1, 1 << 21 | PRESENT | WRITABLE | LARGE)
    return tables

# SPDX-License-Identifier: Apache-2.0
"""Where direct boot keeps its own things below 1 MiB and at the end of low RAM, and what a kernel may not cover.

0x00400  BIOS data area                    0x10000  zero page (Linux)
0x08f00  GDT                               0x20000  command line (PVH, Linux)
0x09000  memory map (multiboot, PVH)       0x9fc00  EBDA
0x09500  boot information                  0xf0000  MP table, RSDP, SMBIOS
end of low RAM - 128 KiB: ACPI tables, and SMBIOS tables too large for the F segment (SeaBIOS's place, too)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.bootstate import BootState, SegmentState
from vmmd.firmware.image import clear

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmmd.core.memory import GuestMemory
    from vmmd.firmware.e820 import Range
    from vmmd.firmware.elf import Segment
    from vmmd.firmware.image import ImageFile

BIOS_DATA = 0x400
GDT_GPA = 0x8F00
MAP_GPA = 0x9000
INFO_GPA = 0x9500
BOOT_AREA_END = 0xA000
ZERO_PAGE_GPA = 0x1_0000
COMMAND_LINE_GPA = 0x2_0000
COMMAND_LINE_MAX = 0x1_0000
EBDA_GPA = 0x9_FC00
LEGACY_GPA = 0xA_0000
F_SEGMENT = 0xF_0000
F_SEGMENT_END = 0x10_0000
HIGH_TABLES_BYTES = 0x2_0000
PAGE = 4096

#: flat segments: null, code, data
CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10
_GDT = (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
LINUX_CODE_SELECTOR, LINUX_DATA_SELECTOR = 0x10, 0x18  # fixed by the Linux boot protocol (__BOOT_CS, __BOOT_DS)
_LINUX_GDT = (0, 0, *_GDT[1:])

_CODE_ACCESS, _DATA_ACCESS = 0xC09B, 0xC093
_TSS_ACCESS = 0x008B
_TSS_LIMIT = 0x67
CR0_PROTECTED = 0x11  # PE, and ET, which is always 1


class Space(NamedTuple):
    """The guest's memory as direct boot sees it: RAM, the map the guest gets, where tables begin."""

    memory: GuestMemory
    ram_below_4g: int
    tables_gpa: int
    e820: Sequence[Range]
    rsdp_gpa: int  # 0: no ACPI


def page_up(gpa: int) -> int:
    return gpa + PAGE - 1 & -PAGE


def check_entry(image: ImageFile, entry: int) -> None:
    """Raise VmmdError for an entry point that 32-bit code cannot have."""
    if entry >> 32:
        raise image.error(f"its entry point {entry:#x} is above 4 GiB")


def load_segments(
    image: ImageFile, space: Space, segments: Sequence[Segment], taken: Sequence[tuple[int, int]]
) -> None:
    """Put the segments of an image into RAM, bss cleared. Raises VmmdError.

    Together they are no larger than RAM: any number of them on the same place would take any amount of time.
    """
    for segment in segments:
        check_place(image, space, segment.gpa, segment.memory_bytes, taken)
    total = sum(segment.memory_bytes for segment in segments)
    if total > space.memory.size_bytes:
        mebibytes = space.memory.size_bytes >> 20
        raise image.error(f"its segments have {total} bytes together, RAM has {mebibytes} MiB", "give more with -m")
    for segment in segments:
        image.load(space.memory, segment.gpa, segment.offset, segment.file_bytes)
        clear(image, space.memory, segment.gpa + segment.file_bytes, segment.memory_bytes - segment.file_bytes)


def check_place(image: ImageFile, space: Space, gpa: int, length: int, taken: Iterable[tuple[int, int]]) -> None:
    """Raise VmmdError when a range of the image covers what direct boot, BIOS area or tables need."""
    end = gpa + length
    areas = (
        (BIOS_DATA, 0x500),
        (LEGACY_GPA, F_SEGMENT_END),
        (EBDA_GPA, LEGACY_GPA),
        *taken,
    )
    if gpa < space.ram_below_4g and end > space.tables_gpa:
        usable = space.tables_gpa >> 20
        raise image.error(f"it loads to {gpa:#x}-{end - 1:#x}, usable RAM ends at {usable} MiB", "give more with -m")
    for start, stop in areas:
        if gpa < stop and start < end:
            raise image.error(f"it loads to {gpa:#x}-{end - 1:#x}, where the machine has {start:#x}-{stop - 1:#x}")


def protected_mode(memory: GuestMemory, entry: int, regs: dict[str, int], *, linux: bool = False) -> BootState:
    """Flat 32-bit protected mode without paging and with interrupts off; writes the GDT."""
    table = _LINUX_GDT if linux else _GDT
    code, data = (LINUX_CODE_SELECTOR, LINUX_DATA_SELECTOR) if linux else (CODE_SELECTOR, DATA_SELECTOR)
    gdt = b"".join(each.to_bytes(8, "little") for each in table)
    memory.write(GDT_GPA, gdt)
    segments = {name: SegmentState(data, access=_DATA_ACCESS) for name in ("ds", "es", "fs", "gs", "ss")}
    segments["cs"] = SegmentState(code, access=_CODE_ACCESS)
    segments["tr"] = SegmentState(0, 0, _TSS_LIMIT, _TSS_ACCESS)
    return BootState({"rip": entry, "rflags": 2, **regs}, segments, gdt=(GDT_GPA, len(gdt) - 1), cr0=CR0_PROTECTED)

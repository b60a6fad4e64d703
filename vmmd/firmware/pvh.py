# SPDX-License-Identifier: Apache-2.0
"""PVH direct boot (Xen "x86/HVM direct boot ABI", start_info version 1): ELF kernels with the PHYS32_ENTRY note."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmmd.firmware import low_memory
from vmmd.firmware.initrd import place_initrd, write_command_line

if TYPE_CHECKING:
    from vmmd.core.bootstate import BootState
    from vmmd.firmware.elf import ElfImage
    from vmmd.firmware.image import ImageFile
    from vmmd.firmware.low_memory import Space

START_MAGIC = 0x336EC578
START_VERSION = 1
MODULES_GPA = low_memory.INFO_GPA + 0x40
INITRD_LIMIT = 1 << 32


def load(image: ImageFile, parsed: ElfImage, append: str, initrd: ImageFile | None, space: Space) -> BootState:
    """Put kernel, initrd and start information into RAM. Raises VmmdError."""
    entry = parsed.pvh_entry
    if entry is None:
        raise image.error("Error loading uncompressed kernel without PVH ELF Note")
    own = [
        (low_memory.GDT_GPA, low_memory.BOOT_AREA_END),
        (low_memory.COMMAND_LINE_GPA, low_memory.COMMAND_LINE_GPA + low_memory.COMMAND_LINE_MAX),
    ]
    memory = space.memory
    low_memory.load_segments(image, space, parsed.segments, own)
    command_gpa = write_command_line(image, memory, append, low_memory.COMMAND_LINE_MAX - 1)
    modules = 0
    if initrd is not None and initrd.size_bytes:
        bottom = max(segment.end for segment in parsed.segments)
        initrd_gpa = place_initrd(initrd, space, bottom, INITRD_LIMIT)
        memory.write(MODULES_GPA, struct.pack("<4Q", initrd_gpa, initrd.size_bytes, 0, 0))
        modules = 1
    entries = b"".join(struct.pack("<QQII", each.base, each.size_bytes, each.kind, 0) for each in space.e820)
    memory.write(low_memory.MAP_GPA, entries)
    information = struct.pack(
        "<4I3Q", START_MAGIC, START_VERSION, 0, modules, MODULES_GPA if modules else 0, command_gpa, space.rsdp_gpa
    )
    information += struct.pack("<QII", low_memory.MAP_GPA, len(space.e820), 0)
    memory.write(low_memory.INFO_GPA, information)
    return low_memory.protected_mode(memory, entry, {"rbx": low_memory.INFO_GPA})

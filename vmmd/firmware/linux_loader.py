# SPDX-License-Identifier: Apache-2.0
"""Linux bzImage by the 32-bit boot protocol (Documentation/x86/boot.rst, protocol 2.06 and later).

The real-mode part is not run: its setup header becomes the zero page, memory map and ACPI pointer are filled in, and
the kernel starts at ``code32_start``. LIMIT: no video mode is set, so a VGA console starts only with
a driver of its own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmmd.firmware import low_memory
from vmmd.firmware.initrd import place_initrd, write_command_line

if TYPE_CHECKING:
    from vmmd.core.bootstate import BootState
    from vmmd.firmware.image import ImageFile
    from vmmd.firmware.low_memory import Space

HEADER_MAGIC = b"HdrS"
MAGIC_OFFSET = 0x202
SETUP_BYTES = 0x1000  # boot sector and as much of the setup code as holds the header
OLDEST_PROTOCOL = 0x0206
LOADED_HIGH = 0x01
LOADER_QEMU = 0xB0
PROTOCOL_RSDP = 0x020E
PROTOCOL_INIT_SIZE = 0x020A
DEFAULT_INITRD_MAX = 0x37FF_FFFF
E820_MAX = 128

# offsets in the zero page, which are also those in the file
ZP_ALT_MEM_KB = 0x1E0
ZP_E820_COUNT = 0x1E8
ZP_SETUP_SECTORS = 0x1F1
ZP_VERSION = 0x206
ZP_LOADER = 0x210
ZP_LOAD_FLAGS = 0x211
ZP_CODE32 = 0x214
ZP_RAMDISK = 0x218
ZP_COMMAND_LINE = 0x228
ZP_INITRD_MAX = 0x22C
ZP_COMMAND_LINE_SIZE = 0x238
ZP_PREFERRED = 0x258
ZP_INIT_SIZE = 0x260
ZP_RSDP = 0x070
ZP_E820 = 0x2D0


def is_linux(image: ImageFile) -> bool:
    """True when the file has a Linux setup header."""
    return image.read(MAGIC_OFFSET, 4) == HEADER_MAGIC


def load(image: ImageFile, append: str, initrd: ImageFile | None, space: Space) -> BootState:
    """Put kernel, zero page, command line and initrd into RAM. Raises VmmdError."""
    head = image.read(0, SETUP_BYTES)
    if len(head) < ZP_INIT_SIZE + 4:
        raise image.error("the file ends inside the Linux setup header")

    def field(offset: int, layout: str) -> int:
        return int(struct.unpack_from("<" + layout, head, offset)[0])

    version = field(ZP_VERSION, "H")
    if version < OLDEST_PROTOCOL or not head[ZP_LOAD_FLAGS] & LOADED_HIGH:
        raise image.error(
            f"its boot protocol {version >> 8}.{version & 0xFF:02} is too old", "2.06 (Linux 2.6.22) is needed"
        )
    start = ((head[ZP_SETUP_SECTORS] or 4) + 1) * 512
    length = image.size_bytes - start
    if length <= 0:
        raise image.error("the file ends before the kernel's protected-mode part")
    entry = field(ZP_CODE32, "I")
    own = [(low_memory.GDT_GPA, low_memory.COMMAND_LINE_GPA + low_memory.COMMAND_LINE_MAX)]
    low_memory.check_place(image, space, entry, length, own)
    image.load(space.memory, entry, start, length)
    page = _zero_page(head, space, version)
    limit = min(field(ZP_COMMAND_LINE_SIZE, "I") or 255, low_memory.COMMAND_LINE_MAX - 1)
    _put(page, ZP_COMMAND_LINE, "I", write_command_line(image, space.memory, append, limit))
    if initrd is not None and initrd.size_bytes:
        bottom = entry + length
        if version >= PROTOCOL_INIT_SIZE:  # where the kernel unpacks itself and its bss
            bottom = max(bottom, max(entry, field(ZP_PREFERRED, "Q")) + field(ZP_INIT_SIZE, "I"))
        gpa = place_initrd(initrd, space, bottom, (field(ZP_INITRD_MAX, "I") or DEFAULT_INITRD_MAX) + 1)
        _put(page, ZP_RAMDISK, "II", gpa, initrd.size_bytes)
    space.memory.write(low_memory.ZERO_PAGE_GPA, page)
    regs = {"rsi": low_memory.ZERO_PAGE_GPA, "rbp": 0, "rdi": 0, "rbx": 0}
    return low_memory.protected_mode(space.memory, entry, regs, linux=True)


def _put(page: bytearray, offset: int, layout: str, *values: int) -> None:
    data = struct.pack("<" + layout, *values)
    page[offset : offset + len(data)] = data


def _zero_page(head: bytes, space: Space, version: int) -> bytearray:
    """The zero page: setup header of the file, loader's fields, memory map."""
    page = bytearray(4096)
    end = MAGIC_OFFSET + head[0x201]
    page[ZP_SETUP_SECTORS:end] = head[ZP_SETUP_SECTORS:end]
    page[ZP_LOADER] = LOADER_QEMU
    _put(page, ZP_ALT_MEM_KB, "I", (space.tables_gpa - 0x10_0000) >> 10)
    if version >= PROTOCOL_RSDP:
        _put(page, ZP_RSDP, "Q", space.rsdp_gpa)
    ranges = space.e820[:E820_MAX]
    page[ZP_E820_COUNT] = len(ranges)
    _put(page, ZP_E820, "QQI" * len(ranges), *(number for each in ranges for number in each))
    return page

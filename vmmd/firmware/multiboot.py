# SPDX-License-Identifier: Apache-2.0
"""Multiboot 1 (specification 0.6.96): ELF32 kernels and flat images with the address fields ("a.out kludge").

Where things lie and which fields are given follows QEMU 7.2 (measured with a kernel that shows its boot information):
information at 0x9500, memory map at 0x9000; behind the kernel, from the next page on, module list and strings, then
each module on its own pages; ``mem_lower``, ``mem_upper``, boot device, command line, modules, map and loader name.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.firmware import elf, low_memory
from vmmd.firmware.image import ImageFile, ram_views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.bootstate import BootState
    from vmmd.firmware.low_memory import Space

SEARCH_BYTES = 8192  # §3.1: the header lies wholly in here, aligned to 4
HEADER_MAGIC = 0x1BADB002
LOADER_MAGIC = 0x2BADB002
FLAG_VIDEO = 1 << 2
FLAG_ADDRESSES = 1 << 16
FLAGS_UNDERSTOOD = 0b011  # of bits 0-15, which a loader must refuse when it does not know them (§3.1.2)

INFO_FLAGS = 0x24F  # memory, boot device, command line, modules, map, loader name
BOOT_DEVICE = 0x8000_FFFF  # first disk, whole
LOADER_NAME = b"qemu\0"  # QEMU-COMPAT: guests look for it
MODULES_MAX = 255

_ADDRESSES = struct.Struct("<5I")


class Header(NamedTuple):
    """The header and where it stands in the file. ``addresses``: header, load, load end, bss end, entry; or None."""

    offset: int
    flags: int
    addresses: tuple[int, ...] | None


class Module(NamedTuple):
    image: ImageFile
    command_line: bytes


def find_header(image: ImageFile) -> Header | None:
    """The multiboot header, or None. Raises VmmdError when it asks for something unknown."""
    head = image.read(0, SEARCH_BYTES)
    magic = HEADER_MAGIC.to_bytes(4, "little")
    offset = head.find(magic)
    while offset >= 0:
        if offset % 4 == 0 and offset + 12 <= len(head):
            flags, checksum = struct.unpack_from("<II", head, offset + 4)
            if (HEADER_MAGIC + flags + checksum) & 0xFFFF_FFFF == 0:
                return _header(image, head, offset, flags)
        offset = head.find(magic, offset + 1)
    return None


def _header(image: ImageFile, head: bytes, offset: int, flags: int) -> Header:
    unknown = flags & 0xFFFF & ~(FLAGS_UNDERSTOOD | FLAG_VIDEO)
    if unknown:
        raise image.error(f"its multiboot header requires flags {unknown:#x}, which are not known")
    if not flags & FLAG_ADDRESSES:
        return Header(offset, flags, None)
    if offset + 12 + _ADDRESSES.size > len(head):
        raise image.error("its multiboot header has no room for the addresses that it announces")
    return Header(offset, flags, _ADDRESSES.unpack_from(head, offset + 12))


def open_modules(initrd: str) -> list[Module]:
    """``-initrd "file arguments,file2"``: one module each; ``,,`` stands for a comma. Raises VmmdError."""
    modules: list[Module] = []
    try:
        for part in _split(initrd):
            text = part.lstrip(" ")
            path = text.split(" ", 1)[0]
            modules.append(Module(ImageFile("-initrd", path), text.encode("utf-8", "surrogateescape")))
            if len(modules) > MODULES_MAX:
                raise modules[-1].image.error(f"more than {MODULES_MAX} modules")
    except BaseException:
        for module in modules:
            module.image.close()
        raise
    return modules


def _split(text: str) -> list[str]:
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def plan(image: ImageFile, header: Header) -> tuple[int, list[elf.Segment]]:
    """(entry, segments). Raises VmmdError when the image is damaged."""
    if header.addresses is None:
        parsed = elf.parse(image)
        if parsed.is_64_bit:
            # QEMU-COMPAT: multiboot 1 knows 32-bit ELF only; users know this sentence
            raise image.error("Cannot load x86-64 image, give a 32bit one.")
        low_memory.check_entry(image, parsed.entry)
        return parsed.entry, list(parsed.segments)
    header_gpa, load_gpa, load_end, bss_end, entry = header.addresses
    if header_gpa < load_gpa or header_gpa - load_gpa > header.offset:
        raise image.error(f"its multiboot addresses are wrong (header {header_gpa:#x}, load {load_gpa:#x})")
    offset = header.offset - (header_gpa - load_gpa)
    length = load_end - load_gpa if load_end else image.size_bytes - offset
    if length <= 0 or offset + length > image.size_bytes:
        raise image.error(f"its multiboot load end address {load_end:#x} does not fit the file")
    memory_bytes = max(length, bss_end - load_gpa) if bss_end else length
    return entry, [elf.Segment(load_gpa, offset, length, memory_bytes)]


def load(
    image: ImageFile, header: Header, kernel_name: str, append: str, modules: Sequence[Module], space: Space
) -> BootState:
    """Put kernel, modules and boot information into RAM. ``kernel_name`` is the argument of ``-kernel`` as given."""
    entry, segments = plan(image, header)
    own = [(low_memory.GDT_GPA, low_memory.BOOT_AREA_END)]
    low_memory.load_segments(image, space, segments, own)
    behind = low_memory.page_up(max(segment.end for segment in segments))
    command_line = f"{kernel_name} {append}".encode("utf-8", "surrogateescape") + b"\0"
    mods_gpa, command_gpa, loader_gpa = _load_modules(image, space, modules, command_line, behind)
    memory_map = b"".join(struct.pack("<IQQI", 20, *each) for each in space.e820)
    if len(memory_map) > low_memory.INFO_GPA - low_memory.MAP_GPA:
        raise image.error("the memory map has too many entries")
    space.memory.write(low_memory.MAP_GPA, memory_map)
    lower, upper = low_memory.EBDA_GPA >> 10, (space.tables_gpa - 0x10_0000) >> 10
    information = struct.pack("<7I", INFO_FLAGS, lower, upper, BOOT_DEVICE, command_gpa, len(modules), mods_gpa)
    information += bytes(16) + struct.pack("<2I", len(memory_map), low_memory.MAP_GPA)
    information += bytes(12) + struct.pack("<I", loader_gpa) + bytes(52)
    space.memory.write(low_memory.INFO_GPA, information)
    return low_memory.protected_mode(space.memory, entry, {"rax": LOADER_MAGIC, "rbx": low_memory.INFO_GPA})


def _load_modules(
    image: ImageFile, space: Space, modules: Sequence[Module], command_line: bytes, gpa: int
) -> tuple[int, int, int]:
    """Module list, strings, modules from ``gpa`` on: (list, command line, loader name)."""
    names = b"".join(module.command_line + b"\0" for module in modules)
    strings = gpa + 16 * len(modules)
    command_gpa = strings + len(names)
    block_bytes = 16 * len(modules) + len(names) + len(command_line) + len(LOADER_NAME)
    place = low_memory.page_up(gpa + block_bytes)
    entries = b""
    name_gpa = strings
    low_memory.check_place(image, space, gpa, block_bytes, ())
    for module in modules:
        size = module.image.size_bytes
        if size:
            low_memory.check_place(module.image, space, place, size, ())
        module.image.load(space.memory, place, 0, size)
        entries += struct.pack("<4I", place, place + size, name_gpa, 0)
        name_gpa += len(module.command_line) + 1
        place = low_memory.page_up(place + size)
    ram_views(image, space.memory, gpa, block_bytes)  # the error for a kernel that ends at the end of RAM
    space.memory.write(gpa, entries + names + command_line + LOADER_NAME)
    return gpa, command_gpa, command_gpa + len(command_line)

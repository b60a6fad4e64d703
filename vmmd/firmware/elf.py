# SPDX-License-Identifier: Apache-2.0
"""ELF executables as kernels: program headers, and the note that names the PVH entry point.

System V ABI "ELF", chapter 5; Xen "x86/HVM direct boot ABI" for XEN_ELFNOTE_PHYS32_ENTRY (note type 18, name "Xen").
Only what loading needs is read; every number is bounded before use.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmmd.firmware.image import ImageFile

MAGIC = b"\x7fELF"
CLASS_32, CLASS_64 = 1, 2
MACHINE_386, MACHINE_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
NOTE_PHYS32_ENTRY = 18

SEGMENTS_MAX = 512
NOTES_BYTES_MAX = 1 << 16  # of all note segments together
ADDRESS_MAX = 1 << 52

_HEADER_32 = struct.Struct("<16sHHIIIIIHHHHHH")
_HEADER_64 = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_32 = struct.Struct("<IIIIIIII")  # type offset vaddr paddr filesz memsz flags align
_PROGRAM_64 = struct.Struct("<IIQQQQQQ")  # type flags offset vaddr paddr filesz memsz align
_NOTE = struct.Struct("<III")


class Segment(NamedTuple):
    """A run of the file that goes to ``gpa``; memory beyond ``file_bytes`` is zero."""

    gpa: int
    offset: int
    file_bytes: int
    memory_bytes: int

    @property
    def end(self) -> int:
        return self.gpa + self.memory_bytes


class ElfImage(NamedTuple):
    """What is needed of an ELF file. ``pvh_entry`` is None without the note."""

    is_64_bit: bool
    machine: int
    entry: int  # physical, if the entry lies in a loaded segment
    segments: tuple[Segment, ...]
    pvh_entry: int | None


class _Program(NamedTuple):
    kind: int
    offset: int
    vaddr: int
    paddr: int
    file_bytes: int
    memory_bytes: int
    align: int


def parse(image: ImageFile) -> ElfImage:
    """Read headers and notes. Raises VmmdError when they are damaged."""
    ident = image.read(0, 16)
    if len(ident) < 16 or ident[:4] != MAGIC or ident[4] not in (CLASS_32, CLASS_64) or ident[5] != 1:
        raise image.error("it is no little-endian ELF file")
    is_64_bit = ident[4] == CLASS_64
    header = image.unpack(_HEADER_64 if is_64_bit else _HEADER_32, 0, "the ELF header")
    machine, entry, table, entry_bytes, count = header[2], header[4], header[5], header[9], header[10]
    if machine not in (MACHINE_386, MACHINE_X86_64):
        raise image.error(f"it is made for another processor (ELF machine {machine})")
    programs = _programs(image, is_64_bit, table, entry_bytes, count)
    loads = [each for each in programs if each.kind == PT_LOAD and each.memory_bytes]
    if not loads:
        raise image.error("it has no loadable segment")
    segments = tuple(Segment(each.paddr, each.offset, each.file_bytes, each.memory_bytes) for each in loads)
    return ElfImage(is_64_bit, machine, _physical(entry, loads), segments, _pvh_entry(image, programs))


def _programs(image: ImageFile, is_64_bit: bool, table: int, entry_bytes: int, count: int) -> list[_Program]:
    layout = _PROGRAM_64 if is_64_bit else _PROGRAM_32
    if entry_bytes < layout.size or not 0 < count <= SEGMENTS_MAX:
        raise image.error(f"its program header table is damaged ({count} entries of {entry_bytes} bytes)")
    programs = []
    for index in range(count):
        raw = image.unpack(layout, table + index * entry_bytes, "the program headers")
        kind = raw[0]
        body = raw[2:8] if is_64_bit else raw[1:6] + raw[7:8]
        program = _Program(kind, *body)
        if kind == PT_LOAD:
            _check(image, program, index)
        programs.append(program)
    return programs


def _check(image: ImageFile, program: _Program, index: int) -> None:
    if program.file_bytes > program.memory_bytes:
        raise image.error(f"segment {index} has more bytes in the file than in memory")
    if program.paddr + program.memory_bytes > ADDRESS_MAX:
        raise image.error(f"segment {index} lies at {program.paddr:#x}, outside physical memory")
    if program.offset + program.file_bytes > image.size_bytes:
        raise image.error(f"segment {index} reaches behind the end of the file")


def _physical(entry: int, loads: list[_Program]) -> int:
    """The entry point as a physical address; kernels linked high give a virtual one."""
    for each in loads:
        if each.vaddr <= entry < each.vaddr + each.memory_bytes:
            return entry - each.vaddr + each.paddr
    return entry


def _pvh_entry(image: ImageFile, programs: list[_Program]) -> int | None:
    left = NOTES_BYTES_MAX
    for each in programs:
        if each.kind == PT_NOTE and left:
            notes = image.read(each.offset, min(each.file_bytes, left))
            left -= len(notes)
            entry = _find_entry_note(notes, 8 if each.align == 8 else 4)
            if entry is not None:
                return entry
    return None


def _find_entry_note(notes: bytes, align: int) -> int | None:
    offset = 0
    while offset + _NOTE.size <= len(notes):
        name_bytes, desc_bytes, kind = _NOTE.unpack_from(notes, offset)
        name_at = offset + _NOTE.size
        desc_at = name_at + (name_bytes + align - 1 & -align)
        end = desc_at + desc_bytes
        if end > len(notes):
            return None
        if kind == NOTE_PHYS32_ENTRY and notes[name_at : name_at + name_bytes] == b"Xen\0" and desc_bytes in (4, 8):
            return int.from_bytes(notes[desc_at : desc_at + 4], "little")
        offset = desc_at + (desc_bytes + align - 1 & -align)
    return None

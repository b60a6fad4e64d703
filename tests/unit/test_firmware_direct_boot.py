# SPDX-License-Identifier: Apache-2.0
"""-kernel without firmware: images made here, good and hostile, into fake RAM. (QEMU): measured on QEMU 7.2."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.fakes import make_context
from vmmd.errors import VmmdError
from vmmd.firmware import elf as elf_module
from vmmd.firmware import mtrr, smbios
from vmmd.firmware.acpi_tables import AcpiConfig
from vmmd.firmware.acpi_tables import build as build_acpi
from vmmd.firmware.direct_boot import DirectBoot, Platform, prepare
from vmmd.firmware.mptable import MpConfig

if TYPE_CHECKING:
    from pathlib import Path

    from vmmd.core.bootstate import BootState
    from vmmd.core.memory import GuestMemory

RAM = 64 << 20
TABLES = RAM - 0x2_0000
MIB = 1 << 20
CODE = b"\xeb\xfe" + b"code" * 100
INFO = 0x9500


def elf(
    segments: list[tuple[int, bytes, int]],
    *,
    entry: int = MIB,
    bits: int = 32,
    note: bytes | None = None,
    head: bytes = b"",
) -> bytes:
    """An ELF file: segments are (physical address, content, bytes in memory); ``head`` is put behind the headers."""
    count = len(segments) + (1 if note is not None else 0)
    header_bytes, program_bytes = (52, 32) if bits == 32 else (64, 56)
    offset = header_bytes + count * program_bytes + len(head)
    programs, body = b"", b""

    def program(kind: int, at: int, gpa: int, file_bytes: int, memory_bytes: int, align: int) -> bytes:
        if bits == 32:
            return struct.pack("<8I", kind, at, gpa, gpa, file_bytes, memory_bytes, 7, align)
        return struct.pack("<IIQQQQQQ", kind, 7, at, gpa + 0x1000_0000, gpa, file_bytes, memory_bytes, align)

    for gpa, content, memory_bytes in segments:
        programs += program(1, offset + len(body), gpa, len(content), memory_bytes, 4096)
        body += content
    if note is not None:
        programs += program(4, offset + len(body), 0, len(note), len(note), 4)
        body += note
    ident = b"\x7fELF" + bytes((1 if bits == 32 else 2, 1, 1)) + bytes(9)
    layout = "<16sHHIIIIIHHHHHH" if bits == 32 else "<16sHHIQQQIHHHHHH"
    machine = 3 if bits == 32 else 62
    header = struct.pack(
        layout, ident, 2, machine, 1, entry, header_bytes, 0, 0, header_bytes, program_bytes, count, 0, 0, 0
    )
    return header + programs + head + body


def patched(image: bytes, offset: int, layout: str, *values: int) -> bytes:
    changed = bytearray(image)
    struct.pack_into(layout, changed, offset, *values)
    return bytes(changed)


def xen_note(entry: int, size: int = 4) -> bytes:
    return struct.pack("<III4s", 4, size, 18, b"Xen\0") + entry.to_bytes(size, "little")


def multiboot_header(flags: int, *addresses: int) -> bytes:
    return struct.pack(f"<III{len(addresses)}I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFF_FFFF, *addresses)


def bzimage(*, version: int = 0x20F, payload: bytes = CODE, command_line: int = 2047, flags: int = 1) -> bytes:
    image = bytearray(0x1000)
    image[0x1F1] = 7  # setup sectors
    image[0x1FE:0x202] = b"\x55\xaa\xeb\x66"
    image[0x202:0x208] = b"HdrS" + version.to_bytes(2, "little")
    image[0x211] = flags
    struct.pack_into("<I", image, 0x214, MIB)
    struct.pack_into("<I", image, 0x22C, 0x7FFF_FFFF)
    struct.pack_into("<I", image, 0x238, command_line)
    struct.pack_into("<QI", image, 0x258, 16 * MIB, 4 * MIB)
    return bytes(image) + payload


def run(
    tmp_path: Path, image: bytes, append: str = "", initrd: str | None = None, ram: int = RAM
) -> tuple[BootState, GuestMemory, DirectBoot]:
    path = tmp_path / "kernel"
    path.write_bytes(image)
    return run_file(str(path), append, initrd, ram)


def run_file(path: str, append: str, initrd: str | None, ram: int = RAM) -> tuple[BootState, GuestMemory, DirectBoot]:
    memory = make_context(ram).memory
    boot = DirectBoot(path, append, initrd)
    tables = smbios.build(smbios.SmbiosConfig("pc-i440fx-7.2", [(0, ram)]))
    acpi = build_acpi(AcpiConfig((ram, 0xFEBF_FFFF)))
    platform = Platform(memory, ram, 0, tables, MpConfig(), acpi, serial_bases=(0x3F8,))
    try:
        return prepare(boot, platform), memory, boot
    finally:
        boot.close()


def u32(memory: GuestMemory, gpa: int) -> int:
    return int.from_bytes(memory.read(gpa, 4), "little")


def text(memory: GuestMemory, gpa: int) -> bytes:
    return memory.read(gpa, 256).split(b"\0")[0]


# --- what every kind gets -----------------------------------------------------------------------------------------


def test_state_is_flat_protected_mode_with_gdt(tmp_path: Path) -> None:
    state, memory, _ = run(tmp_path, elf([(MIB, CODE, 4096)], note=xen_note(MIB)))
    assert (state.cr0, state.cr4, state.efer, state.regs["rflags"]) == (0x11, 0, 0, 2)
    assert state.segments["cs"].access == 0xC09B
    base, limit = state.gdt
    for name in ("cs", "ds"):
        selector = state.segments[name].selector
        assert selector + 7 <= limit
        descriptor = int.from_bytes(memory.read(base + selector, 8), "little")
        assert descriptor >> 40 & 0xF0FF == state.segments[name].access  # the hidden part is what a reload gives
        assert (descriptor & 0xFFFF, descriptor >> 48 & 0xF) == (0xFFFF, 0xF)


def test_tables_can_be_found_by_scanning(tmp_path: Path) -> None:
    _, memory, _ = run(tmp_path, elf([(MIB, CODE, 4096)], note=xen_note(MIB)))
    found = {
        signature: [gpa for gpa in range(0xF_0000, 0x10_0000, 16) if memory.read(gpa, len(signature)) == signature]
        for signature in (b"RSD PTR ", b"_MP_", b"_SM_")
    }
    assert all(len(each) == 1 for each in found.values())
    rsdt = u32(memory, found[b"RSD PTR "][0] + 16)
    assert memory.read(rsdt, 4) == b"RSDT"
    assert TABLES <= rsdt < RAM
    structures = u32(memory, found[b"_SM_"][0] + 24)
    assert memory.read(structures, 2) == b"\x01\x1b"


def test_bios_data_area_names_ebda_and_serial_ports(tmp_path: Path) -> None:
    _, memory, _ = run(tmp_path, elf([(MIB, CODE, 4096)], note=xen_note(MIB)))
    assert struct.unpack("<4H", memory.read(0x400, 8)) == (0x3F8, 0, 0, 0)
    assert struct.unpack("<HHBH", memory.read(0x40E, 7)) == (0x9FC0, 0x0206, 0, 639)


def test_memory_types_equal_seabios(tmp_path: Path) -> None:
    """Read back on KVM after SeaBIOS 1.16.2 had run with 128 MiB and a 40-bit CPU."""
    state, _, _ = run(tmp_path, elf([(MIB, CODE, 4096)], note=xen_note(MIB)))
    msrs = dict(state.msrs)
    assert (msrs[0x2FF], msrs[0x200], msrs[0x201]) == (0xC06, 0x8000_0000, 0xFF_8000_0800)
    assert [msrs[index] for index in (0x250, 0x258)] == [0x0606_0606_0606_0606] * 2
    assert [msrs[index] for index in (0x268, 0x26F)] == [0x0505_0505_0505_0505] * 2
    assert msrs[0x259] == 0


@pytest.mark.parametrize(
    ("low", "start"), [(2 << 30, 0x8000_0000), ((2 << 30) + 1, 0xC000_0000), (3 << 30, 0xC000_0000), (0xE000_0000,) * 2]
)
def test_uncached_range_begins_behind_ram(low: int, start: int) -> None:
    msrs = dict(mtrr.values(low, 36))
    assert msrs[0x200] == start
    assert msrs[0x201] == (1 << 36) - ((1 << 32) - start) | 0x800  # selects exactly start to 4 GiB


# --- PVH ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "size"), [(32, 4), (64, 4), (64, 8)])
def test_pvh_start_information(tmp_path: Path, bits: int, size: int) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"ramdisk!" * 1000)
    image = elf([(MIB, CODE, 8192)], bits=bits, note=xen_note(MIB + 4, size))
    state, memory, boot = run(tmp_path, image, "console=ttyS0", str(initrd))
    assert boot.kind == "pvh"
    assert (state.regs["rip"], state.regs["rbx"]) == (MIB + 4, INFO)
    assert memory.read(MIB, 8192) == CODE.ljust(8192, b"\0")
    magic, version, flags, count, modules, command, rsdp, ranges, entries, _ = struct.unpack(
        "<4I4QII", memory.read(INFO, 56)
    )
    assert (magic, version, flags, count) == (0x336EC578, 1, 0, 1)
    gpa, length, _, _ = struct.unpack("<4Q", memory.read(modules, 32))
    assert (gpa % 4096, memory.read(gpa, length)) == (0, b"ramdisk!" * 1000)
    assert gpa + length <= TABLES
    assert text(memory, command) == b"console=ttyS0"
    assert memory.read(rsdp, 8) == b"RSD PTR "
    table = [struct.unpack("<QQII", memory.read(ranges + 24 * index, 24)) for index in range(entries)]
    assert (0x10_0000, TABLES - 0x10_0000, 1, 0) in table
    assert (TABLES, 0x2_0000, 2, 0) in table


def test_pvh_bss_is_cleared_again_after_reset(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(elf([(MIB, CODE, 300_000)], note=xen_note(MIB)))
    memory = make_context(RAM).memory
    boot = DirectBoot(str(path))
    tables = smbios.build(smbios.SmbiosConfig("pc-i440fx-7.2", [(0, RAM)]))
    platform = Platform(memory, RAM, 0, tables, MpConfig())
    first = prepare(boot, platform)
    memory.write(MIB, b"\xff" * 300_000)
    path.unlink()  # the name may be gone by then
    assert prepare(boot, platform) == first
    assert memory.read(MIB, 300_000) == CODE.ljust(300_000, b"\0")
    boot.close()


def test_elf_without_note_is_refused_in_qemus_words(tmp_path: Path) -> None:
    with pytest.raises(VmmdError, match="Error loading uncompressed kernel without PVH ELF Note"):
        run(tmp_path, elf([(MIB, CODE, 4096)]))


def test_initrd_without_room_is_refused(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(RAM)
    with pytest.raises(VmmdError, match=r"-initrd .*initrd: .* do not fit between the kernel"):
        run(tmp_path, elf([(MIB, CODE, 4096)], note=xen_note(MIB)), initrd=str(initrd))


# --- multiboot -----------------------------------------------------------------------------------------------------


def test_multiboot_comes_before_pvh(tmp_path: Path) -> None:
    """(QEMU): the bench guest, which has both, prints «multiboot»."""
    image = elf([(MIB, CODE, 4096)], note=xen_note(MIB), head=multiboot_header(3))
    assert run(tmp_path, image)[2].kind == "multiboot"


def test_multiboot_information_equals_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel at 2 MiB, three modules, 64 MiB: every number as a guest saw it under QEMU."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("m1", b"MOD1DATA"), ("m2", b"MOD2"), ("m3", bytes(5000))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "mb.elf").write_bytes(elf([(0x20_0000, b"\xeb\xfe", 14)], entry=0x20_000C, head=multiboot_header(3)))
    state, memory, _ = run_file("mb.elf", "a b", "m1 x y,m2, m3")
    assert state.regs == {"rip": 0x20_000C, "rflags": 2, "rax": 0x2BADB002, "rbx": 0x9500}
    words = struct.unpack("<30I", memory.read(INFO, 120))
    assert words[:7] == (0x24F, 639, 64384, 0x8000_FFFF, 0x20_103D, 3, 0x20_1000)
    assert words[11:13] == (0xA8, 0x9000)
    assert (words[16], text(memory, words[16])) == (0x20_1048, b"qemu")
    assert text(memory, words[4]) == b"mb.elf a b"
    modules = [struct.unpack("<4I", memory.read(0x20_1000 + 16 * index, 16)) for index in range(3)]
    assert modules == [
        (0x20_2000, 0x20_2008, 0x20_1030, 0),
        (0x20_3000, 0x20_3004, 0x20_1037, 0),
        (0x20_4000, 0x20_5388, 0x20_103A, 0),
    ]  # fmt: skip
    assert [text(memory, module[2]) for module in modules] == [b"m1 x y", b"m2", b"m3"]
    assert memory.read(0x20_2000, 8) == b"MOD1DATA"
    entry = struct.unpack("<IQQI", memory.read(words[12], 24))
    assert entry == (20, 0, 0x9FC00, 1)


def test_multiboot_module_name_may_hold_a_comma(tmp_path: Path) -> None:
    module = tmp_path / "a,b"
    module.write_bytes(b"x")
    image = elf([(MIB, CODE, 4096)], head=multiboot_header(3))
    _, memory, _ = run(tmp_path, image, initrd=f"{tmp_path}/a,,b arg")
    entries = u32(memory, INFO + 24)
    assert text(memory, u32(memory, entries + 8)) == f"{module} arg".encode()


def test_multiboot_flat_image(tmp_path: Path) -> None:
    head = bytes(64)
    header = multiboot_header(0x10003, MIB + 64, MIB, MIB + 64 + 32 + len(CODE), MIB + 8192, MIB + 96)
    state, memory, _ = run(tmp_path, head + header + CODE)
    assert state.regs["rip"] == MIB + 96
    assert memory.read(MIB + 96, len(CODE)) == CODE
    assert u32(memory, INFO + 16) & -4096 == MIB + 8192  # strings behind the bss


def test_multiboot_flat_image_without_load_end_loads_all(tmp_path: Path) -> None:
    _, memory, _ = run(tmp_path, multiboot_header(0x10003, MIB, MIB, 0, 0, MIB + 32) + CODE)
    assert memory.read(MIB + 32, len(CODE)) == CODE


def test_multiboot_64_bit_elf_is_refused_in_qemus_words(tmp_path: Path) -> None:
    with pytest.raises(VmmdError, match=r"Cannot load x86-64 image, give a 32bit one\."):
        run(tmp_path, elf([(MIB, CODE, 4096)], bits=64, head=multiboot_header(3)))


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (multiboot_header(0x8003), "requires flags 0x8000"),
        (multiboot_header(0x10003, MIB, MIB + 4, 0, 0, MIB), "addresses are wrong"),
        (multiboot_header(0x10003, 2 * MIB, MIB, 0, 0, MIB), "addresses are wrong"),
        (multiboot_header(0x10003, MIB, MIB, 2 * MIB, 0, MIB), "does not fit the file"),
        (multiboot_header(0x10003, MIB, MIB, MIB - 4, 0, MIB), "does not fit the file"),
        (multiboot_header(0x10003, MIB, MIB, 0, 0xFFFF_FFFF, MIB), "usable RAM ends at"),
        (multiboot_header(0x10003, 0x9500, 0x9500, 0, 0, MIB), "where the machine has 0x8f00"),
        (multiboot_header(0x10003, 0xF_0000, 0xF_0000, 0, 0, MIB), "where the machine has 0xa0000"),
        (multiboot_header(0x10003, 0xC000_0000, 0xC000_0000, 0, 0, MIB), "do not fit in 64 MiB of RAM"),
        (multiboot_header(0x10003, MIB, MIB), "no room for the addresses"),
    ],
)
def test_damaged_multiboot_image_is_named(tmp_path: Path, header: bytes, sentence: str) -> None:
    with pytest.raises(VmmdError, match=f"-kernel {tmp_path}/kernel: .*{sentence}"):
        run(tmp_path, header)


# --- Linux ---------------------------------------------------------------------------------------------------------


def test_bzimage_zero_page(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"cpio" * 100)
    state, memory, boot = run(tmp_path, bzimage(), "quiet", str(initrd))
    assert boot.kind == "linux"
    page = 0x1_0000
    assert state.regs == {"rip": MIB, "rflags": 2, "rsi": page, "rbp": 0, "rdi": 0, "rbx": 0}
    assert (state.segments["cs"].selector, state.segments["ds"].selector) == (0x10, 0x18)
    assert memory.read(MIB, len(CODE)) == CODE
    assert memory.read(page + 0x202, 4) == b"HdrS"
    assert memory.read(page + 0x210, 1) == b"\xb0"
    assert text(memory, u32(memory, page + 0x228)) == b"quiet"
    gpa, length = u32(memory, page + 0x218), u32(memory, page + 0x21C)
    assert memory.read(gpa, length) == b"cpio" * 100
    assert gpa >= 20 * MIB  # behind what the kernel unpacks to its preferred address
    assert memory.read(u32(memory, page + 0x70), 8) == b"RSD PTR "
    count = memory.read(page + 0x1E8, 1)[0]
    table = [struct.unpack("<QQI", memory.read(page + 0x2D0 + 20 * index, 20)) for index in range(count)]
    assert table[0] == (0, 0x9FC00, 1)
    assert (0x10_0000, TABLES - 0x10_0000, 1) in table


@pytest.mark.parametrize(
    ("image", "append", "sentence"),
    [
        (bzimage(version=0x205), "", r"boot protocol 2\.05 is too old"),
        (bzimage(flags=0), "", "too old"),
        (bzimage(payload=b""), "", "ends before the kernel"),
        (bzimage()[:0x250], "", "ends inside the Linux setup header"),
        (bzimage(command_line=10), "x" * 11, "the command line has 11 bytes, the kernel takes 10"),
    ],
)
def test_damaged_bzimage_is_named(tmp_path: Path, image: bytes, append: str, sentence: str) -> None:
    with pytest.raises(VmmdError, match=sentence):
        run(tmp_path, image, append)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (b"", "unknown kernel format"),
        (b"#!/bin/sh\n" * 1000, "unknown kernel format"),
        (b"\x7fELF", "no little-endian ELF"),
        (elf([(MIB, CODE, 4096)])[:60], "ends inside the program headers"),
        (elf([(MIB, CODE, 4096)], note=xen_note(MIB))[:120], "reaches behind the end"),
        (elf([(MIB, CODE, 4)], note=xen_note(MIB)), "more bytes in the file than in memory"),
        (elf([], note=xen_note(MIB)), "no loadable segment"),
        (elf([(0xFFFF_F000, CODE, 4096)], note=xen_note(MIB)), "do not fit in 64 MiB"),
        (elf([(MIB, CODE, 0xFFF0_0000)], note=xen_note(MIB)), "usable RAM ends at"),
        (elf([(MIB, CODE, 60 * MIB)] * 500, note=xen_note(MIB)), "bytes together, RAM has 64 MiB"),
        (patched(elf([(MIB, CODE, 4096)], bits=64), 32, "<Q", 1 << 63), "ends inside the program headers"),
        (patched(elf([(MIB, CODE, 4096)], bits=64, note=xen_note(MIB)), 128, "<Q", 1 << 63), "without PVH"),
    ],
)
def test_damaged_elf_is_named(tmp_path: Path, image: bytes, sentence: str) -> None:
    with pytest.raises(VmmdError, match=sentence):
        run(tmp_path, image)


def test_missing_kernel_is_named() -> None:
    with pytest.raises(VmmdError, match=r"-kernel: could not open '/nonexistent': No such file or directory"):
        DirectBoot("/nonexistent")


def test_directory_as_initrd_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bzimage())
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VmmdError, match=r"-initrd: could not open .* Is a directory"):
        DirectBoot(str(kernel), "", str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_large_notes_are_not_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = elf([(MIB, CODE, 4096)], note=struct.pack("<III", 0, 0, 0) * 100_000)
    table = 52 + 32 * 300
    program = image[52 + 32 : 52 + 64]
    many = patched(image[:52] + image[52:84] + program * 299 + bytes(8192) + image[84 + 32 :], 44, "<H", 300)
    for index in range(1, 300):
        many = patched(many, 52 + 32 * index + 4, "<I", table)
    counted: list[int] = []
    walk = elf_module._find_entry_note
    monkeypatch.setattr(
        elf_module, "_find_entry_note", lambda notes, align: counted.append(len(notes)) or walk(notes, align)
    )
    with pytest.raises(VmmdError):
        run(tmp_path, many)
    assert sum(counted) <= elf_module.NOTES_BYTES_MAX


@pytest.mark.parametrize("option", ["-kernel", "-initrd"])
def test_fifo_does_not_hold_up_the_start(tmp_path: Path, option: str) -> None:
    kernel, fifo = tmp_path / "kernel", tmp_path / "fifo"
    kernel.write_bytes(bzimage())
    os.mkfifo(fifo)
    with pytest.raises(VmmdError, match=f"{option} .*fifo: it is no regular file"):
        DirectBoot(str(fifo if option == "-kernel" else kernel), "", str(fifo))


def test_multiboot_entry_above_4_gib_is_refused(tmp_path: Path) -> None:
    image = elf([(MIB, CODE, 4096)], head=multiboot_header(3), entry=0x100)
    image = patched(image, 52 + 8, "<I", 0)  # linked at 0, loaded at the end of 4 GiB
    image = patched(image, 52 + 12, "<I", 0xFFFF_FF80)
    with pytest.raises(VmmdError, match="entry point 0x100000080 is above 4 GiB"):
        DirectBoot(str(_file(tmp_path, image)))


def _file(tmp_path: Path, image: bytes) -> Path:
    path = tmp_path / "kernel"
    path.write_bytes(image)
    return path


def test_tiny_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VmmdError, match="at least 2 MiB"):
        run(tmp_path, elf([(MIB, CODE, 4096)], note=xen_note(MIB)), ram=MIB)


GOOD = [
    elf([(MIB, CODE, 4096)], note=xen_note(MIB)),
    elf([(MIB, CODE, 4096)], bits=64, note=xen_note(MIB)),
    elf([(MIB, CODE, 4096)], head=multiboot_header(3)),
    multiboot_header(0x10003, MIB, MIB, 0, 0, MIB + 32) + CODE,
    bzimage(),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, len(GOOD) - 1),
    patches=st.lists(st.tuples(st.integers(0, 0x270), st.binary(min_size=1, max_size=8)), max_size=4),
    cut=st.one_of(st.just(0), st.integers(0, 0x1200)),
)
def test_random_damage_ends_in_a_clear_error_or_a_boot(
    tmp_path: Path, which: int, patches: list[tuple[int, bytes]], cut: int
) -> None:
    image = bytearray(GOOD[which])
    for offset, data in patches:
        image[offset : offset + len(data)] = data
    del image[len(image) - min(cut, len(image)) :]
    try:
        state = run(tmp_path, bytes(image), ram=4 * MIB)[0]
    except VmmdError as error:
        sentence = str(error)
    else:
        sentence = "kernel" if state.cr0 == 0x11 else ""
    assert "kernel" in sentence

# SPDX-License-Identifier: Apache-2.0
"""ACPI tables of pc-i440fx (ACPI 6.4 §5.2) and the script that tells firmware how to place them.

``build`` makes one blob of tables whose pointers are offsets, and the list of what must be patched. SeaBIOS and U-Boot
get blob and list through fw_cfg (``etc/acpi/tables``, ``etc/acpi/rsdp``, ``etc/table-loader``; QEMU's linker/loader
interface); ``place`` does the same work for a guest that no firmware serves. Identifiers are those of QEMU's tables,
because guests' activation and quirks know them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from vmmd.core.memory import GuestMemory

OEM_ID = b"BOCHS "
OEM_TABLE_ID = b"BXPC    "
CREATOR_ID = b"BXPC"

TABLES_FILE = "etc/acpi/tables"
RSDP_FILE = "etc/acpi/rsdp"
TABLES_ALIGN = 64  # FACS comes first and wants it (§5.2.10)
RSDP_ALIGN = 16

SMI_COMMAND_PORT = 0xB2
ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0
RESET_PORT, RESET_VALUE = 0xCF9, 0x0F
IO_APIC_BASE = 0xFEC0_0000
LOCAL_APIC_BASE = 0xFEE0_0000
LEVEL_ISA_IRQS = (5, 9, 10, 11)  # PIRQ links and the SCI: active high, level
XAPIC_MAX_ID = 254

_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_CHECKSUM_OFFSET = 9


class NumaNode(NamedTuple):
    """RAM ranges (base, bytes) and APIC ids of one proximity domain."""

    ranges: Sequence[tuple[int, int]]
    apic_ids: Sequence[int]


class FloppyDrive(NamedTuple):
    """A diskette drive: its number for INT 13h in CMOS RAM, and the largest diskettes that it takes."""

    cmos_type: int
    tracks: int
    sectors: int
    heads: int


class FloppyController(NamedTuple):
    """The floppy disk controller, and who sits at units 0 and 1."""

    io_base: int
    irq: int
    dma: int
    drives: tuple[FloppyDrive | None, FloppyDrive | None]


class AcpiConfig(NamedTuple):
    """What the tables describe. Windows are (first, last) address; ports as the firmware has programmed them."""

    pci_window: tuple[int, int]  # 32-bit: end of low RAM … 0xfebfffff
    pci_window_64: tuple[int, int] | None = None
    apic_ids: Sequence[int] = (0,)  # of all possible CPUs
    cpus_present: int = 1  # the first so many of them are there at start
    serial_ports: Sequence[tuple[int, int]] = ()  # (I/O base, IRQ)
    floppy: FloppyController | None = None
    rtc: bool = True
    keyboard: bool = True
    mouse: bool = True
    hpet: bool = False
    fw_cfg: bool = True
    vga: bool = True
    pvpanic_port: int = 0  # 0: none
    generation_id: uuid.UUID | None = None  # of a vmgenid device
    sci: int = 9
    pm_base: int = 0x600
    smbus_base: int = 0x700
    gpe0_base: int = 0xAFE0
    gpe0_bytes: int = 4
    disable_s3: bool = False
    disable_s4: bool = False
    s4_value: int = 2
    numa: Sequence[NumaNode] = ()
    numa_distances: Sequence[Sequence[int]] = ()  # square; empty: no SLIT
    pci_hotplug_slots: Sequence[int] = ()  # whose devices may come and go while the guest runs
    root_terms: Sequence[bytes] = ()  # AML of other parts: hotplug controllers
    gpe_handlers: Mapping[int, bytes] = {}  # body of \_GPE._Exx by GPE bit


class Pointer(NamedTuple):
    """A field that holds an offset into ``target`` and must become an address."""

    file: str
    offset: int
    size_bytes: int
    target: str = TABLES_FILE


class AddressReport(NamedTuple):
    """Firmware writes the address of ``offset`` in ``target`` to ``file``."""

    file: str
    target: str
    offset: int
    size_bytes: int


class Checksum(NamedTuple):
    """A byte that makes the sum over a range of a file zero."""

    file: str
    offset: int
    start: int
    length: int


Fixup = Pointer | Checksum | AddressReport


class AcpiBlobs(NamedTuple):
    """RSDP, tables, and the loader script; ``fixups`` is the script's content in order. ``generation_id`` is the page
    of a vmgenid device, or empty."""

    rsdp: bytes
    tables: bytes
    loader_script: bytes
    fixups: tuple[Fixup, ...]
    generation_id: bytes = b""


class _Tables:
    """Collects tables and what must be patched in them."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.fixups: list[Fixup] = []

    def add_raw(self, content: bytes) -> int:
        offset = len(self.data)
        self.data += content
        return offset

    def add(
        self,
        signature: bytes,
        revision: int,
        body: bytes,
        pointers: Sequence[tuple[int, int] | tuple[int, int, str]] = (),
        oem_table_id: bytes = OEM_TABLE_ID,
    ) -> int:
        """Append a table; ``pointers`` are (offset in the table, size) and, when it is another, the file that they
        point into. Returns its offset."""
        offset = len(self.data)
        length = _HEADER.size + len(body)
        self.data += _HEADER.pack(signature, length, revision, 0, OEM_ID, oem_table_id, 1, CREATOR_ID, 1) + body
        self.fixups += [Pointer(TABLES_FILE, offset + where, *what) for where, *what in pointers]
        self.fixups.append(Checksum(TABLES_FILE, offset + _CHECKSUM_OFFSET, offset, length))
        return offset


def build(config: AcpiConfig) -> AcpiBlobs:
    """All tables for ``config``."""
    from vmmd.firmware import dsdt, vmgenid

    tables = _Tables()
    facs = tables.add_raw(struct.pack("<4sI", b"FACS", 64) + bytes(56))
    dsdt_offset = tables.add(b"DSDT", 1, dsdt.build(config))
    listed = [tables.add(b"FACP", 3, _fadt(config, facs, dsdt_offset), ((36, 4), (40, 4), (140, 8)))]
    listed.append(tables.add(b"APIC", 1, _madt(config)))
    if config.hpet:
        listed.append(tables.add(b"HPET", 1, struct.pack("<IBBBBQBHB", 0x8086_A201, 0, 0, 0, 0, 0xFED0_0000, 0, 0, 0)))
    if config.numa:
        listed.append(tables.add(b"SRAT", 1, _srat(config)))
        if config.numa_distances:
            listed.append(tables.add(b"SLIT", 1, _slit(config.numa_distances)))
    generation_id = b""
    if config.generation_id is not None:
        generation_id = vmgenid.page(config.generation_id)
        listed.append(_generation_id_table(tables))
    pm_timer_is_reliable = 2
    listed.append(tables.add(b"WAET", 1, struct.pack("<I", pm_timer_is_reliable)))
    pointers = [(_HEADER.size + 4 * index, 4) for index in range(len(listed))]
    rsdt = tables.add(b"RSDT", 1, struct.pack(f"<{len(listed)}I", *listed), pointers)
    rsdp = struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM_ID, 0, rsdt)
    fixups = (*tables.fixups, Pointer(RSDP_FILE, 16, 4), Checksum(RSDP_FILE, 8, 0, 20))
    return AcpiBlobs(rsdp, bytes(tables.data), _script(fixups, bool(generation_id)), fixups, generation_id)


def _generation_id_table(tables: _Tables) -> int:
    """The SSDT of a vmgenid device. Firmware reports where it has put the number."""
    from vmmd.firmware import vmgenid

    body, place = vmgenid.ssdt()
    number = AddressReport(vmgenid.ADDRESS_FILE, vmgenid.GUID_FILE, vmgenid.GUID_OFFSET, vmgenid.ADDRESS_BYTES)
    tables.fixups.append(number)
    return tables.add(b"SSDT", 1, body, ((_HEADER.size + place, 4, vmgenid.GUID_FILE),), vmgenid.OEM_TABLE_ID)


def _gas_io(port: int, bits: int) -> bytes:
    """Generic address structure of a port (§5.2.3.2); access size left to the guest, as revision 3 has it."""
    return struct.pack("<BBBBQ", 1, bits, 0, 0, port)


def _fadt(config: AcpiConfig, facs: int, dsdt_offset: int) -> bytes:
    """FADT revision 3 (§5.2.9): revision 1 knows no reset register."""
    pm, gpe0_bits = config.pm_base, config.gpe0_bytes * 8
    c2_latency = c3_latency = 0x0FFF  # above the limits: the states do not exist
    century = 0x32
    devices = 0x01 | (0x02 if config.keyboard else 0) | (0 if config.vga else 0x04) | (0 if config.rtc else 0x20)
    wbinvd, c1, no_sleep_button, s4_rtc, reset, platform_clock = 1 << 0, 1 << 2, 1 << 5, 1 << 7, 1 << 10, 1 << 15
    flags = wbinvd | c1 | no_sleep_button | s4_rtc | reset | platform_clock
    body = struct.pack("<IIBBHI", facs, dsdt_offset, 1, 0, config.sci, SMI_COMMAND_PORT)
    body += struct.pack("<BBBB", ACPI_ENABLE, ACPI_DISABLE, 0, 0)
    body += struct.pack("<8I", pm, 0, pm + 4, 0, 0, pm + 8, config.gpe0_base, 0)
    body += struct.pack("<BBBBBBBB", 4, 2, 0, 4, config.gpe0_bytes, 0, 0, 0)
    body += struct.pack("<HHHHBBBBBHBI", c2_latency, c3_latency, 0, 0, 0, 0, 0, 0, century, devices, 0, flags)
    body += _gas_io(RESET_PORT, 8) + bytes((RESET_VALUE, 0, 0, 0))
    body += struct.pack("<QQ", 0, dsdt_offset)  # X_FIRMWARE_CTRL stays 0: the 32-bit field counts (§5.2.9)
    absent = bytes(12)
    body += _gas_io(pm, 32) + absent + _gas_io(pm + 4, 16) + absent + absent
    return body + _gas_io(pm + 8, 32) + _gas_io(config.gpe0_base, gpe0_bits) + absent


def _madt(config: AcpiConfig) -> bytes:
    """Interrupt controllers (§5.2.12). CPUs that may be plugged later are listed as not enabled."""
    pc_at_compatible = 1
    body = struct.pack("<II", LOCAL_APIC_BASE, pc_at_compatible)
    has_x2apic = False
    for index, apic_id in enumerate(config.apic_ids):
        enabled = 1 if index < config.cpus_present else 0
        if apic_id <= XAPIC_MAX_ID:
            body += struct.pack("<BBBBI", 0, 8, index, apic_id, enabled)
        else:
            has_x2apic = True
            body += struct.pack("<BBHIII", 9, 16, 0, apic_id, enabled, index)
    body += struct.pack("<BBBBII", 1, 12, 0, 0, IO_APIC_BASE, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0)  # the timer's ISA interrupt 0 is wired to input 2
    active_high_level = 0x0D
    for source in LEVEL_ISA_IRQS:
        body += struct.pack("<BBBBIH", 2, 10, 0, source, source, active_high_level)
    if has_x2apic:
        body += struct.pack("<BBHIBBBB", 0x0A, 12, 0, 0xFFFF_FFFF, 1, 0, 0, 0)
    return body + struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)  # every CPU's LINT1 is the NMI


def _srat(config: AcpiConfig) -> bytes:
    """Which CPU and which RAM belong together (§5.2.16)."""
    body = struct.pack("<IQ", 1, 0)
    for domain, node in enumerate(config.numa):
        for apic_id in node.apic_ids:
            if apic_id <= XAPIC_MAX_ID:
                high = domain >> 8
                body += struct.pack("<BBBBIB3sI", 0, 16, domain & 0xFF, apic_id, 1, 0, high.to_bytes(3, "little"), 0)
            else:
                body += struct.pack("<BBHIIIII", 2, 24, 0, domain, apic_id, 1, 0, 0)
        for base, size_bytes in node.ranges:
            body += struct.pack("<BBIHQQIIQ", 1, 40, domain, 0, base, size_bytes, 0, 1, 0)
    return body


def _slit(distances: Sequence[Sequence[int]]) -> bytes:
    return struct.pack("<Q", len(distances)) + b"".join(bytes(row) for row in distances)


# --- the linker/loader script ---------------------------------------------------------------------------------

_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM, _WRITE_POINTER = 1, 2, 3, 4
_ZONE_HIGH, _ZONE_FSEG = 1, 2
_COMMAND_BYTES = 128


def _file(text: str) -> bytes:
    return text.encode("ascii").ljust(56, b"\0")


def _script(fixups: Sequence[Fixup], has_generation_id: bool) -> bytes:
    """128-byte commands: where each file goes, then what depends on it, in order."""
    from vmmd.firmware import vmgenid

    commands = [struct.pack("<I56sIB", _ALLOCATE, _file(RSDP_FILE), RSDP_ALIGN, _ZONE_FSEG)]
    if has_generation_id:
        commands.append(struct.pack("<I56sIB", _ALLOCATE, _file(vmgenid.GUID_FILE), vmgenid.PAGE_BYTES, _ZONE_HIGH))
    commands.append(struct.pack("<I56sIB", _ALLOCATE, _file(TABLES_FILE), TABLES_ALIGN, _ZONE_HIGH))
    for fixup in fixups:
        if isinstance(fixup, Pointer):
            names = _file(fixup.file) + _file(fixup.target)
            commands.append(struct.pack("<I112sIB", _ADD_POINTER, names, fixup.offset, fixup.size_bytes))
        elif isinstance(fixup, AddressReport):
            names = _file(fixup.file) + _file(fixup.target)
            commands.append(struct.pack("<I112sIIB", _WRITE_POINTER, names, 0, fixup.offset, fixup.size_bytes))
        else:
            commands.append(struct.pack("<I56sIII", _ADD_CHECKSUM, _file(fixup.file), *fixup[1:]))
    return b"".join(command.ljust(_COMMAND_BYTES, b"\0") for command in commands)


def resolve(blobs: AcpiBlobs, tables_gpa: int) -> tuple[bytes, bytes]:
    """(RSDP, tables) with addresses and checksums for tables at ``tables_gpa``."""
    files = {RSDP_FILE: bytearray(blobs.rsdp), TABLES_FILE: bytearray(blobs.tables)}
    for fixup in blobs.fixups:
        if isinstance(fixup, Pointer):
            data = files[fixup.file]
            target_gpa = tables_gpa if fixup.target == TABLES_FILE else _generation_id_gpa(blobs, tables_gpa)
            end = fixup.offset + fixup.size_bytes
            value = int.from_bytes(data[fixup.offset : end], "little") + target_gpa
            data[fixup.offset : end] = value.to_bytes(fixup.size_bytes, "little")
        elif isinstance(fixup, Checksum):
            data = files[fixup.file]
            data[fixup.offset] = -sum(data[fixup.start : fixup.start + fixup.length]) & 0xFF
    return bytes(files[RSDP_FILE]), bytes(files[TABLES_FILE])


def _generation_id_gpa(blobs: AcpiBlobs, tables_gpa: int) -> int:
    """Without firmware the page of a vmgenid device follows the tables."""
    page_bytes = len(blobs.generation_id)
    return -(-(tables_gpa + len(blobs.tables)) // page_bytes) * page_bytes


def place(blobs: AcpiBlobs, memory: GuestMemory, *, tables_gpa: int, rsdp_gpa: int) -> int:
    """Write everything into RAM as firmware would. Returns where the tables end. Raises GuestAddressError when the
    addresses are not RAM."""
    rsdp, tables = resolve(blobs, tables_gpa)
    memory.write(tables_gpa, tables)
    memory.write(rsdp_gpa, rsdp)
    end = tables_gpa + len(tables)
    if blobs.generation_id:
        gpa = _generation_id_gpa(blobs, tables_gpa)
        memory.write(gpa, blobs.generation_id)
        end = gpa + len(blobs.generation_id)
    return end

# SPDX-License-Identifier: Apache-2.0
"""ACPI tables: structure, fix-ups, and what iasl makes of them."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.unit.fakes import make_context
from vmmd.core.memory import GuestAddressError
from vmmd.firmware import acpi_tables, aml, dsdt
from vmmd.firmware.acpi_tables import AcpiConfig, NumaNode, build, place, resolve

if TYPE_CHECKING:
    from pathlib import Path

BASE = 0x7FE_0000
PLAIN = AcpiConfig((0x800_0000, 0xFEBF_FFFF))
FULL = AcpiConfig(
    (0xC000_0000, 0xFEBF_FFFF),
    (1 << 33, (1 << 34) - 1),
    apic_ids=[0, 1, 2, 300],
    cpus_present=2,
    serial_ports=[(0x3F8, 4), (0x2F8, 3)],
    hpet=True,
    pvpanic_port=0x505,
    generation_id=uuid.UUID("324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"),
    numa=[NumaNode([(0, 1 << 30)], [0, 1]), NumaNode([(1 << 32, 1 << 30)], [2, 300])],
    numa_distances=[[10, 20], [20, 10]],
    pci_hotplug_slots=range(2, 32),
    gpe_handlers={2: aml.notify("\\_SB.PCI0", 0)},
    root_terms=[aml.scope("\\_SB", aml.device("XTRA", aml.name("_HID", aml.eisa_id("PNP0C02"))))],
)


def split(tables: bytes) -> dict[str, bytes]:
    """Tables behind the FACS by signature."""
    found, offset = {}, 64
    while offset < len(tables):
        (length,) = struct.unpack_from("<I", tables, offset + 4)
        found[tables[offset : offset + 4].decode()] = tables[offset : offset + length]
        offset += length
    return found


def placed(config: AcpiConfig) -> dict[str, bytes]:
    return split(resolve(build(config), BASE)[1])


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
def test_every_checksum_is_zero_after_fixups(config: AcpiConfig) -> None:
    rsdp, tables = resolve(build(config), BASE)
    assert sum(rsdp) & 0xFF == 0
    assert {name: sum(table) & 0xFF for name, table in split(tables).items()} == dict.fromkeys(split(tables), 0)


def test_tables_of_each_configuration() -> None:
    assert list(placed(PLAIN)) == ["DSDT", "FACP", "APIC", "WAET", "RSDT"]
    assert list(placed(FULL)) == ["DSDT", "FACP", "APIC", "HPET", "SRAT", "SLIT", "SSDT", "WAET", "RSDT"]


def test_pointers_lead_from_rsdp_to_every_table() -> None:
    rsdp, tables = resolve(build(FULL), BASE)
    assert rsdp[:8] == b"RSD PTR "
    assert rsdp[15] == 0  # revision 0: no XSDT

    def at(gpa: int) -> bytes:
        return tables[gpa - BASE :]

    rsdt = at(int.from_bytes(rsdp[16:20], "little"))
    (length,) = struct.unpack_from("<I", rsdt, 4)
    pointers = struct.unpack_from(f"<{(length - 36) // 4}I", rsdt, 36)
    assert [at(each)[:4] for each in pointers] == [b"FACP", b"APIC", b"HPET", b"SRAT", b"SLIT", b"SSDT", b"WAET"]
    fadt = at(pointers[0])
    facs, old_dsdt = struct.unpack_from("<II", fadt, 36)
    (new_dsdt,) = struct.unpack_from("<Q", fadt, 140)
    assert (at(facs)[:4], at(old_dsdt)[:4], facs % 64) == (b"FACS", b"DSDT", 0)
    assert new_dsdt == old_dsdt


def test_fadt_describes_piix4() -> None:
    fadt = placed(PLAIN)["FACP"]
    assert len(fadt) == 244
    assert struct.unpack_from("<HIBB", fadt, 46) == (9, 0xB2, 0xF1, 0xF0)
    assert struct.unpack_from("<8I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608, 0xAFE0, 0)
    assert struct.unpack_from("<6B", fadt, 88) == (4, 2, 0, 4, 4, 0)
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags == 0x84A5  # QEMU's 0x80a5 and RESET_REG_SUP
    assert fadt[116:129] == bytes.fromhex("01080000f90c0000000000000f")  # port 0xcf9, value 0x0f


def test_fadt_follows_ports_and_devices() -> None:
    changed = PLAIN._replace(pm_base=0xB000, keyboard=False, vga=False, rtc=False)
    fadt = placed(changed)["FACP"]
    assert struct.unpack_from("<8I", fadt, 56)[:6] == (0xB000, 0, 0xB004, 0, 0, 0xB008)
    assert struct.unpack_from("<H", fadt, 109) == (0x25,)
    assert struct.unpack_from("<H", placed(PLAIN)["FACP"], 109) == (0x03,)


def test_madt_of_one_cpu_equals_qemu() -> None:
    assert placed(PLAIN)["APIC"][36:].hex() == (
        "0000e0fe010000000008000001000000010c00000000c0fe00000000020a00000200000000"
        "00020a0005050000000d00020a0009090000000d00020a000a0a0000000d00020a000b0b0000000d000406ff000001"
    )


def test_madt_lists_absent_cpus_as_disabled_and_x2apic_ids() -> None:
    madt = placed(FULL)["APIC"]
    assert madt[44:68].hex() == "0008000001000000" + "0008010101000000" + "0008020200000000"
    assert madt[68:84].hex() == "09100000" + "2c010000" + "00000000" + "03000000"


def test_srat_and_slit() -> None:
    tables = placed(FULL)
    assert [entry[:2] for entry in _srat_entries(tables["SRAT"])] == [
        b"\x00\x10", b"\x00\x10", b"\x01\x28", b"\x00\x10", b"\x02\x18", b"\x01\x28",
    ]  # fmt: skip
    assert tables["SLIT"][36:] == (2).to_bytes(8, "little") + bytes((10, 20, 20, 10))


def _srat_entries(table: bytes) -> list[bytes]:
    entries, offset = [], 48
    while offset < len(table):
        entries.append(table[offset : offset + table[offset + 1]])
        offset += table[offset + 1]
    return entries


def test_loader_script_places_then_patches() -> None:
    script = build(PLAIN).loader_script
    commands = [script[at : at + 128] for at in range(0, len(script), 128)]
    expected = b"\1\0\0\0" + b"etc/acpi/rsdp".ljust(56, b"\0") + b"\x10\0\0\0\2"
    assert commands[0] == expected.ljust(128, b"\0")
    assert [struct.unpack_from("<I", each)[0] for each in commands[:2]] == [1, 1]
    assert struct.unpack_from("<IB", commands[1], 60) == (64, 1)
    kinds = [struct.unpack_from("<I", each)[0] for each in commands[2:]]
    assert set(kinds) == {2, 3}
    assert kinds[-1] == 3  # the RSDP's checksum comes after its pointer
    assert commands[-2][4:17] == b"etc/acpi/rsdp"
    assert commands[-2][60:75] == b"etc/acpi/tables"
    assert struct.unpack_from("<IB", commands[-2], 116) == (16, 4)
    assert struct.unpack_from("<III", commands[-1], 60) == (8, 0, 20)


def test_checksum_follows_pointers_of_its_table() -> None:
    """Firmware runs the script in order, so a checksum before a pointer of the same range would be wrong."""
    seen: list[range] = []
    for fixup in build(FULL).fixups:
        if isinstance(fixup, acpi_tables.Checksum):
            if fixup.file == acpi_tables.TABLES_FILE:
                seen.append(range(fixup.start, fixup.start + fixup.length))
        else:
            assert not any(fixup.offset in done and fixup.file == acpi_tables.TABLES_FILE for done in seen)


def test_place_writes_into_ram() -> None:
    machine = make_context()
    place(build(PLAIN), machine.memory, tables_gpa=0x8_0000, rsdp_gpa=0xF_0000)
    assert machine.memory.read(0xF_0000, 8) == b"RSD PTR "
    assert machine.memory.read(0x8_0000, 4) == b"FACS"
    with pytest.raises(GuestAddressError):
        place(build(PLAIN), machine.memory, tables_gpa=(1 << 20) - 64, rsdp_gpa=0xF_0000)


def test_routing_table_rotates_links() -> None:
    table = dsdt.routing_table()
    assert table.count(b"LNKS") == 1
    assert [table.count(link.encode()) for link in dsdt.LINKS] == [30, 31, 31, 31]
    # slot 3 pin A: address 0x0003ffff, pin 0, link C, as i440FX boards wire it
    assert aml.package(aml.integer(0x3FFFF), aml.ZERO, b"LNKC", aml.ZERO) in table


def test_sleep_states_can_be_disabled() -> None:
    assert all(state in dsdt.build(PLAIN) for state in (b"_S3_", b"_S4_", b"_S5_"))
    reduced = dsdt.build(PLAIN._replace(disable_s3=True, disable_s4=True))
    assert [state in reduced for state in (b"_S3_", b"_S4_", b"_S5_")] == [False, False, True]


def test_only_existing_serial_ports_are_listed() -> None:
    assert b"COM1" not in dsdt.build(PLAIN)
    assert [name in dsdt.build(FULL) for name in (b"COM1", b"COM2", b"COM3")] == [True, True, False]


@pytest.mark.skipif(shutil.which("iasl") is None, reason="needs iasl (Debian package acpica-tools)")
@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
def test_iasl_reads_and_remakes_every_table(tmp_path: Path, config: AcpiConfig) -> None:
    """Disassembled and compiled again each table is the same, apart from the compiler's signature in the header."""
    for name, table in placed(config).items():
        # iasl takes hexadecimal digits only for the end of a _HID; the specification of vmgenid has others
        table = table.replace(b"QEMUVGID", b"QEMU0F1D")
        (tmp_path / f"{name}.aml").write_bytes(table)
        texts = [
            subprocess.run(["iasl", *options], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
            for options in (["-d", f"{name}.aml"], ["-oa", "-p", "again", f"{name}.dsl"])
        ]
        report = "".join(text.stdout + text.stderr for text in texts)
        assert "0 Errors, 0 Warnings" in report, f"{name}: {report}"
        again = (tmp_path / "again.aml").read_bytes()
        assert _comparable(again) == _comparable(table), name


def _comparable(table: bytes) -> bytes:
    return table[:9] + table[10:28] + table[36:]


def test_generation_id_page_follows_the_tables_and_the_ssdt_points_to_it() -> None:
    machine = make_context(ram_bytes=1 << 20)
    blobs = build(FULL)
    end = place(blobs, machine.memory, tables_gpa=0x4_0000, rsdp_gpa=0x1000)
    page = 0x4_0000 + (len(blobs.tables) + 4095 & ~4095)
    assert end == page + 4096
    assert machine.memory.read(page + 40, 16).hex() == "af6e4e32d1d1f64bbf41b9bb6c91fb87"  # (QEMU)
    ssdt = split(machine.memory.read(0x4_0000, len(blobs.tables)))["SSDT"]
    assert ssdt[16:24] == b"VMGENID\0"
    assert ssdt[36:42] == b"\x08VGIA\x0c"  # a Name of 32 bits comes first: test programs look for it there
    assert int.from_bytes(ssdt[42:46], "little") == page
    assert sum(ssdt) & 0xFF == 0


def test_generation_id_loader_script_is_as_firmware_knows_it() -> None:
    """(QEMU) The page is allocated in pages, its address patched into the SSDT, that of the number written back."""
    script = build(FULL).loader_script
    commands = [script[at : at + 128] for at in range(0, len(script), 128)]
    allocate, point, report = (
        [each for each in commands if each[0] == kind and b"etc/vmgenid_guid" in each] for kind in (1, 2, 4)
    )
    assert [struct.unpack_from("<IB", each, 60) for each in allocate] == [(4096, 1)]
    assert len(point) == 1
    assert [each[4:60].rstrip(b"\0") for each in report] == [b"etc/vmgenid_addr"]
    assert [struct.unpack_from("<IIB", each, 116) for each in report] == [(0, 40, 8)]


@pytest.mark.skipif(shutil.which("acpiexec") is None, reason="acpiexec is not installed (acpica-tools)")
def test_slots_let_go_report_and_name_their_devices(tmp_path: Path) -> None:
    """Executed by ACPICA's interpreter, whose ports are memory."""
    (tmp_path / "dsdt.aml").write_bytes(placed(PLAIN._replace(pci_hotplug_slots=range(2, 32)))["DSDT"])
    uuid_bytes = "(D0 37 C9 E5 53 35 7A 4D 91 17 EA 4D 19 C3 43 4D)"
    other_uuid = "(00 37 C9 E5 53 35 7A 4D 91 17 EA 4D 19 C3 43 4D)"

    def execute(*methods: str) -> str:
        commands = "; ".join(f"execute \\_SB.PCI0.{each}" for each in methods)
        done = subprocess.run(
            ["acpiexec", "-b", commands, "dsdt.aml"],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert "Error" not in done.stdout
        return " ".join(done.stdout.split())

    slot = 4
    assert f"[Integer] = {1 << slot:016X}" in execute("S20._EJ0 1", "PCEJ")
    assert f"[Integer] = {0x82 << 8 | slot:016X}" in execute("S20._OST 3 0x82 0", "PCRM")
    assert "[Integer] = 0000000000000000" in execute("S20._OST 1 0x82 0", "PCRM")  # of another event: not ours
    named = execute(f"S20._DSM {uuid_bytes} 2 7 0")  # the register gives back what was written
    assert f"[Integer] = {1 << slot:016X}" in named
    assert '[String] Length 00 = ""' in named
    assert "[Buffer] Length 01 = 0000: 81" in execute(f"S20._DSM {uuid_bytes} 2 0 0")
    assert "[Buffer] Length 01 = 0000: 00" in execute(f"S20._DSM {other_uuid} 2 0 0")
    for value in (1, 3):
        told = execute(f"DVNT {1 << slot:#x} {value}")
        assert re.findall(r"Notify on \[(\w+)\] \S+ Value 0x(\d+)", told) == [("S20_", f"{value:02}")]
    assert "Notify" not in execute("DVNT 0 1")

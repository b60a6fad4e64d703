# SPDX-License-Identifier: Apache-2.0
"""E820, boot order, firmware files and the set of fw_cfg items, against what QEMU 7.2 publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.fakes import make_context, props
from vmmd.devices.isa.fw_cfg import FwCfg
from vmmd.errors import BackendError, UsageError
from vmmd.firmware import bootorder, e820, files, fw_items

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
ITEMS = fw_items.FwItems(128 << 20, b"e", (b"a", b"t"), None, b"", cpus=2, max_cpus=4)


def published(items: fw_items.FwItems) -> FwCfg:
    device = FwCfg(props(FwCfg), make_context().ctx)
    fw_items.publish(device, items)
    return device


def content(device: FwCfg, name: str) -> bytes:
    return device.item(0x20 + device.file_names().index(name))


def test_e820_of_small_machine_equals_qemu() -> None:
    table = e820.firmware_table(128 << 20, 0, kvm=False)
    assert table.hex() == "0000000000000000000000080000000001000000"


def test_e820_of_large_amd_machine_equals_qemu() -> None:
    assert e820.firmware_table(3 * GIB, 3 * GIB, hypertransport=True).hex() == (
        "00c0fffe00000000004000000000000002000000"
        "00000000fd000000000000000300000002000000"
        "0000000000000000000000c00000000001000000"
        "0000000001000000000000c00000000001000000"
    )


def test_direct_boot_map_has_no_overlap_and_reserves_tables() -> None:
    ranges = e820.direct_boot_map(GIB, GIB, tables_base=GIB - (128 << 10), hypertransport=True)
    ends = [each.base + each.size_bytes for each in ranges]
    assert all(end <= following.base for end, following in zip(ends, ranges[1:], strict=False))
    usable = sum(each.size_bytes for each in ranges if each.kind == e820.RAM)
    assert usable == 2 * GIB - (128 << 10) - (1 << 20) + e820.EBDA_BASE


def test_bootorder_equals_qemu() -> None:
    entries = [(2, bootorder.virtio_net_path(6, 1)), (1, bootorder.virtio_blk_path(5, 0)), (-1, "/never")]
    expected = b"/pci@i0cf8/scsi@5/disk@0,0\n/pci@i0cf8/ethernet@6,1/ethernet-phy@0\nHALT\0"
    assert bootorder.text(entries, strict=True) == expected


def test_bootorder_without_entries_is_empty_even_when_strict() -> None:
    assert bootorder.text([], strict=True) == b""


def test_bootorder_twice_the_same_index_is_refused() -> None:
    with pytest.raises(UsageError, match="The bootindex 1 has already been used"):
        bootorder.text([(1, "/a"), (1, "/b")])


def test_items_have_specified_sizes() -> None:
    device = published(ITEMS._replace(graphics=False, boot_menu=True))
    assert device.item(3) == (128 << 20).to_bytes(8, "little")
    assert [device.item(key) for key in (4, 5, 0xE, 0xF)] == [b"\1\0", b"\2\0", b"\1\0", b"\4\0"]
    assert device.item(0x8002) == b"\1\0\0\0"
    assert (device.item(0x8004)[:1], len(device.item(0x8004))) == (b"\xff", 61)


def test_files_without_acpi() -> None:
    names = published(ITEMS).file_names()
    assert names == [
        "bios-geometry", "bootorder", "etc/boot-fail-wait", "etc/e820", "etc/smbios/smbios-anchor",
        "etc/smbios/smbios-tables", "etc/system-states",
    ]  # fmt: skip


def test_boot_waits_equal_qemu() -> None:
    device = published(ITEMS._replace(splash_time_ms=1000, reboot_timeout_ms=2000))
    assert content(device, "etc/boot-menu-wait").hex() == "e803"
    assert content(device, "etc/boot-fail-wait").hex() == "d0070000"
    assert content(published(ITEMS), "etc/boot-fail-wait") == b"\xff" * 4


def test_system_states_equal_qemu() -> None:
    assert fw_items.system_states(False, False).hex() == "800000818280"
    assert fw_items.system_states(True, True).hex() == "800000010280"


def test_hpet_item_equals_qemu() -> None:
    assert (
        published(ITEMS._replace(hpet_block_id=0x8086A201)).item(0x8004)[:16].hex()
        == "0101a286800000d0fe00000000000000"
    )


def test_numa_item_lists_nodes() -> None:
    numa = published(ITEMS._replace(numa=[(5, [0, 1]), (7, [2, 3])])).item(0xD)
    assert [int.from_bytes(numa[at : at + 8], "little") for at in range(0, len(numa), 8)] == [2, 0, 0, 1, 1, 5, 7]


def test_firmware_is_found_in_given_directory_first(tmp_path: Path) -> None:
    image = tmp_path / "bios-256k.bin"
    image.write_bytes(bytes(65536))
    assert files.find("bios-256k.bin", [str(tmp_path)]) == str(image)
    assert files.load_bios(None, [str(tmp_path)]) == bytes(65536)


def test_missing_firmware_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SYSTEM_DIRECTORIES", ())
    with pytest.raises(UsageError, match=r"could not load PC BIOS 'bios-256k\.bin'.*'seabios'"):
        files.load_bios(None)


@pytest.mark.parametrize("size_bytes", [0, 1, 65535, (16 << 20) + 65536])
def test_firmware_of_wrong_size_is_refused(tmp_path: Path, size_bytes: int) -> None:
    image = tmp_path / "x.bin"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    with pytest.raises(UsageError, match="could not load PC BIOS"):
        files.load_bios(str(image))


def test_directory_as_firmware_is_refused(tmp_path: Path) -> None:
    with pytest.raises((UsageError, BackendError), match="could not load PC BIOS"):
        files.load_bios(str(tmp_path))

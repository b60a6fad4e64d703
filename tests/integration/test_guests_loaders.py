# SPDX-License-Identifier: Apache-2.0
"""Boot loaders on a virtio disk, driven over the serial port: GRUB Legacy, U-Boot, SYSLINUX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import GuestRuns

pytestmark = pytest.mark.kvm


def test_grub_legacy_reports_disk_and_memory_map(guest_runs: GuestRuns, emulator_name: str) -> None:
    outputs = guest_runs.get("grub-legacy", emulator_name).outputs
    assert "drive 0x80: C/H/S = 31/16/63, The number of sectors = 32768, LBA" in outputs["geometry (hd0)"]
    assert "Partition num: 0,  Filesystem type is fat, partition type 0xe" in outputs["geometry (hd0)"]
    assert "Lower memory: 639K, Upper memory (to first chipset hole): 64372K" in outputs["displaymem"]


def test_grub_legacy_reboot_ends_the_emulator_under_no_reboot(guest_runs: GuestRuns, emulator_name: str) -> None:
    run = guest_runs.get("grub-legacy", emulator_name)
    assert run.shutdown_data() == {"guest": True, "reason": "guest-reset"}
    assert run.status == 0


@pytest.mark.parametrize(
    "check", ["checksum of the file read", "sectors written", "file written", "file read is undamaged"]
)
def test_uboot_reads_and_writes_the_disk(guest_runs: GuestRuns, emulator_name: str, check: str) -> None:
    assert guest_runs.get("uboot", emulator_name).checks[check]


def test_uboot_finds_the_disk_partition_and_file(guest_runs: GuestRuns, emulator_name: str) -> None:
    outputs = guest_runs.get("uboot", emulator_name).outputs
    assert "Capacity: 16.0 MB = 0.0 GB (32768 x 512)" in outputs["virtio info"]
    assert "8 blocks written: OK" in outputs["virtio write 1000000 10 8"]
    assert "200001   payload.bin" in outputs["fatls virtio 0:1"]


def test_uboot_reset_ends_the_emulator_under_no_reboot(guest_runs: GuestRuns, emulator_name: str) -> None:
    run = guest_runs.get("uboot", emulator_name)
    assert run.shutdown_data() == {"guest": True, "reason": "guest-reset"}
    assert run.status == 0


def test_syslinux_modules_report_files_and_memory_map(guest_runs: GuestRuns, emulator_name: str) -> None:
    outputs = guest_runs.get("syslinux", emulator_name).outputs
    assert "syslinux.cfg" in outputs["ls.c32"]
    assert "DOS RAM: 639K (0x9fc00)" in outputs["meminfo.c32"]
    assert outputs["cpuid.c32 1"].splitlines()[1].startswith("eax :")

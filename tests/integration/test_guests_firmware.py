# SPDX-License-Identifier: Apache-2.0
"""SeaBIOS alone, and boot sectors that it reads from a virtio disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import GuestRuns

pytestmark = pytest.mark.kvm


def test_seabios_without_disk_reports_machine_and_no_bootable_device(guest_runs: GuestRuns, emulator_name: str) -> None:
    lines = guest_runs.get("seabios", emulator_name).outputs["firmware"].splitlines()
    for line in (
        "Running on QEMU (i440fx)",
        "Running on KVM",
        "QEMU fw_cfg DMA interface supported",
        "qemu/e820: addr 0x0000000000000000 len 0x0000000008000000 [RAM]",
        "Found 1 cpu(s) max supported 1 cpu(s)",
        "PCI: init bdf=00:01.3 id=8086:7113",
        "Copying MPTABLE",
        "Copying SMBIOS",
        "ACPI: parse DSDT",
        "No bootable device.",
    ):
        assert line in lines


def test_seabios_boots_what_is_chosen_in_its_menu_by_keyboard(guest_runs: GuestRuns, emulator_name: str) -> None:
    run = guest_runs.get("boot-menu", emulator_name)
    assert run.outputs == {
        "menu": "1. Virtio disk PCI:00:02.0\n2. Virtio disk PCI:00:03.0\n",
        "serial": "@CHOSEN\n",
    }


@pytest.mark.parametrize(
    ("guest", "pci_id", "mode"),
    [
        ("bootsector", "1af4:1001", "using modern (1.0) virtio mode"),
        ("bootsector-legacy", "1af4:1001", "using legacy (0.9.5) virtio mode"),
        ("bootsector-modern", "1af4:1042", "using modern (1.0) virtio mode"),
    ],
)
def test_seabios_reads_virtio_disk_in_the_selected_mode(
    guest_runs: GuestRuns, emulator_name: str, guest: str, pci_id: str, mode: str
) -> None:
    firmware = guest_runs.get(guest, emulator_name).outputs["firmware"]
    assert f"id={pci_id}" in firmware
    assert mode in firmware
    assert "Booting from 0000:7c00" in firmware


def test_firmware_of_64_kib_is_entered_at_the_reset_vector(guest_runs: GuestRuns, emulator_name: str) -> None:
    assert "first instruction" in guest_runs.get("small-firmware", emulator_name).wall_s


def test_power_button_reaches_guest_and_s5_ends_the_emulator(guest_runs: GuestRuns, emulator_name: str) -> None:
    run = guest_runs.get("acpi-bootsector", emulator_name)
    assert [event["event"] for event in run.events] == ["POWERDOWN", "SHUTDOWN"]
    assert run.shutdown_data() == {"guest": True, "reason": "guest-shutdown"}
    assert run.status == 0

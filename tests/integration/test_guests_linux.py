# SPDX-License-Identifier: Apache-2.0
"""A real Linux: PVH entry and bzImage, virtio disk with MSI-X, power-off by itself and by the power button, PS/2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.scenarios import msi_interrupts

if TYPE_CHECKING:
    from tests.integration.conftest import GuestRuns

pytestmark = [pytest.mark.kvm, pytest.mark.slow, pytest.mark.timeout(1200)]
S5 = {"guest": True, "reason": "guest-shutdown"}


@pytest.mark.parametrize("guest", ["linux-min", "linux-bzimage"])
def test_linux_reaches_user_space_and_powers_off(guest_runs: GuestRuns, emulator_name: str, guest: str) -> None:
    run = guest_runs.get(guest, emulator_name)
    assert "INIT: 10 fork+exec" in run.outputs["init"]
    assert run.shutdown_data() == S5
    assert run.status == 0


@pytest.mark.parametrize("check", ["checksum of the disk", "blocks written"])
def test_linux_reads_and_writes_the_disk(guest_runs: GuestRuns, emulator_name: str, check: str) -> None:
    assert guest_runs.get("linux-devices", emulator_name).checks[check]


def test_linux_drives_the_disk_with_msi_x(guest_runs: GuestRuns, emulator_name: str) -> None:
    counts = dict(msi_interrupts(guest_runs.get("linux-devices", emulator_name).outputs["devices"]))
    assert counts["virtio0-req.0"] > 0
    assert "virtio0-config" in counts


def test_linux_powers_off_on_system_powerdown(guest_runs: GuestRuns, emulator_name: str) -> None:
    run = guest_runs.get("linux-devices", emulator_name)
    assert [event["event"] for event in run.events] == ["POWERDOWN", "SHUTDOWN"]
    assert run.shutdown_data() == S5
    assert run.status == 0


@pytest.mark.parametrize("name", ["AT Translated Set 2 keyboard", "ImExPS/2 Generic Explorer Mouse"])
def test_linux_finds_keyboard_and_mouse(guest_runs: GuestRuns, emulator_name: str, name: str) -> None:
    assert f'N: Name="{name}"' in guest_runs.get("linux-input", emulator_name).outputs["devices"]


def test_keys_and_movements_reach_evdev(guest_runs: GuestRuns, emulator_name: str) -> None:
    outputs = guest_runs.get("linux-input", emulator_name).outputs
    key_f5, scan_f5, button_right, scan = 63, 63, 273, "4 4"
    assert outputs["AT Translated Set 2 keyboard"].splitlines() == [
        f"{scan} {scan_f5}", f"1 {key_f5} 1", "0 0 0", f"{scan} {scan_f5}", f"1 {key_f5} 0", "0 0 0",
    ]  # fmt: skip
    assert set(outputs["ImExPS/2 Generic Explorer Mouse"].splitlines()) == {
        f"1 {button_right} 1", "2 8 1", "2 0 40", "2 1 -7", "0 0 0",
    }  # fmt: skip


@pytest.mark.parametrize("check", ["checksum of the disk", "blocks written"])
def test_linux_reads_and_writes_an_ide_disk(guest_runs: GuestRuns, emulator_name: str, check: str) -> None:
    assert guest_runs.get("linux-ide", emulator_name).checks[check]


def test_linux_finds_the_ide_disk(guest_runs: GuestRuns, emulator_name: str) -> None:
    outputs = guest_runs.get("linux-ide", emulator_name).outputs
    assert "ata1.00: ATA-7: QEMU HARDDISK, 2.5+, max UDMA/100" in outputs["kernel"]
    assert "2048 512-byte logical blocks" in outputs["kernel"]
    assert "ata_piix" in outputs["interrupts"]

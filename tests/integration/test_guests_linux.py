# SPDX-License-Identifier: Apache-2.0
"""A real Linux: PVH entry and bzImage, virtio disk with MSI-X, power-off by itself and by the power button; and with
Linux's own drivers for what a PC has: IDE disk, CD-ROM, RTC, PS/2 keyboard and mouse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.framework.scenarios import KEYBOARD_NAME, MOUSE_NAME, msi_interrupts

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


@pytest.mark.parametrize("name", [KEYBOARD_NAME, MOUSE_NAME])
def test_linux_finds_keyboard_and_mouse(guest_runs: GuestRuns, emulator_name: str, name: str) -> None:
    assert f'N: Name="{name}"' in guest_runs.get("linux-pc", emulator_name).outputs["devices"]


def key_events(*keys: tuple[int, int]) -> list[str]:
    """What evdev tells of keys of the first row of scan codes, where key and scan code are the same number."""
    return [line for code, value in keys for line in (f"4 4 {code}", f"1 {code} {value}", "0 0 0")]


def test_keys_reach_evdev(guest_runs: GuestRuns, emulator_name: str) -> None:
    outputs = guest_runs.get("linux-pc", emulator_name).outputs
    f5, left_shift, a = 63, 42, 30
    assert outputs["send-key"].splitlines() == key_events((f5, 1), (f5, 0))
    assert outputs["sendkey"].splitlines() == key_events((left_shift, 1), (a, 1), (a, 0), (left_shift, 0))


def test_movements_reach_evdev(guest_runs: GuestRuns, emulator_name: str) -> None:
    button_right = 273
    assert set(guest_runs.get("linux-pc", emulator_name).outputs["mouse"].splitlines()) == {
        f"1 {button_right} 1", "2 8 1", "2 0 40", "2 1 -7", "0 0 0",
    }  # fmt: skip


@pytest.mark.parametrize(
    "check",
    [
        "checksum of the disk",
        "blocks written",
        "checksum of the CD",
        "checksum of the next CD",
        "tray is open",
        "RTC tells the host's time",
        "RTC alarm",
    ],
)
def test_linux_uses_ide_and_rtc(guest_runs: GuestRuns, emulator_name: str, check: str) -> None:
    assert guest_runs.get("linux-pc", emulator_name).checks[check]


@pytest.mark.parametrize(
    "line",
    [
        "ata1.00: ATA-7: QEMU HARDDISK, 2.5+, max UDMA/100",
        "2048 512-byte logical blocks",
        "ata2.00: ATAPI: QEMU DVD-ROM, 2.5+, max UDMA/100",
        "[sr0] scsi3-mmc drive: 4x/4x cd/rw xa/form2 tray",
        "registered as rtc0",
    ],
)
def test_linux_finds_ide_and_rtc(guest_runs: GuestRuns, emulator_name: str, line: str) -> None:
    assert line in guest_runs.get("linux-pc", emulator_name).outputs["kernel"]


def test_linux_sees_the_medium_go_and_moves_the_tray(guest_runs: GuestRuns, emulator_name: str) -> None:
    outputs = guest_runs.get("linux-pc", emulator_name).outputs
    assert "/dev/sr0': No medium found" in outputs["no medium"]
    assert outputs["tray moved by the host"] == "open, closed, open, closed"  # Linux closes it once, to find nothing
    assert outputs["tray moved by the guest"] == "open"


@pytest.mark.parametrize("source", ["i8042", "rtc0", "ata_piix"])
def test_linux_takes_interrupts(guest_runs: GuestRuns, emulator_name: str, source: str) -> None:
    interrupts = guest_runs.get("linux-pc", emulator_name).outputs["interrupts"]
    counts = re.findall(rf"^ *\d+: +(\d+) +IO-APIC .* {source}$", interrupts, re.MULTILINE)
    assert counts
    assert all(int(count) > 0 for count in counts)


def test_linux_of_a_pc_powers_off(guest_runs: GuestRuns, emulator_name: str) -> None:
    run = guest_runs.get("linux-pc", emulator_name)
    assert run.shutdown_data() == S5
    assert run.status == 0

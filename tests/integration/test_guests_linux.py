# SPDX-License-Identifier: Apache-2.0
"""A real Linux: PVH entry and bzImage, virtio disk with MSI-X, power-off by itself and by the power button."""

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

# SPDX-License-Identifier: Apache-2.0
"""`-kernel` with a multiboot image and with a PVH note: the benchmark guest, which works natively at CPL 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import GuestRuns

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(("guest", "entry"), [("bench-multiboot", "multiboot"), ("bench-pvh", "pvh")])
def test_kernel_is_entered_by_its_protocol_and_gets_its_command_line(
    guest_runs: GuestRuns, emulator_name: str, guest: str, entry: str
) -> None:
    lines = guest_runs.get(guest, emulator_name).outputs["guest"].splitlines()
    assert lines == [f"@BOOT {entry} tsc=N", "@S pin", "@E pin n=1000 tsc=N khz=N port=128"]

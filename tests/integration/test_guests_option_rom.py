# SPDX-License-Identifier: Apache-2.0
"""The option ROM of a network card runs: firmware finds it in its register, copies it, calls it, and boots from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import GuestRuns

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(
        not Path("/usr/lib/ipxe/qemu/efi-virtio.rom").is_file(), reason="Debian's ipxe-qemu is not installed"
    ),
]


def test_ipxe_prints_its_banner_and_is_booted(guest_runs: GuestRuns, emulator_name: str) -> None:
    text = guest_runs.get("ipxe-banner", emulator_name).outputs["serial"]
    for part in (
        "iPXE (http://ipxe.org) 00:02.0 C000 PCI2.10 PnP PMM",
        "Press Ctrl-B to configure iPXE (PCI 00:02.0)...",
        "Booting from ROM...",
        "iPXE (PCI 00:02.0) starting",
    ):
        assert part in text

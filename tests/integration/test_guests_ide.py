# SPDX-License-Identifier: Apache-2.0
"""Firmware and boot loaders on IDE disks: what SeaBIOS finds, and what is read through it by bus master and INT 13h."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework import guests
from tests.framework.scenarios import COMMAND_TIMEOUT_S, FIRMWARE_TIMEOUT_S, GRUB_PROMPT, machine_args
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.framework.guests import DiskImage

pytestmark = pytest.mark.kvm


@pytest.fixture
def boot(emulator_name: str) -> Iterator[Callable[..., Vm]]:
    """Starts a machine whose first IDE disk is a copy of an image; ``interface``: how it is named."""
    started: list[Vm] = []

    def start(disk: DiskImage, machine: str = "pc", *, hda: bool = False) -> Vm:
        vm = Vm(emulator(emulator_name), machine_args(64, machine), debugcon=True)
        path = disk.copy_to(vm.directory)
        vm.argv += ["-hda", str(path)] if hda else ["-drive", f"file={path},format=raw,if=ide"]
        vm.__enter__()
        started.append(vm)
        return vm

    yield start
    for vm in started:
        vm.__exit__(None, None, None)


@pytest.mark.parametrize("hda", [False, True])
def test_seabios_boots_a_sector_of_an_ide_disk(boot: Callable[..., Vm], *, hda: bool) -> None:
    vm = boot(guests.bootsector_disk(), hda=hda)
    vm.serial.expect(guests.BOOTSECTOR_TEXT, FIRMWARE_TIMEOUT_S)
    vm.debugcon.expect(r"Booting from 0000:7c00\n", FIRMWARE_TIMEOUT_S)
    text = vm.debugcon.text
    assert "ATA controller 1 at 1f0/3f4/0 (irq 14 dev 9)" in text
    assert "ata0-0: QEMU HARDDISK ATA-7 Hard-Disk (1 MiBytes)" in text
    assert "PCHS=2/16/63 translation=none LCHS=2/16/63 s=2048" in text


def test_grub_legacy_on_an_ide_disk(boot: Callable[..., Vm]) -> None:
    vm = boot(guests.grub_legacy_disk(), "pc,graphics=off")
    vm.serial.expect("vmmd test entry", FIRMWARE_TIMEOUT_S)
    vm.serial.send("c")
    vm.serial.expect(GRUB_PROMPT, COMMAND_TIMEOUT_S)
    vm.serial.send("geometry (hd0)\r")
    text = vm.serial.expect_until(GRUB_PROMPT, COMMAND_TIMEOUT_S)
    assert "The number of sectors = 32768, LBA" in text
    assert "Filesystem type is fat" in text


@pytest.mark.slow  # the same path as GRUB's
def test_syslinux_on_an_ide_disk(boot: Callable[..., Vm]) -> None:
    vm = boot(guests.syslinux_disk(), "pc,pit=off")
    vm.serial.expect("boot: ", FIRMWARE_TIMEOUT_S)
    vm.serial.send("ls.c32\r")
    assert "syslinux.cfg" in vm.serial.expect_until(r"boot: ", COMMAND_TIMEOUT_S)

# SPDX-License-Identifier: Apache-2.0
"""Disks that change while the guest uses them: drive_del takes one away, block_resize makes one shorter and longer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.framework import guests
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm

BLOCK_BYTES = 4096
BLOCKS = 5_000
GUEST_TIMEOUT_S = 60.0


def writer(emulator_name: str, image: Path) -> Vm:
    """A guest that writes BLOCKS blocks one after the other; an error would stop it."""
    with image.open("wb") as file:
        file.truncate(BLOCKS * BLOCK_BYTES)
    return Vm(emulator(emulator_name), [
        "-machine", "pc,accel=kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "64", "-nodefaults",
        "-drive", f"if=none,id=d0,format=raw,file={image},werror=stop", "-device", "virtio-blk-pci,drive=d0",
        "-kernel", str(guests.bench().multiboot), "-append", f"blk {BLOCKS} {BLOCK_BYTES} 8 q",
    ])  # fmt: skip


def wait_for_writes(vm: Vm, count: int) -> None:
    """Ask until so many were made: nothing tells."""
    deadline = time.monotonic() + GUEST_TIMEOUT_S
    while vm.qmp.cmd("query-blockstats")[0]["stats"]["wr_operations"] < count:
        assert time.monotonic() < deadline, vm.describe()


def result(vm: Vm) -> tuple[int, int]:
    """(requests, failed ones) when the guest has finished."""
    match = vm.serial.expect(r"@E blk n=(\d+) .* err=(\d+) ", GUEST_TIMEOUT_S)
    return int(match[1]), int(match[2])


def test_a_disk_taken_from_a_guest_that_writes(emulator_name: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with writer(emulator_name, image) as vm:
        wait_for_writes(vm, 100)
        assert vm.qmp.hmp("drive_del d0") == ""
        requests, failed = result(vm)
        assert requests == BLOCKS
        assert 0 < failed < BLOCKS
        assert vm.qmp.cmd("query-status")["running"]  # werror=stop has no meaning any more
        (disk,) = vm.qmp.cmd("query-block")
        assert (disk["device"], "inserted" in disk) == ("", False)
        # the image is free for the next user
        assert vm.qmp.hmp(f"drive_add 0 if=none,id=d1,format=raw,file={image}") == "OK\r\n"


def test_a_disk_gets_shorter_and_longer_under_a_guest_that_writes(emulator_name: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with writer(emulator_name, image) as vm:
        wait_for_writes(vm, 100)
        for blocks in (BLOCKS * 2, BLOCKS * 3 // 2, BLOCKS + 1):
            vm.qmp.cmd("block_resize", {"device": "d0", "size": blocks * BLOCK_BYTES})
            assert vm.qmp.cmd("query-block")[0]["inserted"]["image"]["virtual-size"] == blocks * BLOCK_BYTES
            assert image.stat().st_size == blocks * BLOCK_BYTES
        assert result(vm) == (BLOCKS, 0)
        assert vm.qmp.cmd("query-status")["running"]

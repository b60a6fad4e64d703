# SPDX-License-Identifier: Apache-2.0
"""A machine built in this process from a command line: what options leave in devices and memory, before it runs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from vmmd.core.device import ResetKind
from vmmd.daemon import find_accelerator
from vmmd.eventloop import EventLoopPort
from vmmd.machine.build import Builder
from vmmd.machine.plan import MachinePlan
from vmmd.machine.vm import Vm
from vmmd.options import availability, cmdline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kvm

LOAD_GPA = 0x10_0000
#: the addresses of a flat multiboot 1 image (§3.1.3): header, load, end of load (0: all), end of bss, entry; then code
KERNEL_REST = struct.pack("<5I", LOAD_GPA, LOAD_GPA, 0, 0, LOAD_GPA + 32) + b"\xf4" * 64
CMOS_BOOT_1_2, CMOS_BOOT_3 = 0x3D, 0x38


@pytest.fixture
def built() -> Iterator[Callable[..., Vm]]:
    made: list[Vm] = []

    def build(*options: str) -> Vm:
        config = cmdline.parse(["-nodefaults", "-display", "none", "-m", "16", "-S", *options])
        availability.check(config)
        plan = MachinePlan(config)
        plan.check()
        vm = Vm(config, EventLoopPort())
        made.append(vm)
        builder = Builder(vm, plan, find_accelerator)
        builder.open_accelerator()
        builder.build()
        return vm

    yield build
    for vm in made:
        vm.close()


def device(vm: Vm, type_name: str) -> Any:
    return next(each for each in vm.devices if each.type_name == type_name)


def reset(vm: Vm) -> None:
    with vm.lock:
        for each in vm.devices:
            each.reset(ResetKind.COLD)
        assert vm.reset_board is not None
        vm.reset_board()


def test_boot_once_holds_until_the_first_reset(built: Callable[..., Vm]) -> None:
    vm = built("-boot", "order=nc,once=d")
    rtc = device(vm, "mc146818rtc")
    assert (rtc.cmos_get(CMOS_BOOT_1_2), rtc.cmos_get(CMOS_BOOT_3)) == (0x03, 0x00)
    reset(vm)
    assert (rtc.cmos_get(CMOS_BOOT_1_2), rtc.cmos_get(CMOS_BOOT_3)) == (0x24, 0x00)


def test_boot_order_stays_over_resets(built: Callable[..., Vm]) -> None:
    vm = built("-boot", "order=dc")
    rtc = device(vm, "mc146818rtc")
    for _ in range(2):
        assert rtc.cmos_get(CMOS_BOOT_1_2) == 0x23
        reset(vm)


def test_global_of_a_base_type_reaches_the_device(built: Callable[..., Vm]) -> None:
    disk = ["-blockdev", "driver=null-co,node-name=n", "-device", "virtio-blk-pci,drive=n,id=d"]
    vm = built(*disk, "-global", "virtio-pci.disable-modern=on", "-global", "virtio-device.event_idx=off")
    props = device(vm, "virtio-blk-pci").props
    assert props.disable_modern is True
    assert props.event_idx is False


def test_reset_of_a_direct_boot_needs_no_file_again(built: Callable[..., Vm], tmp_path: Path) -> None:
    kernel, initrd, blob = tmp_path / "kernel", tmp_path / "initrd", tmp_path / "blob"
    kernel.write_bytes(struct.pack("<IIi", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16))) + KERNEL_REST)
    initrd.write_bytes(b"initrd" * 100)
    blob.write_bytes(bytes((128, 4, 0x34, 0x12, 0, 0)))
    vm = built("-kernel", str(kernel), "-initrd", str(initrd), "-smbios", f"file={blob}")
    for path in (kernel, initrd, blob):
        path.unlink()
    vm.memory.write(LOAD_GPA, bytes(64))
    reset(vm)
    assert vm.memory.read(LOAD_GPA, 4) == b"\x02\xb0\xad\x1b"

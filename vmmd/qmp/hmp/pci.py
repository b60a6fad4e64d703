# SPDX-License-Identifier: Apache-2.0
"""Functions on the PCI bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp
from vmmd.units import U64_MAX

if TYPE_CHECKING:
    from vmmd.devices.pci.bus import PciDeviceInfo, PciRegion
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


@hmp("info pci", help="functions on the PCI bus")
def info_pci(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    vm = monitor.vm
    if vm.pci is None:
        return "PCI devices not supported\n"
    with vm.lock:
        functions = vm.pci.query()
    return "".join(_pci_function(each) for each in functions)


def _pci_function(info: PciDeviceInfo) -> str:
    kind = info.class_desc if info.class_desc is not None else f"Class {info.class_code:04d}"
    lines = [
        f"  Bus {info.bus:2d}, device {info.slot:3d}, function {info.function}:",
        f"    {kind}: PCI device {info.vendor:04x}:{info.device:04x}",
    ]
    if info.subsystem_vendor or info.subsystem:
        lines.append(f"      PCI subsystem {info.subsystem_vendor:04x}:{info.subsystem:04x}")
    if info.irq is not None:
        lines.append(f"      IRQ {info.irq}, pin {chr(ord('A') + info.irq_pin - 1)}")
    lines += [_pci_region(each) for each in info.regions]
    lines.append(f'      id "{info.qdev_id}"')
    return "".join(f"{line}\n" for line in lines)


def _pci_region(region: PciRegion) -> str:
    # QEMU-COMPAT: a BAR that is not mapped shows address -1 and an end computed from it
    address = region.address & U64_MAX
    end = (region.address + region.size - 1) & U64_MAX
    if region.type == "io":
        return f"      BAR{region.bar}: I/O at 0x{address:04x} [0x{end:04x}]."
    width = 64 if region.mem_type_64 else 32
    prefetch = " prefetchable" if region.prefetch else ""
    return f"      BAR{region.bar}: {width} bit{prefetch} memory at 0x{address:08x} [0x{end:08x}]."

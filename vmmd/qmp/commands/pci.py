# SPDX-License-Identifier: Apache-2.0
"""Commands about the PCI bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.devices.pci import bus
    from vmmd.qmp.models.pci import PciDeviceClass, PciDeviceInfo, PciInfo, PciMemoryRegion


@command("query-pci", since="0.14")
def query_pci(ctx: Context) -> list[PciInfo]:
    """The functions on the PCI bus and what their BARs decode."""
    pci = ctx.vm.pci
    if pci is None:
        return []
    with ctx.vm.lock:
        functions = pci.query()
    return [{"bus": 0, "devices": [_device(each) for each in functions]}]


def _device(info: bus.PciDeviceInfo) -> PciDeviceInfo:
    kind: PciDeviceClass = {"class": info.class_code}
    if info.class_desc is not None:
        kind["desc"] = info.class_desc
    device: PciDeviceInfo = {
        "bus": info.bus,
        "slot": info.slot,
        "function": info.function,
        "class_info": kind,
        "id": {
            "device": info.device,
            "vendor": info.vendor,
            "subsystem": info.subsystem,
            "subsystem-vendor": info.subsystem_vendor,
        },
        "irq_pin": info.irq_pin,
        "qdev_id": info.qdev_id,
        "regions": [_region(each) for each in info.regions],
    }
    if info.irq is not None:
        device["irq"] = info.irq
    return device


def _region(info: bus.PciRegion) -> PciMemoryRegion:
    region: PciMemoryRegion = {
        "bar": info.bar,
        "type": "io" if info.type == "io" else "memory",
        "size": info.size,
        "address": info.address,
    }
    if info.prefetch is not None:
        region["prefetch"] = info.prefetch
    if info.mem_type_64 is not None:
        region["mem_type_64"] = info.mem_type_64
    return region

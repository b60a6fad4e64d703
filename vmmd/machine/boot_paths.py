# SPDX-License-Identifier: Apache-2.0
"""How firmware finds the devices that it may boot from: their Open Firmware paths, and the geometry it is to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.floppy.isa import IsaFdc
from vmmd.devices.pci.device import PciDevice
from vmmd.firmware import bootorder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.core.device import Device


NETWORK_CARD = 0x020000  # Ethernet (PCI 3.0 appendix D)


def boot_path(device: Device) -> str | None:
    """The path in ``bootorder``; None for a device that firmware does not boot from."""
    if isinstance(device, PciDevice):
        path = bootorder.virtio_net_path if device.class_code == NETWORK_CARD else bootorder.virtio_blk_path
        return path(device.slot, device.function)
    if device.bus_type == "IDE":
        channel = int(device.bus_name[-1])
        return bootorder.ide_path(channel, device.unit)  # type: ignore[attr-defined]  # an IdeDevice
    return None


def order(devices: Iterable[Device]) -> list[tuple[int, str]]:
    """(bootindex, path) of every device that has one."""
    entries = []
    for device in devices:
        if isinstance(device, IsaFdc):
            entries += _floppies(device)
        index = getattr(device.props, "bootindex", None)
        if index is not None and index >= 0 and (path := boot_path(device)) is not None:
            entries.append((index, path))
    return entries


def _floppies(fdc: IsaFdc) -> list[tuple[int, str]]:
    indices = (fdc.props.bootindexA, fdc.props.bootindexB)
    return [
        (index, bootorder.floppy_path(fdc.props.iobase, unit))
        for unit, index in enumerate(indices)
        if index is not None and index >= 0
    ]


def geometry(devices: Iterable[Device]) -> list[tuple[str, tuple[int, int, int]]]:
    """(path, logical geometry) of every disk whose user wants one."""
    entries = []
    for device in devices:
        logical = getattr(device, "logical_chs", None)
        if logical is not None and any(logical) and (path := boot_path(device)) is not None:
            entries.append((path, logical))
    return entries

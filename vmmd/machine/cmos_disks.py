# SPDX-License-Identifier: Apache-2.0
"""What CMOS RAM says about disks and diskette drives (Ralf Brown's CMOS list, 10h, 12h, 14h, 19h-2Ch, 39h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.floppy.formats import KINDS
from vmmd.devices.ide.hd import IdeHd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.core.device import Device
    from vmmd.devices.floppy.isa import FloppyBus

CELL_FLOPPIES = 0x10
CELL_EQUIPMENT = 0x14
EQUIPMENT_ALWAYS = 0x06  # display by the adapter's ROM, FPU present
EQUIPMENT_FLOPPY = 0x01
EQUIPMENT_SECOND_FLOPPY = 0x40
CELL_TYPES = 0x12
CELLS_EXTENDED_TYPE = (0x19, 0x1A)
CELLS_GEOMETRY = (0x1B, 0x24)
CELL_TRANSLATION = 0x39
TYPE_USER = 47  # the geometry is in the cells
CONTROL_MANY_HEADS, CONTROL_NO_RETRIES = 0x08, 0xC0
NO_PRECOMPENSATION = 0xFF


def disk_cells(devices: Iterable[Device]) -> dict[int, int]:
    """CMOS cells for the disks among ``devices``: geometry of those on the first channel, translation of all."""
    cells = {CELL_TYPES: 0, CELL_TRANSLATION: 0}
    for device in devices:
        if not isinstance(device, IdeHd):
            continue
        channel, unit = int(device.bus_name[-1]), device.unit
        cells[CELL_TRANSLATION] |= (device.translation & 3) << 2 * (2 * channel + unit)
        if channel == 0:
            cells[CELL_TYPES] |= 0x0F if unit else 0xF0
            cells[CELLS_EXTENDED_TYPE[unit]] = TYPE_USER
            cells |= {CELLS_GEOMETRY[unit] + index: value for index, value in enumerate(_geometry(device))}
    return cells


def floppy_cells(bus: FloppyBus) -> dict[int, int]:
    """CMOS cells for the diskette drives: kinds, and how many the equipment byte counts."""
    first, second = (KINDS[drive.kind].cmos for drive in bus.fdc.drives)
    equipment = EQUIPMENT_ALWAYS
    if first or second:
        equipment |= EQUIPMENT_FLOPPY | (EQUIPMENT_SECOND_FLOPPY if first and second else 0)
    return {CELL_FLOPPIES: first << 4 | second, CELL_EQUIPMENT: equipment}


def _geometry(disk: IdeHd) -> tuple[int, ...]:
    cylinders, heads, sectors = disk.chs
    low, high = cylinders & 0xFF, cylinders >> 8
    control = CONTROL_NO_RETRIES | (CONTROL_MANY_HEADS if heads > 8 else 0)
    return low, high, heads, NO_PRECOMPENSATION, NO_PRECOMPENSATION, control, low, high, sectors

# SPDX-License-Identifier: Apache-2.0
"""One IDE channel: command and control block registers, two positions, one interrupt line (ATA/ATAPI-6 chapter 7).

Command block (1F0h-1F7h, 170h-177h): data, error/features, count, LBA low/mid/high, device, status/command. Control
block (3F6h, 376h): alternate status/device control. Writes go to both positions, commands to the selected one.
QEMU-COMPAT: ``number`` and order of things as QEMU 7.2 shows them to qtest programs; a reset by SRST is over at once;
command block writes are ignored while the selected drive is busy or has data to move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.address_space import IoRange
from vmmd.devices.ide.drive import DEV_ALWAYS_ON, DEV_UNIT, ST_BSY, ST_DRQ, Unit
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.core.device import Device
    from vmmd.core.irq import IrqLine
    from vmmd.devices.ide.dma import BusMaster
    from vmmd.devices.ide.drive import Drive

# command block offsets (§7.2)
REG_DATA = 0
REG_ERROR = REG_FEATURES = 1
REG_COUNT = 2
REG_LBA_LOW = 3
REG_LBA_MID = 4
REG_LBA_HIGH = 5
REG_DEVICE = 6
REG_STATUS = REG_COMMAND = 7
COMMAND_BLOCK_BYTES = 8

# device control (§7.8)
CTL_NIEN = 0x02  # no interrupts
CTL_SRST = 0x04
CTL_HOB = 0x80  # read what was written before

CMD_DEVICE_RESET = 0x08

#: by offset: the register's name in ``Unit``
_NAMES = ("", "features", "count", "lba_low", "lba_mid", "lba_high")


class ChannelPlace(NamedTuple):
    """Where a channel is."""

    name: str  # of its bus: "ide.0"
    command_base: int
    control_port: int
    gsi: int


PRIMARY = ChannelPlace("ide.0", 0x1F0, 0x3F6, 14)
SECONDARY = ChannelPlace("ide.1", 0x170, 0x376, 15)


class Channel:
    """A channel and the bus of the drives on it. DeviceLock held."""

    def __init__(self, place: ChannelPlace, irq: IrqLine, dma: BusMaster) -> None:
        self.place = place
        self.name = place.name
        self.irq = irq
        self.dma = dma
        self.units: list[Unit] = [Unit(self, 0), Unit(self, 1)]
        self.owners: list[Device | None] = [None, None]
        self._selected = self.units[0]
        self._control = 0

    # -- who sits where --------------------------------------------------------------------------------------

    @property
    def _any(self) -> bool:
        """There is a drive on the channel: without one it reads as zero."""
        return self.units[0].present or self.units[1].present

    def free_unit(self, wanted: int | None, type_name: str) -> int:
        """The position for a new drive: ``wanted``, or the first free one. Raises UsageError in QEMU's words."""
        if wanted is None:
            wanted = next((unit.number for unit in self.units if not unit.present), 1)
        if wanted >= len(self.units):
            raise UsageError(f"Can't create IDE unit {wanted}, bus supports only {len(self.units)} units")
        if self.units[wanted].present:
            owner = self.owners[wanted]
            raise UsageError(f"IDE unit {wanted} is in use", None if owner is None else f"{owner.name} is there")
        return wanted

    def attach(self, drive: Drive, owner: Device) -> None:
        """Put ``drive`` at the position it was made for."""
        self._put(drive, owner)

    def detach(self, drive: Drive) -> None:
        """Take ``drive`` away; nothing of it comes any more."""
        if self.units[drive.number] is drive:
            drive.stop_transfer()
            self.irq.lower()
            self._put(Unit(self, drive.number), None)

    def _put(self, unit: Unit, owner: Device | None) -> None:
        number = unit.number
        was_selected = self._selected is self.units[number]
        self.units[number] = unit
        self.owners[number] = owner
        if was_selected:
            self._selected = unit
        unit.power_on()

    # -- interrupt -------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """INTRQ, unless the host has switched it off (§7.8). The bus master sees it, too."""
        if not self._control & CTL_NIEN:
            self.dma.note_interrupt()
            self.irq.raise_()

    # -- command block ---------------------------------------------------------------------------------------

    def ranges(self) -> tuple[IoRange, IoRange]:
        """The ports of the two register blocks."""
        place = self.place
        return (
            IoRange(
                place.command_base,
                COMMAND_BLOCK_BYTES,
                self.read,
                self.write,
                name=f"{self.name}-command",
                read_items=self.read_items,
            ),
            IoRange(
                place.control_port,
                1,
                self.read_alternate_status,
                self.write_control,
                name=f"{self.name}-control",
                max_width=1,
            ),
        )

    def read(self, offset: int, size: int) -> int:
        """A read of the command block."""
        if offset == REG_DATA and size > 1:
            return self._selected.port_read(size)
        if size > 1:
            return self._read_wide(offset, size)
        if offset == REG_DATA:
            return self._selected.port_read(2) & 0xFF  # QEMU-COMPAT: the port moves by words, and takes no bytes
        if offset == REG_STATUS:
            self.irq.lower()
        return self._register(self._selected, offset) if self._any else 0

    def read_items(self, offset: int, size: int, view: memoryview) -> None:
        """String input: the data port's by blocks."""
        done = 0
        while done < len(view):
            if offset == REG_DATA and (taken := self._selected.port_read_block(size, view[done:])):
                done += taken
                continue
            view[done : done + size] = self.read(offset, size).to_bytes(size, "little")
            done += size

    def _read_wide(self, offset: int, size: int) -> int:
        """Several registers at once. QEMU-COMPAT: two can be read so, four cannot."""
        if size > 2:
            return 0xFFFF_FFFF
        high = self.read(offset + 1, 1) if offset < REG_STATUS else 0xFF
        return self.read(offset, 1) | high << 8

    def _register(self, unit: Unit, offset: int) -> int:
        if offset == REG_DEVICE:
            return unit.device
        if offset in (REG_STATUS, REG_ERROR) and not unit.present and unit.number:
            return 0  # QEMU-COMPAT: of a slave that is not there the other registers can be read
        if offset == REG_STATUS:
            return unit.status
        hob = self._control & CTL_HOB
        if offset == REG_ERROR:
            return unit.previous_features if hob else unit.error
        value: int = getattr(unit, f"previous_{_NAMES[offset]}" if hob else _NAMES[offset])
        return value & 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """A write to the command block."""
        if size > 1:
            if offset == REG_DATA:
                self._selected.port_write(size, value)
            elif size == 2:
                self.write(offset, 1, value & 0xFF)
                if offset < REG_STATUS:
                    self.write(offset + 1, 1, value >> 8)
        elif offset == REG_COMMAND:
            self._command(value)
        elif offset != REG_DATA and not self._selected.status & (ST_BSY | ST_DRQ):
            self._write_register(offset, value)

    def _write_register(self, offset: int, value: int) -> None:
        self._control &= ~CTL_HOB
        if offset == REG_DEVICE:
            for unit in self.units:
                unit.device = value | DEV_ALWAYS_ON
            self._selected = self.units[bool(value & DEV_UNIT)]
            return
        name = _NAMES[offset]
        for unit in self.units:
            setattr(unit, f"previous_{name}", getattr(unit, name) & 0xFF)
            setattr(unit, name, value)

    def _command(self, code: int) -> None:
        self._control &= ~CTL_HOB
        self.irq.lower()
        unit = self._selected
        if not unit.present and unit.number:
            return
        if unit.status & (ST_BSY | ST_DRQ) and not (code == CMD_DEVICE_RESET and unit.takes_reset_while_busy):
            return
        unit.execute(code)

    # -- control block ---------------------------------------------------------------------------------------

    def read_alternate_status(self, offset: int, size: int) -> int:
        """The status, with no effect on the interrupt (§7.3)."""
        return self._register(self._selected, REG_STATUS) if self._any else 0

    def write_control(self, offset: int, size: int, value: int) -> None:
        """Device control (§7.8)."""
        self._control = value & ~CTL_SRST
        if value & CTL_SRST:
            self.software_reset()

    def software_reset(self) -> None:
        """Both drives, whichever is selected."""
        for unit in self.units:
            unit.software_reset()

    def reset(self) -> None:
        """Power-on, or a reset of the machine."""
        for unit in self.units:
            unit.power_on()
        self._selected = self.units[0]
        self._control = 0
        self.irq.lower()
        self.dma.reset()

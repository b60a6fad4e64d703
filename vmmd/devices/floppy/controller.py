# SPDX-License-Identifier: Apache-2.0
"""The floppy disk controller 82078 (and 82077AA, as which it answers VERSION): registers, phases, interrupt.

Data sheet: Intel 82078 (order 290474), chapters 2 (registers), 5 (commands), 6 (status). Commands are in ``commands``,
those that move data in ``transfer``. Implemented: all commands of table 5-1 but FORMAT AND WRITE, which is answered as
invalid; DMA and non-DMA transfers; the four interrupts of polling after a reset; lock, save and restore. Not:
deleted data (images have no marks: such commands fail), timing of seeks and sectors (a seek is over at once, READ
ID takes a fiftieth of a second), power management, CRC.

The cursor into parameters and results is no register: parameters are collected up to the length that their command
has, results come from a list, and data from a buffer of the controller's own; what is read or written beside that
changes nothing. A reset at any time ends a command, and what it had in flight is never heard of again. While the
machine is stopped no request to the disk begins. DeviceLock held throughout.

QEMU-COMPAT, as measured: SPECIFY's ND bit and the DMA bit of DOR are one; the interrupt stays up until the last result
byte is read; a reset keeps what CONFIGURE has set, locked or not; polling cannot be switched off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.floppy import commands
from vmmd.devices.floppy.drive import FloppyDrive
from vmmd.devices.floppy.registers import (
    CONFIGURE_DEFAULT,
    DECODED,
    DIR_CHANGED,
    DOR_DMA,
    DOR_MOTOR_SHIFT,
    DOR_NOT_RESET,
    DSR_POWER_DOWN,
    DSR_RATE,
    DSR_RESET,
    MSR_BUSY,
    MSR_NON_DMA,
    MSR_READY,
    MSR_TO_HOST,
    PARAMETER_DRIVE,
    REG_CCR,
    REG_DIR,
    REG_DOR,
    REG_DSR,
    REG_FIFO,
    REG_MSR,
    REG_SRB,
    REG_TDR,
    SRB_DRIVE_1,
    SRB_FIXED,
    SRB_MOTORS,
    ST0_HEAD_SHIFT,
    ST0_POLLED,
    TDR_BOOT_SELECT,
    Phase,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.core.clock import Clock
    from vmmd.core.irq import IrqLine
    from vmmd.devices.floppy.transfer import Transfer
    from vmmd.devices.isa.i8257 import DmaChannel

DRIVES = 2
#: interrupts of polling after a reset: one for each drive that the chip could have (§5.2.4)
POLLED_DRIVES = 4


class Fdc:
    """The chip."""

    def __init__(self, clock: Clock, irq: IrqLine, dma: DmaChannel) -> None:
        self.clock = clock
        self.dma = dma
        self.drives = tuple(FloppyDrive() for _ in range(DRIVES))
        self._irq = irq
        self.id_timer = clock.timer(self._id_passes)
        self.transfer: Transfer | None = None
        self.phase = Phase.COMMAND
        self.cause = 0  # ST0 of the interrupt that is pending
        self._collected = bytearray()  # of a command
        self._results: list[int] = []
        self._polls_left = 0  # interrupts of a reset that the guest has not sensed
        self._current = 0  # the selected drive
        self._dor = DOR_NOT_RESET | DOR_DMA
        self.power_on()

    def power_on(self) -> None:
        """Everything as after power-on."""
        self._tdr = 0
        self._dsr = 0
        self.config = CONFIGURE_DEFAULT
        self.precompensation_track = 0
        self.locked = False
        self.step_rate = self.head_load = 0  # SPECIFY
        self.power_mode = 0
        self.end_of_track: int | None = None  # EOT or SC of the last command; None: as the diskette has it
        self.specifications = bytearray(POLLED_DRIVES)
        for drive in self.drives:
            drive.perpendicular = 0
        self.reset(interrupt=False)

    # -- registers -------------------------------------------------------------------------------------------

    def read(self, register: int) -> int:
        if register == REG_MSR:
            return self._main_status()
        if register == REG_FIFO:
            return self._read_fifo()
        if register == REG_DOR:
            return self._dor | self._current
        if register == REG_DIR:
            return DIR_CHANGED if self.drive.changed else 0
        return {REG_SRB: self._srb, REG_TDR: self._tdr}.get(register, 0)

    def write(self, register: int, value: int) -> None:
        if register == REG_DOR:
            self._write_dor(value)
        elif not self._dor & DOR_NOT_RESET:
            return  # held in reset
        elif register == REG_FIFO:
            self._write_fifo(value)
        elif register == REG_DSR:
            self._write_dsr(value)
        elif register == REG_CCR:
            self._dsr = self._dsr & ~DSR_RATE | value & DSR_RATE
        elif register == REG_TDR:
            self._tdr = value & TDR_BOOT_SELECT

    def _main_status(self) -> int:
        if self.phase is Phase.COMMAND:
            return MSR_READY | (MSR_BUSY if self._collected else 0)
        if self.phase is Phase.RESULT:
            return MSR_READY | MSR_TO_HOST | MSR_BUSY
        status = MSR_BUSY
        transfer = self.transfer
        if transfer is not None and not transfer.by_dma:
            status |= MSR_NON_DMA
            if transfer.gives_byte:
                status |= MSR_READY | MSR_TO_HOST
            elif transfer.takes_byte:
                status |= MSR_READY
        return status

    def _write_dor(self, value: int) -> None:
        self._srb = SRB_FIXED | value >> DOR_MOTOR_SHIFT & SRB_MOTORS | (SRB_DRIVE_1 if value & PARAMETER_DRIVE else 0)
        if not value & DOR_NOT_RESET:
            self._abort()
            self._irq.lower()
        elif not self._dor & DOR_NOT_RESET:
            self.reset(interrupt=True)
        self._dor = value
        self._current = value & PARAMETER_DRIVE

    def _write_dsr(self, value: int) -> None:
        if value & (DSR_RESET | DSR_POWER_DOWN):
            self.reset(interrupt=True)
        self._dsr = value & ~DSR_RESET

    @property
    def rate(self) -> int:
        """The data rate that the guest has chosen."""
        return self._dsr & DSR_RATE

    @property
    def uses_dma(self) -> bool:
        return bool(self._dor & DOR_DMA)

    def set_uses_dma(self, on: bool) -> None:
        """SPECIFY."""
        self._dor = self._dor | DOR_DMA if on else self._dor & ~DOR_DMA

    # -- the FIFO: parameters, results, data -----------------------------------------------------------------

    def _read_fifo(self) -> int:
        if self.phase is Phase.RESULT:
            value = self._results.pop(0)
            if not self._results:
                self.phase = Phase.COMMAND
                self._irq.lower()
            return value
        if self.transfer is not None and self.transfer.gives_byte:
            return self.transfer.give_byte()
        return 0

    def _write_fifo(self, value: int) -> None:
        if self.phase is Phase.COMMAND:
            self._collected.append(value)
            command = DECODED[self._collected[0]]
            if len(self._collected) > command.parameters or commands.is_complete(command, self._collected):
                collected, self._collected = bytes(self._collected), bytearray()
                commands.HANDLERS[command.name](self, collected)
        elif self.transfer is not None and self.transfer.takes_byte:
            self.transfer.take_byte(value)

    # -- for commands ----------------------------------------------------------------------------------------

    @property
    def numbered(self) -> tuple[FloppyDrive, ...]:
        """The drives by the number that commands give them: the boot select bit exchanges them (§2.1.4)."""
        return self.drives[::-1] if self._tdr & TDR_BOOT_SELECT else self.drives

    @property
    def drive(self) -> FloppyDrive:
        """The selected one."""
        return self.numbered[self._current]

    @property
    def unit(self) -> int:
        """Its number."""
        return self._current

    def select(self, parameter: int) -> FloppyDrive:
        """The drive that a command names."""
        self._current = parameter & PARAMETER_DRIVE
        return self.drive

    def answer(self, values: Iterable[int]) -> None:
        """Result phase of a command that needs no interrupt."""
        self._results = [value & 0xFF for value in values]
        self.phase = Phase.RESULT

    def finish(self, values: Iterable[int]) -> None:
        """Result phase of a command that the guest waits for."""
        self.transfer = None
        self.dma.request(False)
        self.answer(values)
        self.interrupt(0)

    def status0(self, bits: int) -> int:
        """ST0 with the selected drive and its head."""
        return bits | self.drive.head << ST0_HEAD_SHIFT | self._current

    def interrupt(self, cause: int) -> None:
        """Raise the interrupt; SENSE INTERRUPT STATUS tells ``cause``."""
        self._polls_left = 0
        self.cause = cause
        self._irq.raise_()

    def take_interrupt(self) -> int | None:
        """ST0 of the interrupt that is pending, which ends; None when there is none."""
        if self._polls_left:
            number = POLLED_DRIVES - self._polls_left
            self._polls_left -= 1
            self._irq.lower()
            return ST0_POLLED | number
        if not self._irq.level:
            return None
        self._irq.lower()
        return self.cause | self._current

    def start(self, transfer: Transfer) -> None:
        """Execution phase of a command that moves data."""
        self.phase = Phase.EXECUTION
        self.transfer = transfer
        transfer.start()

    def signal_data(self) -> None:
        """Non-DMA mode: the first byte can be read or written."""
        self._irq.raise_()

    # -- reset and what comes from elsewhere -----------------------------------------------------------------

    def reset(self, *, interrupt: bool) -> None:
        """§3: by DOR, DSR or the machine."""
        self._abort()
        self._irq.lower()
        self._dor = DOR_NOT_RESET | DOR_DMA
        self._srb = SRB_FIXED
        self._current = 0
        for drive in self.drives:
            drive.power_on()
        if interrupt:
            self.interrupt(0)
            self._polls_left = POLLED_DRIVES

    def _abort(self) -> None:
        """No command any more."""
        self.phase = Phase.COMMAND
        self._collected = bytearray()
        self._results = []
        self._polls_left = 0
        self.cause = 0
        self.id_timer.cancel()
        if self.transfer is not None:
            self.transfer.cancel()
            self.transfer = None
        self.dma.request(False)

    def _id_passes(self) -> None:
        commands.id_found(self)

    def dma_ready(self) -> None:
        """The guest has unmasked the DMA channel."""
        if self.transfer is not None and self.transfer.by_dma:
            self.transfer.go_on()

    def medium_changed(self, drive: FloppyDrive) -> None:
        """The host has put in or taken out a diskette; a command that was reading it fails."""
        drive.medium_changed()
        if self.transfer is not None and self.transfer.drive is drive:
            self.transfer.cancel()
            self.transfer.fail()

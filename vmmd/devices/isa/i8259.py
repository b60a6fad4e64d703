# SPDX-License-Identifier: Apache-2.0
"""Intel 8259A programmable interrupt controller, one chip; a PC has two of them.

Data sheet: Intel 231468 "8259A Programmable Interrupt Controller", the sections on ICW1-4 and OCW1-3, and for the
edge/level registers (ELCR) Intel 290550 (PIIX3), §2.5.5. Implemented: the initialisation sequence, masks, fixed and
rotating priorities, specific and non-specific EOI, automatic EOI with and without rotation, special mask mode, special
fully nested mode, poll, reading IRR, ISR and IMR, spurious interrupts, ELCR. Not: MCS-80 mode and buffered mode (no PC
has them: their bits have no effect), and LTIM, whose place ELCR takes in the PIIX3.

QEMU-COMPAT: an edge stays in IRR when its input falls before it was acknowledged; the special mask mode does not
keep a non-specific EOI from a masked level; both as in QEMU 7.2 and in KVM.

A reset is power-on state: nothing masked, no vector base, all edge triggered. A stopped machine
changes nothing. DeviceLock held throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.irq import PicState
from vmmd.core.props import BOOL, U8, U32, prop

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

INPUTS = 8
#: input of the master that the slave is wired to
CASCADE = 2
#: what an acknowledge finds when no input is pending any more
SPURIOUS = 7
NOT_MAPPED = 0xFFFF_FFFF

MASTER_PORT, SLAVE_PORT = 0x20, 0xA0
MASTER_ELCR_PORT, SLAVE_ELCR_PORT = 0x4D0, 0x4D1
#: bits of ELCR that can be set: not the timer, keyboard, cascade; not the clock, the FPU
MASTER_ELCR_MASK, SLAVE_ELCR_MASK = 0xF8, 0xDE

ICW1_SELECT = 0x10
ICW1_NEEDS_ICW4 = 0x01
ICW1_SINGLE = 0x02
ICW2_BASE = 0xF8
ICW4_AUTO_EOI = 0x02
ICW4_SPECIAL_NESTED = 0x10
OCW3_SELECT = 0x08
OCW3_READ_ISR = 0x01
OCW3_READ = 0x02
OCW3_POLL = 0x04
OCW3_SPECIAL_MASK = 0x20
OCW3_SET_SPECIAL_MASK = 0x40
OCW2_LEVEL = 0x07
OCW2_COMMAND_SHIFT = 5
#: OCW2 bits 7-5: rotate, specific, end of interrupt
ROTATE_AUTO_OFF, EOI, SPECIFIC_EOI, ROTATE_AUTO_ON, ROTATE_EOI, SET_PRIORITY, ROTATE_SPECIFIC_EOI = 0, 1, 3, 4, 5, 6, 7
#: answer to a poll: an interrupt is pending
POLL_PENDING = 0x80
#: what the next write to the odd port is
_OPERATION, _ICW2, _ICW3, _ICW4 = range(4)


class PicProps(Device.Props):
    """Of an 8259, in the kernel or not. The board says which of the two it is."""

    iobase = prop(U32, NOT_MAPPED, "first of two ports")
    elcr_addr = prop(U32, NOT_MAPPED, "port of the edge/level register", wire="elcr_addr")
    elcr_mask = prop(U8, 0xFF, "inputs that can be level triggered", wire="elcr_mask")
    master = prop(BOOL, False, "the chip that the CPU is wired to")

    def place(self, *, master: bool) -> None:
        """Be one of a PC's two."""
        self.master = master
        self.iobase = MASTER_PORT if master else SLAVE_PORT
        self.elcr_addr = MASTER_ELCR_PORT if master else SLAVE_ELCR_PORT
        self.elcr_mask = MASTER_ELCR_MASK if master else SLAVE_ELCR_MASK


class I8259(Device):
    """One chip. ``output(level)`` is its INT pin, wired by the board; told the same level again and again."""

    type_name = "isa-i8259"
    description = "interrupt controller 8259A"
    bus_type = "ISA"
    parent_type = "pic-common"

    class Props(PicProps):
        """As of every 8259."""

    props: Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.output: Callable[[int], None] = lambda level: None
        self._driven = 0
        self._inputs = 0  # edge sense: what has been up already
        self._irr = self._imr = self._isr = 0
        self.base = 0
        self._first = 0  # the input with the highest priority
        self._next_word = _OPERATION
        self._needs_icw4 = self._single = False
        self._auto_eoi = self._rotate_auto = False
        self._special_mask = self._special_nested = False
        self._read_isr = self._poll = False
        self._elcr = 0

    def realize(self) -> None:
        if self.props.iobase != NOT_MAPPED:
            self.claim_pio(IoRange(self.props.iobase, 2, self._read, self._write, name="pic", max_width=1))
        if self.props.elcr_addr != NOT_MAPPED:
            self.claim_pio(
                IoRange(self.props.elcr_addr, 1, lambda *_: self._elcr, self._write_elcr, name="elcr", max_width=1)
            )

    def reset(self, kind: ResetKind) -> None:
        self._elcr = 0
        self._initialise()

    def _initialise(self) -> None:
        """What ICW1 does: all but ELCR and pending levels. The edge sense circuits wait for a next edge."""
        self._irr &= self._elcr
        self._inputs = 0
        self._imr = self._isr = self.base = self._first = 0
        self._next_word = _OPERATION
        self._needs_icw4 = self._single = False
        self._auto_eoi = self._rotate_auto = False
        self._special_mask = self._special_nested = False
        self._read_isr = self._poll = False
        self._update()

    # -- inputs and the INT pin ------------------------------------------------------------------------------------

    def set_input(self, number: int, level: int) -> None:
        """Drive input 0-7."""
        bit = 1 << number
        if level:
            if self._elcr & bit or not self._inputs & bit:
                self._irr |= bit
            self._inputs |= bit
        else:
            if self._elcr & bit:
                self._irr &= ~bit
            self._inputs &= ~bit
        self._update()

    def _update(self) -> None:
        self._driven = 1 if self.pending() is not None else 0
        self.output(self._driven)

    def _rank(self, bits: int) -> int:
        """Rank (0 is the highest) of the most urgent of some inputs; 8 for none."""
        rotated = (bits >> self._first | bits << INPUTS - self._first) & 0xFF
        return (rotated & -rotated).bit_length() - 1 if rotated else INPUTS

    def pending(self) -> int | None:
        """The input that an acknowledge would take now."""
        rank = self._rank(self._irr & ~self._imr)
        if rank == INPUTS:
            return None
        in_service = self._isr
        if self._special_mask:
            in_service &= ~self._imr
        if self._special_nested and self.props.master:
            in_service &= ~(1 << CASCADE)
        return rank + self._first & 7 if rank < self._rank(in_service) else None

    def take(self) -> int:
        """The CPU acknowledges: the input that it gets, SPURIOUS when none is pending any more."""
        number = self.pending()
        if number is None:
            return SPURIOUS
        self._enter_service(number)
        return number

    def _enter_service(self, number: int) -> None:
        bit = 1 << number
        if not self._auto_eoi:
            self._isr |= bit
        elif self._rotate_auto:
            self._first = number + 1 & 7
        if not self._elcr & bit:
            self._irr &= ~bit
        self._update()

    # -- registers -------------------------------------------------------------------------------------------------

    def _read(self, offset: int, size: int) -> int:
        if self._poll:
            self._poll = False
            number = self.pending()
            if number is None:
                return 0
            self._enter_service(number)
            return POLL_PENDING | number
        if offset:
            return self._imr
        return self._isr if self._read_isr else self._irr

    def _write(self, offset: int, size: int, value: int) -> None:
        if offset:
            self._write_odd(value)
        elif value & ICW1_SELECT:
            self._initialise()
            self._next_word = _ICW2
            self._needs_icw4 = bool(value & ICW1_NEEDS_ICW4)
            self._single = bool(value & ICW1_SINGLE)
        elif value & OCW3_SELECT:
            self._ocw3(value)
        else:
            self._ocw2(value >> OCW2_COMMAND_SHIFT, value & OCW2_LEVEL)

    def _write_odd(self, value: int) -> None:
        after_icw3 = _ICW4 if self._needs_icw4 else _OPERATION
        if self._next_word == _OPERATION:
            self._imr = value
            self._update()
        elif self._next_word == _ICW2:
            self.base = value & ICW2_BASE
            self._next_word = after_icw3 if self._single else _ICW3
        elif self._next_word == _ICW3:  # who is wired to whom is the board's to say
            self._next_word = after_icw3
        else:
            self._special_nested = bool(value & ICW4_SPECIAL_NESTED)
            self._auto_eoi = bool(value & ICW4_AUTO_EOI)
            self._next_word = _OPERATION

    def _ocw3(self, value: int) -> None:
        if value & OCW3_POLL:
            self._poll = True
        if value & OCW3_READ:
            self._read_isr = bool(value & OCW3_READ_ISR)
        if value & OCW3_SET_SPECIAL_MASK:
            self._special_mask = bool(value & OCW3_SPECIAL_MASK)
            if self._driven != (self.pending() is not None):
                self._update()

    def _ocw2(self, command: int, level: int) -> None:
        if command in (ROTATE_AUTO_OFF, ROTATE_AUTO_ON):
            self._rotate_auto = command == ROTATE_AUTO_ON
        elif command in (EOI, ROTATE_EOI):
            rank = self._rank(self._isr)
            if rank != INPUTS:
                self._end(rank + self._first & 7, rotate=command == ROTATE_EOI)
        elif command in (SPECIFIC_EOI, ROTATE_SPECIFIC_EOI):
            self._end(level, rotate=command == ROTATE_SPECIFIC_EOI)
        elif command == SET_PRIORITY:
            self._first = level + 1 & 7
            self._update()

    def _end(self, number: int, *, rotate: bool) -> None:
        self._isr &= ~(1 << number)
        if rotate:
            self._first = number + 1 & 7
        self._update()

    def _write_elcr(self, offset: int, size: int, value: int) -> None:
        self.set_elcr(value)

    def set_elcr(self, levels: int) -> None:
        """Which inputs are level triggered."""
        self._elcr = levels & self.props.elcr_mask

    def state(self) -> PicState:
        """For people."""
        return PicState(
            irr=self._irr,
            imr=self._imr,
            isr=self._isr,
            first=self._first,
            base=self.base,
            read_isr=self._read_isr,
            elcr=self._elcr,
            special_nested=self._special_nested,
        )

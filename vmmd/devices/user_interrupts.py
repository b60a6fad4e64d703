# SPDX-License-Identifier: Apache-2.0
"""Interrupts of a machine whose controllers are devices of its own: implements ``core.irq.InterruptController``.

A GSI below 16 is an ISA interrupt and drives both an 8259 input and the I/O APIC's input of the same number; the
others go to the I/O APIC only. The board makes the chips and tells them here; until it has, inputs go nowhere.
``intr(level)`` is the pair's INT pin and ``deliver(address, data)`` takes messages: the accelerator sets both.

All methods run with the DeviceLock held, ``signal_msi`` too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.irq import ChipTypes
from vmmd.devices.ioapic import PINS
from vmmd.devices.isa.i8259 import CASCADE, INPUTS
from vmmd.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.irq import IoapicState, MsiRoute, PicState
    from vmmd.devices.ioapic import Ioapic
    from vmmd.devices.isa.i8259 import I8259


class UserInterrupts:
    """The chips and how they are wired."""

    types = ChipTypes("ioapic", "isa-i8259", "apic")

    def __init__(self, deliver: Callable[[int, int], None]) -> None:
        self._deliver = deliver
        self.intr: Callable[[int], None] = lambda level: None
        self._int_level = 0
        self.ioapic: Ioapic | None = None
        self._master: I8259 | None = None
        self._slave: I8259 | None = None

    # -- wiring, by the board --------------------------------------------------------------------------------------

    def connect_ioapic(self, ioapic: Ioapic) -> None:
        """The board's I/O APIC."""
        self.ioapic = ioapic
        ioapic.acknowledge = self.acknowledge

    def connect_pics(self, master: I8259, slave: I8259) -> None:
        """The board's 8259 pair."""
        self._master, self._slave = master, slave
        slave.output = lambda level: master.set_input(CASCADE, level)
        master.output = self._int_pin

    def _int_pin(self, level: int) -> None:
        if level != self._int_level:
            self._int_level = level
            self.intr(level)

    # -- InterruptController ---------------------------------------------------------------------------------------

    def set_gsi(self, gsi: int, level: int) -> None:
        if gsi < INPUTS:
            if (
                self._master is not None and gsi != CASCADE
            ):  # the slave has that input; a timer of the HPET may have the GSI
                self._master.set_input(gsi, level)
        elif gsi < 2 * INPUTS and self._slave is not None:
            self._slave.set_input(gsi - INPUTS, level)
        if self.ioapic is not None and gsi < PINS:
            self.ioapic.set_input(gsi, level)

    def signal_msi(self, address: int, data: int) -> None:
        self._deliver(address, data)

    def bind_msi(self, fd: int, address: int, data: int) -> MsiRoute:
        raise BackendError("no eventfd delivers interrupts to controllers in user space")

    # -- the CPU's side --------------------------------------------------------------------------------------------

    def acknowledge(self) -> int:
        """The interrupt acknowledge cycle: the vector of the 8259 pair, a spurious one when nothing is pending."""
        master, slave = self._master, self._slave
        if master is None or slave is None:
            return 0
        number = master.take()
        if number == CASCADE:
            return slave.base + slave.take()
        return master.base + number

    def end_of_interrupt(self, vector: int) -> None:
        """EOI of a level-triggered vector, as local APICs broadcast it."""
        if self.ioapic is not None:
            self.ioapic.end_of_interrupt(vector)

    # -- core.irq.Chips --------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Nothing: the chips are devices and reset as such."""

    def connect_pit(self, on: bool) -> None:
        """The board's own 8254 is told by the board."""

    def set_elcr(self, levels: int) -> None:
        """Which of the 16 ISA interrupts are level triggered."""
        if self._master is not None and self._slave is not None:
            self._master.set_elcr(levels & 0xFF)
            self._slave.set_elcr(levels >> 8)

    def ioapic_state(self) -> IoapicState | None:
        return self.ioapic.state() if self.ioapic is not None else None

    def pic_states(self) -> tuple[PicState, ...]:
        """Master, slave."""
        return tuple(each.state() for each in (self._master, self._slave) if each is not None)

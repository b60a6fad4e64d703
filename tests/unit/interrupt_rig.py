# SPDX-License-Identifier: Apache-2.0
"""The interrupt controllers of a board on fakes, wired as there."""

from __future__ import annotations

from tests.unit.fakes import make_context
from vmmd.core.device import ResetKind
from vmmd.devices.ioapic import Ioapic
from vmmd.devices.isa.i8259 import I8259
from vmmd.devices.user_interrupts import UserInterrupts

MASTER, SLAVE = 0x20, 0xA0
IOAPIC = 0xFEC0_0000
READ_IRR, READ_ISR = 0x0A, 0x0B


class Rig:
    """Two 8259 and an I/O APIC after power-on. ``intr``: every change of the INT pin; ``messages``: what was sent."""

    def __init__(self) -> None:
        self.machine = make_context()
        self.intr: list[int] = []
        self.messages: list[tuple[int, int]] = []
        self.interrupts = UserInterrupts(lambda address, data: self.messages.append((address, data)))
        self.interrupts.intr = self.intr.append
        self.machine.ctx.interrupts = self.interrupts
        self.pics = [self._pic(master=True), self._pic(master=False)]
        self.ioapic = Ioapic(Ioapic.Props(), self.machine.ctx)
        self.interrupts.connect_pics(*self.pics)
        self.interrupts.connect_ioapic(self.ioapic)
        for device in (*self.pics, self.ioapic):
            device.plug()
            device.reset(ResetKind.COLD)

    def _pic(self, *, master: bool) -> I8259:
        props = I8259.Props()
        props.place(master=master)
        return I8259(props, self.machine.ctx)

    def out(self, port: int, value: int) -> None:
        self.machine.pio.write(port, 1, value)

    def inb(self, port: int) -> int:
        return self.machine.pio.read(port, 1)

    def initialise(self, icw4: int = 1) -> None:
        """Vectors 20h and 28h, nothing masked."""
        for port, base, wiring in ((MASTER, 0x20, 4), (SLAVE, 0x28, 2)):
            self.out(port, 0x11)
            self.out(port + 1, base)
            self.out(port + 1, wiring)
            self.out(port + 1, icw4)
        self.intr.clear()

    def pulse(self, *gsis: int) -> None:
        for gsi in gsis:
            self.interrupts.set_gsi(gsi, 1)
            self.interrupts.set_gsi(gsi, 0)

    def isr(self, port: int = MASTER) -> int:
        self.out(port, READ_ISR)
        return self.inb(port)

    def irr(self, port: int = MASTER) -> int:
        self.out(port, READ_IRR)
        return self.inb(port)

    def window(self, register: int) -> int:
        self.machine.mmio.write(IOAPIC, 4, register)
        return self.machine.mmio.read(IOAPIC + 0x10, 4)

    def set_window(self, register: int, value: int) -> None:
        self.machine.mmio.write(IOAPIC, 4, register)
        self.machine.mmio.write(IOAPIC + 0x10, 4, value)

    def redirect(self, pin: int, low: int, destination: int = 0) -> None:
        self.set_window(0x11 + 2 * pin, destination << 24)
        self.set_window(0x10 + 2 * pin, low)

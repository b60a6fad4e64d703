# SPDX-License-Identifier: Apache-2.0
"""Intel 82093AA I/O APIC at FEC00000h: 24 inputs, each with a redirection entry that makes a message of it.

Data sheet: Intel 290566 "82093AA I/O Advanced Programmable Interrupt Controller", §3. Implemented: IOREGSEL, IOWIN,
ID, version, arbitration id, the redirection table with edge and level, remote IRR, masks, all delivery modes, and the
EOI register of version 20h. Messages are writes to FEExxxxxh as the inputs' entries ask for (Intel SDM vol. 3 §11.11).
The polarity bit is kept and has no effect: inputs are driven asserted or not.

QEMU-COMPAT, as measured: input 0 is wired to entry 2 (ISA interrupt 0 is the timer, firmware's tables say so). An edge
at a masked entry is lost (data sheet: it is not signalled); a level that is still there after its EOI is delivered
again. Unlike QEMU's, an input that is up when its entry becomes level-triggered is delivered, as the data sheet and KVM
have it: nobody would take its interrupt otherwise.

Reset: all entries masked, inputs forgotten. A stopped machine changes nothing. DeviceLock held throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.irq import IoapicState
from vmmd.core.props import U8, prop

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

BASE, SIZE = 0xFEC0_0000, 0x1000
PINS = 24
TIMER_INPUT, TIMER_PIN = 0, 2

# offsets in the page; the low 8 bits of the address are decoded
IOREGSEL, IOWIN, EOI = 0x00, 0x10, 0x40
_DECODED = 0xFF
# registers behind the window
REG_ID, REG_VERSION, REG_ARBITRATION, REG_TABLE = 0x00, 0x01, 0x02, 0x10
VERSION_WITH_EOI = 0x20

# a redirection entry
ENTRY_VECTOR = 0xFF
ENTRY_MODE_SHIFT, ENTRY_MODE = 8, 7
ENTRY_LOGICAL = 1 << 11
ENTRY_SENDING = 1 << 12  # delivery status: messages are sent at once, so it is never set
ENTRY_REMOTE_IRR = 1 << 14
ENTRY_LEVEL = 1 << 15
ENTRY_MASKED = 1 << 16
ENTRY_DESTINATION_SHIFT = 56
ENTRY_READ_ONLY = ENTRY_SENDING | ENTRY_REMOTE_IRR
MODE_EXTINT = 7

MSI_ADDRESS = 0xFEE0_0000
MSI_DESTINATION_SHIFT, MSI_LOGICAL = 12, 1 << 2
MSI_MODE_SHIFT, MSI_LEVEL = 8, 1 << 15


class Ioapic(Device):
    """The chip. Messages go to the machine's interrupts; ``watch(input, level)`` is told of each change of an input."""

    type_name = "ioapic"
    description = "I/O APIC 82093AA"
    parent_type = "ioapic-common"

    class Props(Device.Props):
        version = prop(U8, VERSION_WITH_EOI, "what the version register shows")

    props: Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.watch: Callable[[int, int], None] | None = None
        self.input_count = PINS
        #: ``routed(pin, message)`` is told what a level-triggered pin sends, None when it is masked or sends edges: for
        #: who has to tell the end of such interrupts
        self.routed: Callable[[int, tuple[int, int] | None], None] | None = None
        #: the vector for an entry of mode ExtINT: the 8259 pair's
        self.acknowledge: Callable[[], int] = lambda: 0
        self._levels = 0  # of the inputs, as driven
        self._up = 0  # the pins whose input is up
        self._id = 0
        self._selected = 0
        self._irr = 0
        self._entries = [ENTRY_MASKED] * PINS

    def realize(self) -> None:
        entry = IoRange(BASE, SIZE, self._read, self._write, name="ioapic", max_width=4)
        self.ctx.mmio.add(entry)
        self.on_undo(lambda: self.ctx.mmio.remove(entry))

    def reset(self, kind: ResetKind) -> None:
        self._id = self._selected = self._irr = 0
        self._entries = [ENTRY_MASKED] * PINS
        for pin in range(PINS):
            self._tell_route(pin)

    # -- inputs ----------------------------------------------------------------------------------------------------

    def set_input(self, number: int, level: int) -> None:
        """Drive input 0-23."""
        bit = 1 << number
        if self.watch is not None and bool(self._levels & bit) != bool(level):
            self.watch(number, 1 if level else 0)
        self._levels = self._levels | bit if level else self._levels & ~bit
        pin = TIMER_PIN if number == TIMER_INPUT else number
        bit, entry = 1 << pin, self._entries[pin]
        self._up = self._up | bit if level else self._up & ~bit
        if entry & ENTRY_LEVEL:
            self._irr = self._irr | bit if level else self._irr & ~bit
        elif level and not entry & ENTRY_MASKED:
            self._irr |= bit
        if level:
            self._service(pin)

    def _service(self, pin: int) -> None:
        """Send the message of a pin that has one to send."""
        bit, entry = 1 << pin, self._entries[pin]
        if not self._irr & bit or entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR):
            return
        if entry & ENTRY_LEVEL:
            self._entries[pin] = entry | ENTRY_REMOTE_IRR
        else:
            self._irr &= ~bit
        external = entry >> ENTRY_MODE_SHIFT & ENTRY_MODE == MODE_EXTINT
        self.ctx.interrupts.signal_msi(*_message(entry, self.acknowledge() if external else entry & ENTRY_VECTOR))

    def _tell_route(self, pin: int) -> None:
        if self.routed is not None:
            entry = self._entries[pin]
            routed = entry & ENTRY_LEVEL and not entry & ENTRY_MASKED
            self.routed(pin, _message(entry, entry & ENTRY_VECTOR) if routed else None)

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC (or the EOI register) says that a level-triggered vector is served."""
        for pin, entry in enumerate(self._entries):
            if entry & ENTRY_VECTOR == vector and entry & ENTRY_LEVEL and entry & ENTRY_REMOTE_IRR:
                self._entries[pin] = entry & ~ENTRY_REMOTE_IRR
                self._service(pin)

    # -- registers -------------------------------------------------------------------------------------------------

    def _read(self, offset: int, size: int) -> int:
        register = offset & _DECODED
        if register == IOREGSEL:
            return self._selected
        if register == IOWIN and size == 4:
            return self._read_window()
        return 0

    def _read_window(self) -> int:
        selected = self._selected
        if selected in (REG_ID, REG_ARBITRATION):
            return self._id << 24
        if selected == REG_VERSION:
            return self.props.version | PINS - 1 << 16
        pin = selected - REG_TABLE >> 1
        if 0 <= pin < PINS:
            return self._entries[pin] >> (32 if selected & 1 else 0) & 0xFFFF_FFFF
        return 0

    def _write(self, offset: int, size: int, value: int) -> None:
        register = offset & _DECODED
        if register == IOREGSEL:
            self._selected = value & 0xFF
        elif register == IOWIN and size == 4:
            self._write_window(value)
        elif register == EOI and size == 4 and self.props.version >= VERSION_WITH_EOI:
            self.end_of_interrupt(value & ENTRY_VECTOR)

    def _write_window(self, value: int) -> None:
        selected = self._selected
        if selected == REG_ID:
            self._id = value >> 24 & 0xF
            return
        pin = selected - REG_TABLE >> 1
        if not 0 <= pin < PINS:
            return
        entry = self._entries[pin]
        if selected & 1:
            entry = entry & 0xFFFF_FFFF | value << 32
        else:
            kept = entry & ENTRY_READ_ONLY
            entry = entry & ~0xFFFF_FFFF | value & ~ENTRY_READ_ONLY | kept
            if entry & ENTRY_LEVEL:
                self._irr |= self._up & 1 << pin
            else:  # remote IRR has no meaning for edges
                entry &= ~ENTRY_REMOTE_IRR
        self._entries[pin] = entry
        self._tell_route(pin)
        self._service(pin)

    def state(self) -> IoapicState:
        """For people."""
        return IoapicState(self.props.version, self._id, self._selected, self._irr, tuple(self._entries))


def _message(entry: int, vector: int) -> tuple[int, int]:
    """Address and data of what an entry sends."""
    address = MSI_ADDRESS | entry >> ENTRY_DESTINATION_SHIFT << MSI_DESTINATION_SHIFT
    data = vector | (entry >> ENTRY_MODE_SHIFT & ENTRY_MODE) << MSI_MODE_SHIFT
    if entry & ENTRY_LOGICAL:
        address |= MSI_LOGICAL
    if entry & ENTRY_LEVEL:
        data |= MSI_LEVEL
    return address, data

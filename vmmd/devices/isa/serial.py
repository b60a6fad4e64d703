# SPDX-License-Identifier: Apache-2.0
"""isa-serial: a 16550A UART (National PC16550D data sheet) on a character device.

Implemented: both FIFOs, trigger levels, receive time-out, line and modem status, loopback, divisor latch, scratch
register, break detection. A byte leaves at once, however the divisor is set, so the transmitter is empty whenever the
backend takes bytes; when it takes none, bytes wait in the transmit FIFO and THRE stays clear (back-pressure). The
divisor counts for the receive time-out. Modem inputs are fixed: DCD, DSR and CTS on.

Runs on vCPU threads (registers) and on the loop (``CharFrontend``, timer), always with the DeviceLock held.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from vmmd.core.address_space import IoRange
from vmmd.core.backend import CharEvent
from vmmd.core.device import Device, ResetKind
from vmmd.core.device_tree import device_node
from vmmd.core.props import BOOL, CHARDEV, U32, PropSet, prop
from vmmd.core.trace_events import SERIAL_READ, SERIAL_WRITE
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.core.backend import CharBackend
    from vmmd.core.clock import Timer
    from vmmd.core.device import DeviceContext
    from vmmd.core.irq import IrqLine
    from vmmd.core.props import Prop
    from vmmd.core.tree import Node

#: I/O base and interrupt of COM1 to COM4
COM_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))

REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR = range(8)

# §8.4 line status register
LSR_DR, LSR_OE, LSR_PE, LSR_FE, LSR_BI = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_THRE, LSR_TEMT, LSR_FIFO_ERROR = 0x20, 0x40, 0x80
LSR_ERRORS = LSR_OE | LSR_PE | LSR_FE | LSR_BI
LSR_SENT = LSR_THRE | LSR_TEMT

# §8.7 interrupt enable register
IER_RX, IER_TX, IER_LINE, IER_MODEM = 0x01, 0x02, 0x04, 0x08

# §8.6 interrupt identification: what the low four bits say, by priority
IIR_LINE, IIR_RX, IIR_TIMEOUT, IIR_TX, IIR_MODEM, IIR_NONE = 0x06, 0x04, 0x0C, 0x02, 0x00, 0x01
IIR_FIFO = 0xC0

# §8.5 FIFO control register
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 0x01, 0x02, 0x04
TRIGGERS = (1, 4, 8, 14)
FIFO_BYTES = 16

LCR_DLAB = 0x80
MCR_LOOP = 0x10
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_LINE = MSR_CTS | MSR_DSR | MSR_DCD  # the inputs outside loopback

#: flag of a received break in the receive FIFO
BREAK = 0x100

_BYTES = tuple(bytes([value]) for value in range(256))


#: introspection's number for a property that is left to vmmd
_OPEN = 0xFFFF_FFFF


class IsaSerial(Device):
    type_name: ClassVar[str] = "isa-serial"
    inner_type: ClassVar[str] = "serial"
    description: ClassVar[str] = "16550A UART"
    category: ClassVar[str] = "input"
    bus_type: ClassVar[str | None] = "ISA"
    user_creatable: ClassVar[bool] = True
    KEPT_AT_RESET: ClassVar[tuple[str, ...]] = ("lost_tx_bytes",)

    class Props(Device.Props):
        index = prop(U32, None, "COM port, counted from 0; without it the first free one", unset=_OPEN)
        iobase = prop(U32, None, "first of eight I/O ports (COM1: 0x3f8)", unset=_OPEN)
        irq = prop(U32, None, "ISA interrupt (COM1: 4)", unset=_OPEN)
        baudbase = prop(U32, 115200, "baud rate at divisor 1")
        chardev = prop(CHARDEV, None, "id of the character device that carries the bytes")
        wakeup = prop(BOOL, False, "input wakes the guest from sleep")

    props: Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.io_base = 0
        self.irq_number = 0
        self.lost_tx_bytes = 0  # written by the guest while THRE was clear and there was no room
        self._backend: CharBackend | None = None
        self._irq: IrqLine | None = None
        self._timer: Timer | None = None
        self._rx: deque[int] = deque()
        self._tx = bytearray()
        self._readers = (
            self._read_data, self._read_ier, self._read_iir, lambda: self._lcr, lambda: self._mcr,
            self._read_lsr, self._read_msr, lambda: self._scr,
        )  # fmt: skip
        self._writers = (
            self._write_data, self._write_ier, self._write_fcr, self._write_lcr, self._write_mcr,
            self._ignore, self._ignore, self._write_scr,
        )  # fmt: skip
        self._power_on()

    # -- life --------------------------------------------------------------------------------------------------

    def parts(self) -> Iterable[tuple[str, Node]]:
        return (("serial", device_node(self, None, self.inner_type, self.is_inner)),)

    @classmethod
    def is_inner(cls, declared: Prop[Any]) -> bool:
        return declared.wire_name in ("baudbase", "chardev", "wakeup")

    def realize(self) -> None:
        self._choose_port()
        if self.props.wakeup:
            raise UsageError("isa-serial: wakeup=on is not available in this version", "the machine has no sleep state")
        if not self.props.baudbase:
            raise UsageError("isa-serial: baudbase=0", "it takes a number from 1")
        if self.props.chardev is not None:
            backend = self.ctx.backends.chardev(self.props.chardev, self.inner_type)
            self.on_undo(lambda: self.ctx.backends.release(backend))
            backend.attach(self)
            self._backend = backend
            self.on_undo(self._detach)
            backend.set_open(True)
        self._irq = self.ctx.irqs.line(self.irq_number)
        self.on_undo(self._irq.lower)
        self._timer = self.ctx.clock.timer(self._timed_out)
        self.on_undo(self._timer.cancel)
        events = (SERIAL_READ, SERIAL_WRITE, self.name)
        self.claim_pio(IoRange(self.io_base, 8, self._read, self._write, name="serial", max_width=1, events=events))

    def _detach(self) -> None:
        if self._backend is not None:
            self._backend.detach()

    def replace_backend(self, backend: CharBackend) -> None:
        self._backend = backend

    def _choose_port(self) -> None:
        """I/O base and interrupt from index= or the first COM port whose I/O ports are free."""
        index = self.props.index
        if index is None and self.props.iobase is None:
            free = (n for n, (base, _) in enumerate(COM_PORTS) if self.ctx.pio.find(base) is None)
            index = next(free, len(COM_PORTS))
        if index is not None and index >= len(COM_PORTS):
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError(
                "Max. supported number of ISA serial ports is 4.", "give iobase= and irq= instead of index="
            )
        base, irq = COM_PORTS[index or 0]
        self.io_base = base if self.props.iobase is None else self.props.iobase
        self.irq_number = irq if self.props.irq is None else self.props.irq
        self.resolved |= {"index": index, "iobase": self.io_base, "irq": self.irq_number}
        if self.irq_number > 15:
            raise UsageError(f"isa-serial: irq={self.irq_number} is no ISA interrupt", "it takes a number from 0 to 15")
        if self.io_base > 0x10000 - 8:
            raise UsageError(f"isa-serial: iobase={self.io_base:#x} is no I/O port", "it takes a number up to 0xfff8")

    def _power_on(self) -> None:
        self._ier = 0
        self._iir = IIR_NONE
        self._lcr = 0
        self._mcr = 0x08  # QEMU-COMPAT: OUT2 is set at power-on
        self._lsr = LSR_SENT
        self._msr = MSR_LINE
        self._scr = 0
        self._divisor = 12
        self._fifo_on = False
        self._trigger = 1
        self._tx_pending = False  # the transmitter became empty and nobody has seen it in IIR
        self._timeout = False
        self._rbr = 0  # the last character received without FIFO, which stays readable
        self._rx.clear()
        self._tx.clear()

    def reset(self, kind: ResetKind) -> None:
        self._power_on()
        if self._timer is not None:
            self._timer.cancel()
        self._update()
        if self._backend is not None:
            self._backend.accept_input()

    # -- registers ---------------------------------------------------------------------------------------------

    def _read(self, offset: int, size: int) -> int:
        if offset == REG_LSR:
            lsr = self._lsr
            if lsr & LSR_ERRORS:
                return self._read_lsr()
            return lsr
        return self._readers[offset]()

    def _write(self, offset: int, size: int, value: int) -> None:
        self._writers[offset](value)

    def _ignore(self, value: int) -> None:
        """LSR and MSR: writes are for factory testing (§8.4); nothing happens."""

    def _write_scr(self, value: int) -> None:
        self._scr = value

    def _write_data(self, value: int) -> None:
        if self._lcr & LCR_DLAB:
            self._divisor = (self._divisor & 0xFF00) | value
            return
        if self._mcr & MCR_LOOP:
            self._put_rx(value)
            self._received()
        elif self._tx or (self._backend is not None and not self._backend.write(_BYTES[value])):
            self._hold_tx(value)
            return
        # sent: empty again, which is an interrupt of its own (§8.6)
        if not self._tx_pending or self._mcr & MCR_LOOP:
            self._tx_pending = True
            if self._ier:
                self._update()

    def _hold_tx(self, value: int) -> None:
        """The backend took nothing: keep the byte until ``write_ready``."""
        if len(self._tx) < (FIFO_BYTES if self._fifo_on else 1):
            self._tx.append(value)
        else:
            self.lost_tx_bytes += 1
        self._lsr &= ~LSR_SENT
        self._tx_pending = False
        self._update()

    def _read_data(self) -> int:
        if self._lcr & LCR_DLAB:
            return self._divisor & 0xFF
        rx = self._rx
        if not rx:
            return 0 if self._fifo_on else self._rbr
        value = rx.popleft() & 0xFF
        was_full = len(rx) + 1 >= (FIFO_BYTES if self._fifo_on else 1)
        self._timeout = False
        if not rx:
            self._lsr &= ~LSR_DR
            if self._timer is not None and self._timer.deadline_ns is not None:
                self._timer.cancel()
        else:
            self._show_top()
            self._arm_timeout()
        self._update()
        if self._backend is not None and (was_full or not rx):
            self._backend.accept_input()
        return value

    def _read_ier(self) -> int:
        return self._divisor >> 8 if self._lcr & LCR_DLAB else self._ier

    def _write_ier(self, value: int) -> None:
        if self._lcr & LCR_DLAB:
            self._divisor = (self._divisor & 0xFF) | value << 8
            return
        before, self._ier = self._ier, value & 0x0F
        if self._ier & ~before & IER_TX and self._lsr & LSR_THRE:
            self._tx_pending = True  # enabling it while empty interrupts at once (§8.7)
        if self._ier & ~before & IER_RX:
            self._arm_timeout()
        self._update()

    def _read_iir(self) -> int:
        value = self._iir
        if value == IIR_TX:
            self._tx_pending = False
            self._update()
        return value | IIR_FIFO if self._fifo_on else value

    def _write_fcr(self, value: int) -> None:
        enable = bool(value & FCR_ENABLE)
        if enable != self._fifo_on:
            value |= FCR_CLEAR_RX | FCR_CLEAR_TX  # changing the mode clears both (§8.5)
        self._fifo_on = enable
        self._trigger = TRIGGERS[value >> 6] if enable else 1
        if value & FCR_CLEAR_RX:
            self._rx.clear()
            # QEMU-COMPAT: clearing works without FCR0, too
            self._lsr &= ~(LSR_DR | LSR_BI | LSR_FIFO_ERROR)
            self._timeout = False
            if self._timer is not None:
                self._timer.cancel()
        if value & FCR_CLEAR_TX:
            self._tx.clear()
            self._lsr |= LSR_SENT
            self._tx_pending = True
        self._update()
        if self._backend is not None:
            self._backend.accept_input()

    def _write_lcr(self, value: int) -> None:
        self._lcr = value

    def _write_mcr(self, value: int) -> None:
        before, self._mcr = self._mcr, value & 0x1F
        self._set_modem_inputs()
        self._update()
        if before & MCR_LOOP and not value & MCR_LOOP and self._backend is not None:
            self._backend.accept_input()

    def _set_modem_inputs(self) -> None:
        """MSR follows its inputs and records changes (§8.9); in loopback these are the MCR outputs (§8.8)."""
        mcr = self._mcr
        if mcr & MCR_LOOP:
            lines = (mcr & 0x0C) << 4 | (mcr & 0x02) << 3 | (mcr & 0x01) << 5
        else:
            lines = MSR_LINE
        changed = (self._msr ^ lines) & 0xF0
        delta = changed >> 4
        if changed & MSR_RI and lines & MSR_RI:
            delta &= ~0x04  # only the trailing edge of RI counts
        self._msr = lines | (self._msr & 0x0F) | delta

    def _read_lsr(self) -> int:
        value = self._lsr
        if value & LSR_ERRORS:
            self._lsr &= ~(LSR_ERRORS | LSR_FIFO_ERROR)
            if self._rx and self._rx[0] & BREAK:
                self._rx[0] = 0
            if self._fifo_on and any(each & BREAK for each in self._rx):
                self._lsr |= LSR_FIFO_ERROR
            self._update()
        return value

    def _read_msr(self) -> int:
        value = self._msr
        if value & 0x0F:
            self._msr = value & 0xF0
            self._update()
        return value

    # -- interrupts --------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Find the interrupt of highest priority and drive the line (§8.6)."""
        ier = self._ier
        if ier & IER_LINE and self._lsr & LSR_ERRORS:
            iir = IIR_LINE
        elif ier & IER_RX and len(self._rx) >= self._trigger:
            iir = IIR_RX
        elif ier & IER_RX and self._timeout:
            iir = IIR_TIMEOUT
        elif ier & IER_TX and self._tx_pending:
            iir = IIR_TX
        elif ier & IER_MODEM and self._msr & 0x0F:
            iir = IIR_MODEM
        else:
            iir = IIR_NONE
        self._iir = iir
        if self._irq is not None:
            self._irq.set(0 if iir == IIR_NONE else 1)

    def _arm_timeout(self) -> None:
        """Four character times without receiver activity (§8.11), while fewer bytes wait than the trigger level."""
        if self._fifo_on and self._ier & IER_RX and 0 < len(self._rx) < self._trigger and self._timer is not None:
            bits = 7 + (self._lcr & 3) + (self._lcr >> 2 & 1) + (self._lcr >> 3 & 1)  # start, data, stop, parity
            char_ns = bits * max(self._divisor, 1) * 1_000_000_000 // self.props.baudbase
            self._timer.arm(self.ctx.clock.now_ns() + 4 * char_ns)

    def _timed_out(self) -> None:
        if self._rx:
            self._timeout = True
            self._update()

    # -- receiving ---------------------------------------------------------------------------------------------

    def _put_rx(self, value: int) -> None:
        """One character into the receiver."""
        rx = self._rx
        if len(rx) >= (FIFO_BYTES if self._fifo_on else 1):
            self._lsr |= LSR_OE
            if not self._fifo_on:
                rx[0] = self._rbr = value  # without FIFO the new character replaces the old one (§8.4)
            return
        rx.append(value)
        if not self._fifo_on:
            self._rbr = value & 0xFF
        self._lsr |= LSR_DR
        if value & BREAK and self._fifo_on:
            self._lsr |= LSR_FIFO_ERROR
        if len(rx) == 1:
            self._show_top()

    def _show_top(self) -> None:
        """The status of a character shows when it is the next to be read."""
        if self._rx[0] & BREAK:
            self._lsr |= LSR_BI

    def _received(self) -> None:
        if self._timer is not None and self._timer.deadline_ns is not None:
            self._timer.cancel()
        self._arm_timeout()
        self._update()

    # -- CharFrontend ------------------------------------------------------------------------------------------

    def can_receive(self) -> int:
        if self._mcr & MCR_LOOP:
            return 0  # the receiver is cut from the line
        return (FIFO_BYTES if self._fifo_on else 1) - len(self._rx)

    def receive(self, data: bytes) -> None:
        for value in data:
            self._put_rx(value)
        self._received()

    def handle_event(self, event: CharEvent) -> None:
        if event is CharEvent.BREAK and not self._mcr & MCR_LOOP:
            self._put_rx(BREAK)
            self._received()

    def write_ready(self) -> None:
        tx = self._tx
        if not tx or self._backend is None:
            return
        del tx[: self._backend.write(bytes(tx))]
        if not tx:
            self._lsr |= LSR_SENT
            self._tx_pending = True
            self._update()

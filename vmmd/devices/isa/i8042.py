# SPDX-License-Identifier: Apache-2.0
"""Intel 8042 keyboard controller, ports 60h and 64h, interrupts 1 and 12, with nothing plugged into it yet.

After the IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller". Implemented:
command byte and RAM, self and interface tests, input and output port, A20 and reset line, loop-back of both output
buffers. A byte for the keyboard or the mouse meets no device: the controller answers with FEh and the time-out bit
*at once*, where real hardware takes some milliseconds, so that firmware and kernels find out quickly. LIMIT: keyboard
and mouse come with issue 4. KVM has no A20 gate: the line is shown as set, memory does not wrap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device, ShutdownCause
from vmmd.core.trace import GUEST_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT_DATA = 0x60
PORT_COMMAND = 0x64
KEYBOARD_GSI = 1
AUX_GSI = 12

# status register (read of port 64h)
STATUS_OUTPUT_FULL = 0x01
STATUS_SYSTEM = 0x04  # self test passed
STATUS_COMMAND = 0x08  # the last write went to port 64h
STATUS_UNLOCKED = 0x10
STATUS_AUX = 0x20  # the byte in the output buffer is the auxiliary device's
STATUS_TIMEOUT = 0x40

# command byte
CB_KEYBOARD_INTERRUPT = 0x01
CB_AUX_INTERRUPT = 0x02
CB_SYSTEM = 0x04
CB_RESET = CB_KEYBOARD_INTERRUPT | CB_AUX_INTERRUPT
CB_KEYBOARD_DISABLE = 0x10
CB_AUX_DISABLE = 0x20

# output port
OUT_NOT_RESET = 0x01
OUT_A20 = 0x02
OUT_RESET = 0xCF  # as after power-on

CMD_READ_RAM = 0x20  # 20h-3Fh; byte 0 is the command byte
CMD_WRITE_RAM = 0x60  # 60h-7Fh
CMD_PULSE = 0xF0  # F0h-FFh: pull output port bits 0-3 low for a moment where the command's bit is 0

RAM_MASK = 0x1F
PASSED = 0x00
SELF_TEST_PASSED = 0x55
INPUT_PORT = 0x80  # keyboard not inhibited
RESEND = 0xFE
#: bytes waiting for port 60h; more are dropped, a guest that does not read loses them as on hardware
QUEUE_LIMIT = 16


class _Byte(NamedTuple):
    """One byte on its way to port 60h with the status bits that go with it."""

    value: int
    status: int


class I8042(Device):
    """The keyboard controller. The machine may set ``a20_changed`` before ``plug``."""

    type_name = "i8042"
    description = "PS/2 keyboard controller"
    category = "input"
    bus_type = "ISA"

    class Props(Device.Props):
        """No properties."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.a20_changed: Callable[[bool], None] = lambda enabled: None
        self._ram = bytearray(RAM_MASK + 1)
        self._output_port = OUT_RESET
        self._status = STATUS_UNLOCKED
        self._queue: list[_Byte] = []
        self._last_data = 0
        self._pending = 0  # command waiting for its data byte on port 60h; 0: none
        self._keyboard_irq = ctx.irqs.line(KEYBOARD_GSI)
        self._aux_irq = ctx.irqs.line(AUX_GSI)
        self._commands: dict[int, Callable[[], None]] = {
            0xA7: lambda: self._set_command_byte(self._ram[0] | CB_AUX_DISABLE),
            0xA8: lambda: self._set_command_byte(self._ram[0] & ~CB_AUX_DISABLE),
            0xA9: lambda: self._answer(PASSED),  # auxiliary interface test
            0xAA: self._self_test,
            0xAB: lambda: self._answer(PASSED),  # keyboard interface test
            0xAD: lambda: self._set_command_byte(self._ram[0] | CB_KEYBOARD_DISABLE),
            0xAE: lambda: self._set_command_byte(self._ram[0] & ~CB_KEYBOARD_DISABLE),
            0xC0: lambda: self._answer(INPUT_PORT),
            0xD0: lambda: self._answer(self._output_port),
            0xDD: lambda: self._set_output_port(self._output_port & ~OUT_A20),
            0xDF: lambda: self._set_output_port(self._output_port | OUT_A20),
            0xE0: lambda: self._answer(0),  # test inputs: both clock lines low
        }
        self._with_data: dict[int, Callable[[int], None]] = {
            0xD1: self._set_output_port,
            0xD2: self._answer,  # as if the keyboard had sent it
            0xD3: lambda value: self._answer(value, STATUS_AUX),  # as if the mouse had sent it
            0xD4: lambda value: self._answer(RESEND, STATUS_AUX | STATUS_TIMEOUT),  # to the mouse: nobody there
        }

    def realize(self) -> None:
        self._ram[0] = CB_RESET
        for port, read, write, name in (
            (PORT_DATA, self._data_read, self._data_write, "i8042-data"),
            (PORT_COMMAND, self._status_read, self._command_write, "i8042-cmd"),
        ):
            self.claim_pio(IoRange(port, 1, read, write, name=name, max_width=1))
        self.on_undo(self._lower)

    def _lower(self) -> None:
        self._keyboard_irq.lower()
        self._aux_irq.lower()

    def reset(self, kind: ResetKind) -> None:
        self._ram[:] = bytes(len(self._ram))
        self._ram[0] = CB_RESET
        self._output_port = OUT_RESET
        self._status = STATUS_UNLOCKED
        self._queue.clear()
        self._last_data = 0
        self._pending = 0
        self._update_irqs()

    # -- output buffer -------------------------------------------------------------------------------------

    def _answer(self, value: int, status: int = 0) -> None:
        """Queue a byte for port 60h."""
        if len(self._queue) < QUEUE_LIMIT:
            self._queue.append(_Byte(value & 0xFF, status))
        self._update_irqs()

    def _update_irqs(self) -> None:
        """Interrupts follow the head of the queue and the enable bits of the command byte."""
        full = bool(self._queue)
        aux = full and bool(self._queue[0].status & STATUS_AUX)
        control = self._ram[0]
        self._keyboard_irq.set(1 if full and not aux and control & CB_KEYBOARD_INTERRUPT else 0)
        self._aux_irq.set(1 if aux and control & CB_AUX_INTERRUPT else 0)

    def _data_read(self, offset: int, size: int) -> int:
        if self._queue:
            self._last_data = self._queue.pop(0).value
            self._lower()  # each byte is an edge of its own
            self._update_irqs()
        return self._last_data

    def _status_read(self, offset: int, size: int) -> int:
        if self._queue:
            return self._status | STATUS_OUTPUT_FULL | self._queue[0].status
        return self._status

    # -- commands ------------------------------------------------------------------------------------------

    def _command_write(self, offset: int, size: int, value: int) -> None:
        self._status |= STATUS_COMMAND
        self._pending = 0
        command = self._commands.get(value)
        if command is not None:
            command()
        elif value in self._with_data or value & ~RAM_MASK == CMD_WRITE_RAM:
            self._pending = value
        elif value & ~RAM_MASK == CMD_READ_RAM:
            self._answer(self._ram[value & RAM_MASK])
        elif value >= CMD_PULSE and not value & OUT_NOT_RESET:
            self.ctx.requests.request_reset(ShutdownCause.GUEST_RESET)
        elif value < CMD_PULSE and GUEST_ERRORS.on:
            GUEST_ERRORS(f"i8042: unknown command {value:#04x}")

    def _data_write(self, offset: int, size: int, value: int) -> None:
        self._status &= ~STATUS_COMMAND
        command, self._pending = self._pending, 0
        if not command:
            # to the keyboard, which enables its interface: nobody there
            self._set_command_byte(self._ram[0] & ~CB_KEYBOARD_DISABLE)
            self._answer(RESEND, STATUS_TIMEOUT)
        elif command in self._with_data:
            self._with_data[command](value)
        elif command == CMD_WRITE_RAM:
            self._set_command_byte(value)
        else:
            self._ram[command & RAM_MASK] = value

    def _set_command_byte(self, value: int) -> None:
        self._ram[0] = value & 0xFF
        if value & CB_SYSTEM:
            self._status |= STATUS_SYSTEM
        self._update_irqs()

    def _self_test(self) -> None:
        self._queue.clear()
        self._lower()
        self._status |= STATUS_SYSTEM  # QEMU-COMPAT: the command byte does not change
        self._answer(SELF_TEST_PASSED)

    def _set_output_port(self, value: int) -> None:
        changed = (self._output_port ^ value) & OUT_A20
        self._output_port = value & 0xFF
        if changed:
            self.a20_changed(bool(value & OUT_A20))
        if not value & OUT_NOT_RESET:
            self.ctx.requests.request_reset(ShutdownCause.GUEST_RESET)

# SPDX-License-Identifier: Apache-2.0
"""Intel 8042 keyboard controller, ports 60h and 64h, with a PS/2 keyboard and a PS/2 mouse (interrupts 1 and 12).

After the IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller". Implemented:
command byte and RAM, self and interface tests, input and output port, A20 and reset line, both output buffer
loop-backs, translation to scan code set 1. KVM has no A20 gate: the line is shown as set, memory does not wrap.

The output buffer holds one byte. When it is free, the controller's own answer goes first, then the keyboard or the
mouse: in turns while both have something. A device whose clock is disabled waits. An answer that was not read yet is
replaced by the next. QEMU-COMPAT: of a device's byte only the source is chosen then, the byte itself is taken when it
is read, so that an answer to a command overtakes keys that nobody has read.

``kbd-throttle`` keeps the next byte of the keyboard back for a millisecond, as the serial wire does, for guests that
expect it. A reset clears everything. ``extended-state=off``: as in QEMU before 6.0, the controller's answers queue up
behind what the devices have to send, and a disabled clock holds back only the keyboard's interrupt.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device, ShutdownCause
from vmmd.core.props import BOOL, U8, prop
from vmmd.core.trace import GUEST_ERRORS
from vmmd.core.trace_events import (
    PCKBD_KBD_READ_DATA,
    PCKBD_KBD_READ_STATUS,
    PCKBD_KBD_WRITE_COMMAND,
    PCKBD_KBD_WRITE_DATA,
)
from vmmd.devices.isa.ps2_keyboard import Ps2Keyboard
from vmmd.devices.isa.ps2_mouse import Ps2Mouse
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.clock import Timer
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT_DATA = 0x60
PORT_COMMAND = 0x64
ISA_IRQ_MAX = 15
THROTTLE_NS = 1_000_000

# status register (read of port 64h)
STATUS_OUTPUT_FULL = 0x01
STATUS_SYSTEM = 0x04  # self test passed
STATUS_COMMAND = 0x08  # the last write went to port 64h
STATUS_UNLOCKED = 0x10
STATUS_AUX = 0x20  # the byte in the output buffer is the auxiliary device's

# command byte
CB_KEYBOARD_INTERRUPT = 0x01
CB_AUX_INTERRUPT = 0x02
CB_SYSTEM = 0x04
CB_RESET = CB_KEYBOARD_INTERRUPT | CB_AUX_INTERRUPT
CB_KEYBOARD_DISABLE = 0x10
CB_AUX_DISABLE = 0x20
CB_TRANSLATE = 0x40
#: as SeaBIOS leaves it
CB_AFTER_FIRMWARE = CB_KEYBOARD_INTERRUPT | CB_AUX_DISABLE | CB_TRANSLATE

# output port
OUT_NOT_RESET = 0x01
OUT_A20 = 0x02
OUT_BUFFER_FULL = 0x10
OUT_AUX_BUFFER_FULL = 0x20
OUT_RESET = 0xCF  # as after power-on

CMD_READ_RAM = 0x20  # 20h-3Fh; byte 0 is the command byte
CMD_WRITE_RAM = 0x60  # 60h-7Fh
CMD_PULSE = 0xF0  # F0h-FFh: pull output port bits 0-3 low for a moment where the command's bit is 0

RAM_MASK = 0x1F
PASSED = 0x00
SELF_TEST_PASSED = 0x55
INPUT_PORT = 0x80  # keyboard not inhibited


class _Source(enum.Enum):
    """Whose byte is in the output buffer."""

    NONE = 0
    ANSWER = 1  # the controller's, as if from the keyboard
    AUX_ANSWER = 2  # the controller's, as if from the mouse
    KEYBOARD = 3
    AUX = 4


_ANSWERS = (_Source.ANSWER, _Source.AUX_ANSWER)
_FROM_AUX = (_Source.AUX_ANSWER, _Source.AUX)


class I8042(Device):
    """The keyboard controller. The machine may set ``a20_changed`` before ``plug``; ``keyboard`` and ``mouse`` are
    devices of their own to it."""

    type_name = "i8042"
    description = "PS/2 keyboard controller"
    category = "input"
    bus_type = "ISA"

    class Props(Device.Props):
        kbd_irq = prop(U8, 1, "interrupt of the keyboard")
        mouse_irq = prop(U8, 12, "interrupt of the mouse")
        extended_state = prop(BOOL, True, "the controller keeps its answers itself, not the devices' queues")
        kbd_throttle = prop(BOOL, False, "a byte of the keyboard comes a millisecond after the last one was read")

    props: Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.a20_changed: Callable[[bool], None] = lambda enabled: None
        self.keyboard = Ps2Keyboard(Ps2Keyboard.Props(), ctx)
        self.mouse = Ps2Mouse(Ps2Mouse.Props(), ctx)
        self.keyboard.changed = self.mouse.changed = self._fill
        self._ram = bytearray(RAM_MASK + 1)
        self._output_port = OUT_RESET
        self._status = STATUS_UNLOCKED
        self._source = _Source.NONE  # of the byte in the output buffer
        self._answer: tuple[int, _Source] | None = None  # waits for the output buffer
        self._data = 0  # in the output buffer, when it is the controller's, or read last
        self._pending = 0  # command waiting for its data byte on port 60h; 0: none
        self._throttle: Timer | None = None
        self._commands: dict[int, Callable[[], None]] = {
            0xA7: lambda: self._set_enables(self._ram[0] | CB_AUX_DISABLE),
            0xA8: lambda: self._set_enables(self._ram[0] & ~CB_AUX_DISABLE),
            0xA9: lambda: self._reply(PASSED),  # auxiliary interface test
            0xAA: self._self_test,
            0xAB: lambda: self._reply(PASSED),  # keyboard interface test
            0xAD: lambda: self._set_enables(self._ram[0] | CB_KEYBOARD_DISABLE),
            0xAE: lambda: self._set_enables(self._ram[0] & ~CB_KEYBOARD_DISABLE),
            0xC0: lambda: self._reply(INPUT_PORT),
            0xD0: lambda: self._reply(self._output_port),
            0xDD: lambda: self._set_output_port(self._output_port & ~OUT_A20),
            0xDF: lambda: self._set_output_port(self._output_port | OUT_A20),
            0xE0: lambda: self._reply(0),  # test inputs: both clock lines low
        }
        self._with_data: dict[int, Callable[[int], None]] = {
            0xD1: self._set_output_port,
            0xD2: self._reply,  # as if the keyboard had sent it
            0xD3: lambda value: self._reply(value, _Source.AUX_ANSWER),  # as if the mouse had sent it
            0xD4: self._to_mouse,
        }

    def realize(self) -> None:
        for name, irq in (("kbd-irq", self.props.kbd_irq), ("mouse-irq", self.props.mouse_irq)):
            if irq > ISA_IRQ_MAX:
                # QEMU-COMPAT: the sentence
                raise UsageError(f'Maximum value for "{name}" is: {ISA_IRQ_MAX}', "it is an ISA interrupt")
        self._keyboard_irq = self.ctx.irqs.line(self.props.kbd_irq)
        self._aux_irq = self.ctx.irqs.line(self.props.mouse_irq)
        if self.props.kbd_throttle:
            self._throttle = self.ctx.clock.timer(self._fill)
            self.on_undo(self._throttle.cancel)
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
        self.keyboard.reset(kind)
        self.mouse.reset(kind)
        self._ram[:] = bytes(len(self._ram))
        self._ram[0] = CB_RESET
        self.keyboard.translated = False
        self._output_port = OUT_RESET
        self._status = STATUS_UNLOCKED
        self._source = _Source.NONE
        self._answer = None
        self._data = 0
        self._pending = 0
        if self._throttle is not None:
            self._throttle.cancel()
        self._lower()
        self._fill()

    def skip_firmware(self) -> None:
        """To the state that firmware leaves: tested, keys translated to set 1. DeviceLock held."""
        self._status |= STATUS_SYSTEM
        self._set_command_byte(CB_AFTER_FIRMWARE)

    # -- output buffer -------------------------------------------------------------------------------------

    def _reply(self, value: int, source: _Source = _Source.ANSWER) -> None:
        """A byte of the controller's for port 60h."""
        if not self.props.extended_state:
            (self.mouse if source in _FROM_AUX else self.keyboard).insert(value & 0xFF)
            return
        if self._source in _ANSWERS:  # QEMU-COMPAT: it takes the place of the one that nobody has read
            self._data = value & 0xFF
            return
        self._answer = (value & 0xFF, source)
        self._fill()

    def _fill(self, after: _Source = _Source.NONE) -> None:
        """Choose what comes into the output buffer next, if it is free. ``after``: what was read just now."""
        if self._source is not _Source.NONE:
            return
        self._source = self._choose(after)
        if self._source is not _Source.NONE:
            self._output_port |= OUT_BUFFER_FULL | (OUT_AUX_BUFFER_FULL if self._source in _FROM_AUX else 0)
        self._update_irqs()

    def _choose(self, after: _Source) -> _Source:
        if self._answer is not None:
            (self._data, source), self._answer = self._answer, None
            return source
        control = self._ram[0] if self.props.extended_state else 0
        is_held = self._throttle is not None and self._throttle.deadline_ns is not None
        keyboard = self.keyboard.pending and not control & CB_KEYBOARD_DISABLE and not is_held
        mouse = self.mouse.pending and not control & CB_AUX_DISABLE
        if mouse and (after is _Source.KEYBOARD or not keyboard):
            return _Source.AUX
        return _Source.KEYBOARD if keyboard else _Source.NONE

    def _update_irqs(self) -> None:
        """Interrupts follow the output buffer and the bits of the command byte."""
        control = self._ram[0]
        is_full, is_aux = self._source is not _Source.NONE, self._source in _FROM_AUX
        keyboard = control & (CB_KEYBOARD_INTERRUPT | CB_KEYBOARD_DISABLE) == CB_KEYBOARD_INTERRUPT
        self._keyboard_irq.set(1 if is_full and not is_aux and keyboard else 0)
        self._aux_irq.set(1 if is_aux and control & CB_AUX_INTERRUPT else 0)

    def _data_read(self, offset: int, size: int) -> int:
        source, value = self._source, self._data
        if source is not _Source.NONE:
            self._output_port &= ~(OUT_BUFFER_FULL | OUT_AUX_BUFFER_FULL)
            self._lower()  # each byte is an edge of its own
            value = self._taken(source)
            self._source = _Source.NONE  # and not before: a device may queue more while its byte is taken
            self._fill(source)
        if PCKBD_KBD_READ_DATA.on:
            PCKBD_KBD_READ_DATA(value)
        return value

    def _taken(self, source: _Source) -> int:
        """The byte out of the output buffer."""
        if source is _Source.KEYBOARD:
            self._data = self.keyboard.take()
            if self._throttle is not None:
                self._throttle.arm(self.ctx.clock.now_ns() + THROTTLE_NS)
        elif source is _Source.AUX:
            self._data = self.mouse.take()
        return self._data

    def _status_read(self, offset: int, size: int) -> int:
        full = 0 if self._source is _Source.NONE else STATUS_OUTPUT_FULL
        value = self._status | full | (STATUS_AUX if self._source in _FROM_AUX else 0)
        if PCKBD_KBD_READ_STATUS.on:
            PCKBD_KBD_READ_STATUS(value)
        return value

    # -- commands ------------------------------------------------------------------------------------------

    def _command_write(self, offset: int, size: int, value: int) -> None:
        if PCKBD_KBD_WRITE_COMMAND.on:
            PCKBD_KBD_WRITE_COMMAND(value)
        self._status |= STATUS_COMMAND
        self._pending = 0
        command = self._commands.get(value)
        if command is not None:
            command()
        elif value in self._with_data or value & ~RAM_MASK == CMD_WRITE_RAM:
            self._pending = value
        elif value & ~RAM_MASK == CMD_READ_RAM:
            self._reply(self._ram[value & RAM_MASK])
        elif value >= CMD_PULSE and not value & OUT_NOT_RESET:
            self.ctx.requests.request_reset(ShutdownCause.GUEST_RESET)
        elif value < CMD_PULSE and GUEST_ERRORS.on:
            GUEST_ERRORS(f"i8042: unknown command {value:#04x}")

    def _data_write(self, offset: int, size: int, value: int) -> None:
        if PCKBD_KBD_WRITE_DATA.on:
            PCKBD_KBD_WRITE_DATA(value)
        self._status &= ~STATUS_COMMAND
        command, self._pending = self._pending, 0
        if not command:
            self.keyboard.receive(value)
            self._set_enables(self._ram[0] & ~CB_KEYBOARD_DISABLE)  # a byte for the keyboard enables its interface
        elif command in self._with_data:
            self._with_data[command](value)
        elif command == CMD_WRITE_RAM:
            self._set_command_byte(value)
        else:
            self._ram[command & RAM_MASK] = value

    def _to_mouse(self, value: int) -> None:
        self.mouse.receive(value)
        self._set_enables(self._ram[0] & ~CB_AUX_DISABLE)

    def _set_command_byte(self, value: int) -> None:
        self._ram[0] = value & 0xFF
        self.keyboard.translated = bool(value & CB_TRANSLATE)
        if value & CB_SYSTEM:
            self._status |= STATUS_SYSTEM
        self._update_irqs()
        self._fill()

    def _set_enables(self, value: int) -> None:
        """Enable or disable a device's clock. QEMU-COMPAT: the interrupt of a byte in the output buffer stays."""
        self._ram[0] = value & 0xFF
        self._fill()

    def _self_test(self) -> None:
        self._status |= STATUS_SYSTEM  # QEMU-COMPAT: command byte and output buffer do not change
        self._reply(SELF_TEST_PASSED)

    def _set_output_port(self, value: int) -> None:
        changed = (self._output_port ^ value) & OUT_A20
        self._output_port = value & 0xFF
        if changed:
            self.a20_changed(bool(value & OUT_A20))
        if not value & OUT_NOT_RESET:
            self.ctx.requests.request_reset(ShutdownCause.GUEST_RESET)

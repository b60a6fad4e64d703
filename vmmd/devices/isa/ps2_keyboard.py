# SPDX-License-Identifier: Apache-2.0
"""PS/2 keyboard with 101/102 keys and the keys of later ones, in scan code sets 1, 2 and 3.

After the IBM PS/2 Hardware Interface Technical Reference, "Keyboard": commands EDh to FFh, the buffer of 16 bytes,
the sequences of Print Screen, Pause and SysRq with their variants, and per-key modes of set 3. The self test is over
at once. Typematic: whoever presses the key repeats it (a person's own keyboard does, through VNC), so rate and delay
are taken and do nothing. Num Lock puts no shifts around the cursor keys, which guests do not need since they get E0h.

QEMU-COMPAT: a key whose code does not fit into the buffer any more is lost whole, without the overrun code 00h/FFh;
answers go before keys that wait, a new command drops an unread answer; enabling (F4h) keeps the buffer; byte 00h is
acknowledged. A reset lets all keys go and clears everything. While the guest is stopped no keys arrive
(``core.input``).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.input import KEY, KeyEvent, Leds
from vmmd.core.keycodes import PREFIX, scan_codes
from vmmd.devices.isa.ps2 import (
    ACKNOWLEDGE,
    COMMAND_RESEND,
    COMMAND_RESET,
    QUEUE_BYTES,
    RESEND,
    SELF_TEST_PASSED,
    SET2_BREAK,
    Ps2Device,
    translate,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.input import InputEvent
    from vmmd.core.props import PropSet

COMMAND_LEDS = 0xED
COMMAND_ECHO = 0xEE
COMMAND_SCAN_SET = 0xF0
COMMAND_IDENTIFY = 0xF2
COMMAND_TYPEMATIC = 0xF3
COMMAND_ENABLE = 0xF4
COMMAND_DISABLE = 0xF5
COMMAND_DEFAULTS = 0xF6
#: set 3, all keys: F7h typematic, F8h make and break, F9h make, FAh all of it; FBh to FDh one key's
COMMAND_ALL_TYPEMATIC = 0xF7
COMMAND_ALL_MAKE_BREAK = 0xF8
COMMAND_ALL_MAKE = 0xF9
COMMAND_ALL_FULL = 0xFA
COMMAND_KEY_TYPEMATIC = 0xFB
COMMAND_KEY_MAKE_BREAK = 0xFC
COMMAND_KEY_MAKE = 0xFD
_FIRST_COMMAND = COMMAND_LEDS

IDENTITY = (0xAB, 0x83)
LED_SCROLL, LED_NUM, LED_CAPS = 0x01, 0x02, 0x04
DEFAULT_SET = 2
SETS = (1, 2, 3)

_ALT = ("alt", "alt_r")
_CTRL = ("ctrl", "ctrl_r")
_SHIFT = ("shift", "shift_r")
_PRINT = ("print", "sysrq")
_SYSRQ_CODE = {1: 0x54, 2: 0x84}
_PAUSE = {1: bytes.fromhex("e11d45e19dc5"), 2: bytes.fromhex("e11477e1f014f077")}
_BREAK = {1: bytes.fromhex("e046e0c6"), 2: bytes.fromhex("e07ee0f07e")}  # Pause with Ctrl
_SET1_BREAK_BIT = 0x80
#: Korean LANG1 and LANG2 in set 2 make only
_MAKE_ONLY_CODES = (0xF1, 0xF2)


class _Mode(NamedTuple):
    """How a key behaves in set 3."""

    repeats: bool
    breaks: bool


_FULL = _Mode(repeats=True, breaks=True)
_TYPEMATIC = _Mode(repeats=True, breaks=False)
_MAKE_BREAK = _Mode(repeats=False, breaks=True)
_MAKE = _Mode(repeats=False, breaks=False)


_ALL_KEYS = {
    COMMAND_ALL_TYPEMATIC: _TYPEMATIC,
    COMMAND_ALL_MAKE_BREAK: _MAKE_BREAK,
    COMMAND_ALL_MAKE: _MAKE,
    COMMAND_ALL_FULL: _FULL,
}
_ONE_KEY = {
    COMMAND_KEY_TYPEMATIC: _TYPEMATIC,
    COMMAND_KEY_MAKE_BREAK: _MAKE_BREAK,
    COMMAND_KEY_MAKE: _MAKE,
}


class Ps2Keyboard(Ps2Device):
    """The keyboard. ``translated`` is the controller's: what is queued is what the guest will read."""

    type_name = "ps2-kbd"
    description = "PS/2 keyboard"

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.translated = False
        self._answer: deque[int] = deque()
        self._keys: deque[int] = deque()
        self._resendable = 0
        self._down: set[str] = set()
        self._parameter_of = 0  # command that waits for its parameter; 0: none
        self._set_defaults()
        self._commands: dict[int, Callable[[], None]] = {
            0: self._acknowledge,
            COMMAND_ECHO: lambda: self._reply(COMMAND_ECHO),
            COMMAND_IDENTIFY: lambda: self._reply(ACKNOWLEDGE, *IDENTITY),
            COMMAND_ENABLE: self._enable,
            COMMAND_DISABLE: lambda: self._back_to_defaults(scanning=False),
            COMMAND_DEFAULTS: lambda: self._back_to_defaults(scanning=True),
            COMMAND_RESEND: self._resend,
            COMMAND_RESET: self._self_test,
        }
        self._parameters: dict[int, Callable[[int], None]] = {
            COMMAND_LEDS: self._set_leds,
            COMMAND_SCAN_SET: self._choose_set,
            COMMAND_TYPEMATIC: lambda value: self._acknowledge(),
            **{command: partial(self._set_one_key, command) for command in _ONE_KEY},
        }

    def realize(self) -> None:
        self.on_undo(self.ctx.inputs.add("QEMU PS/2 Keyboard", {KEY}, self))

    def reset(self, kind: ResetKind) -> None:
        self._set_defaults()
        self._answer.clear()
        self._keys.clear()
        self._down.clear()
        self._parameter_of = 0
        self._last = self._resendable = 0
        self.ctx.inputs.set_leds(Leds())
        self.changed()

    def _set_defaults(self) -> None:
        self._scanning = True
        self._set = DEFAULT_SET
        self._mode = _FULL
        self._modes: dict[int, _Mode] = {}  # of single keys, by their code in set 3

    # -- to the controller ---------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        return bool(self._answer or self._keys)

    def _pop(self) -> int:
        value = (self._answer or self._keys).popleft()
        if value != RESEND:
            self._resendable = value
        return value

    def _reply(self, *values: int) -> None:
        """Answer a command; an answer that was not read yet is lost."""
        sent = bytes(values)
        self._answer = deque(translate(sent) if self.translated else sent)
        self.changed()

    def _acknowledge(self) -> None:
        self._reply(ACKNOWLEDGE)

    def _queue(self, sent: bytes) -> None:
        """Add the code of a key, all of it or nothing."""
        if self.translated:
            sent = translate(sent)
        if len(self._answer) + len(self._keys) + len(sent) <= QUEUE_BYTES:
            self._keys.extend(sent)
            self.changed()

    def insert(self, value: int) -> None:
        if len(self._answer) + len(self._keys) < QUEUE_BYTES:
            self._keys.append(value)
            self.changed()

    # -- commands ------------------------------------------------------------------------------------------

    def receive(self, value: int) -> None:
        command, self._parameter_of = self._parameter_of, 0
        if command in _ONE_KEY and value >= _FIRST_COMMAND:
            command = 0  # it ends the list of keys
        if command:
            self._parameters[command](value)
        elif value in self._parameters:
            self._parameter_of = value
            self._acknowledge()
        elif value in _ALL_KEYS:
            self._mode = _ALL_KEYS[value]
            self._modes.clear()
            self._acknowledge()
        else:
            self._commands.get(value, lambda: self._reply(RESEND))()

    def _enable(self) -> None:
        self._scanning = True
        self._acknowledge()

    def _back_to_defaults(self, *, scanning: bool) -> None:
        self._set_defaults()
        self._scanning = scanning
        self._keys.clear()
        self._acknowledge()

    def _resend(self) -> None:
        self._answer = deque((self._resendable,))  # as it was read: translated already
        self.changed()

    def _self_test(self) -> None:
        self._set_defaults()
        self._keys.clear()
        self.ctx.inputs.set_leds(Leds())
        self._reply(ACKNOWLEDGE, SELF_TEST_PASSED)

    def _set_leds(self, value: int) -> None:
        self.ctx.inputs.set_leds(Leds(bool(value & LED_SCROLL), bool(value & LED_NUM), bool(value & LED_CAPS)))
        self._acknowledge()

    def _choose_set(self, value: int) -> None:
        if value == 0:
            self._reply(ACKNOWLEDGE, self._set)
        elif value in SETS:
            self._set = value
            self._acknowledge()
        else:
            self._reply(RESEND)

    def _set_one_key(self, command: int, value: int) -> None:
        """A key of the list behind FBh to FDh; more may follow."""
        self._modes[value] = _ONE_KEY[command]
        self._parameter_of = command
        self._acknowledge()

    # -- keys ----------------------------------------------------------------------------------------------

    def input_event(self, event: InputEvent) -> None:
        if not isinstance(event, KeyEvent):
            return
        repeated = event.key in self._down
        (self._down.add if event.down else self._down.discard)(event.key)
        if not self._scanning:
            return
        if event.key in _PRINT and self._set != 3:
            self._queue(self._print(down=event.down))
        elif event.key == "pause" and self._set != 3:
            if event.down:
                self._queue((_BREAK if self._holds(_CTRL) else _PAUSE)[self._set])
        else:
            self._plain(event, repeated=repeated)

    def input_sync(self) -> None:
        """Keys go out one by one."""

    def _holds(self, keys: tuple[str, ...]) -> str | None:
        return next((key for key in keys if key in self._down), None)

    def _plain(self, event: KeyEvent, *, repeated: bool) -> None:
        """A key with one code."""
        codes = scan_codes().get(event.key)
        code = codes[self._set - 1] if codes is not None else 0
        if not code:
            return
        if self._set == 3:
            mode = self._modes.get(code, self._mode)
            if (repeated and event.down and not mode.repeats) or not (event.down or mode.breaks):
                return
        elif code in _MAKE_ONLY_CODES and not event.down:
            return
        self._queue(self._code(code, down=event.down))

    def _code(self, code: int, *, down: bool) -> bytes:
        """Make or break code in the current set."""
        prefix = bytes((PREFIX,)) if code >> 8 == PREFIX else b""
        code &= 0xFF
        if self._set == 1:
            return prefix + bytes((code if down else code | _SET1_BREAK_BIT,))
        return prefix + (b"" if down else bytes((SET2_BREAK,))) + bytes((code,))

    def _print(self, *, down: bool) -> bytes:
        """Print Screen, which is SysRq with Alt and has a shift around it without Shift and Ctrl."""
        codes = scan_codes()
        index = self._set - 1
        if alt := self._holds(_ALT):
            around = codes[alt][index]
            released, pressed = self._code(around, down=False), self._code(around, down=True)
            sysrq = self._code(_SYSRQ_CODE[self._set], down=down)
            return released + pressed + sysrq if down else sysrq + released + pressed
        own = self._code(codes["print"][index], down=down)
        if self._holds(_SHIFT) or self._holds(_CTRL):
            return own
        shift = self._code(PREFIX << 8 | codes["shift"][index], down=down)
        return shift + own if down else own + shift

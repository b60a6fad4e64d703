# SPDX-License-Identifier: Apache-2.0
"""PS/2 mouse: standard, with a wheel (IntelliMouse), with five buttons and two wheels (IntelliMouse Explorer).

After the IBM PS/2 Hardware Interface Technical Reference, "Auxiliary Device", and Microsoft's "Five-button mouse"
notes: sample rates 200, 100, 80 make it a wheel mouse (identity 3), 200, 200, 80 an Explorer (4). Stream, remote and
wrap mode, scaling 2:1 in stream mode. A report goes out with each movement, not by the sample rate; resolution is the
source's: both are taken, shown by the status request, and do nothing else.

Reports are whole or not there: what does not fit into the queue stays in the counters and follows when the guest has
read. A report carries up to ±127 counts (QEMU-COMPAT; hardware ±255) and further ones the rest, so the overflow bits
stay clear. Counters are bounded by COUNT_MAX. A reset clears everything; while the guest is stopped nothing moves
(``core.input``).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vmmd.core.input import BUTTON, RELATIVE, ButtonEvent, RelativeEvent
from vmmd.devices.isa.ps2 import (
    ACKNOWLEDGE,
    COMMAND_RESEND,
    COMMAND_RESET,
    QUEUE_BYTES,
    RESEND,
    SELF_TEST_PASSED,
    Ps2Device,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.input import InputEvent
    from vmmd.core.props import PropSet

COMMAND_SCALING_1 = 0xE6
COMMAND_SCALING_2 = 0xE7
COMMAND_RESOLUTION = 0xE8
COMMAND_STATUS = 0xE9
COMMAND_STREAM = 0xEA
COMMAND_READ = 0xEB
COMMAND_WRAP_OFF = 0xEC
COMMAND_WRAP = 0xEE
COMMAND_REMOTE = 0xF0
COMMAND_IDENTIFY = 0xF2
COMMAND_RATE = 0xF3
COMMAND_ENABLE = 0xF4
COMMAND_DISABLE = 0xF5
COMMAND_DEFAULTS = 0xF6

STANDARD, WHEEL, EXPLORER = 0, 3, 4
#: the last three sample rates that change what it is
_KNOCKS = {(200, 100, 80): WHEEL, (200, 200, 80): EXPLORER}

DEFAULT_RATE = 100
DEFAULT_RESOLUTION = 2  # 4 counts per mm

# first byte of the status
STATUS_RIGHT, STATUS_MIDDLE, STATUS_LEFT = 0x01, 0x02, 0x04
STATUS_SCALING, STATUS_ENABLED, STATUS_REMOTE = 0x10, 0x20, 0x40

# first byte of a report
REPORT_ALWAYS, REPORT_X_NEGATIVE, REPORT_Y_NEGATIVE = 0x08, 0x10, 0x20
#: fourth byte of an Explorer: buttons beside the wheel, or the horizontal wheel
REPORT_SIDE, REPORT_EXTRA, REPORT_HORIZONTAL = 0x10, 0x20, 0x40

LEFT, RIGHT, MIDDLE, SIDE, EXTRA = 0x01, 0x02, 0x04, 0x08, 0x10
_BUTTONS = {"left": LEFT, "right": RIGHT, "middle": MIDDLE, "side": SIDE, "extra": EXTRA}
_WHEELS = {"wheel-up": (-1, 0), "wheel-down": (1, 0), "wheel-left": (0, 1), "wheel-right": (0, -1)}

#: counts in one report
MOVE_MAX, WHEEL_MAX, EXPLORER_WHEEL_MAX, HORIZONTAL_MAX = 127, 127, 7, 31
COUNT_MAX = 0x7FFF
#: bytes of answers that fit behind a full queue of reports
ANSWER_BYTES = 8

#: scaling 2:1 of small counts; larger ones are doubled
_SCALED = (0, 1, 1, 3, 6, 9)


def _scaled(count: int) -> int:
    size = abs(count)
    made = _SCALED[size] if size < len(_SCALED) else 2 * size
    return made if count >= 0 else -made


def _bounded(count: int, limit: int) -> int:
    return max(-limit, min(limit, count))


class Ps2Mouse(Ps2Device):
    """The mouse."""

    type_name = "ps2-mouse"
    description = "PS/2 mouse"

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._queue: deque[int] = deque()
        self._answer: tuple[int, ...] = ()  # the last one, for a resend
        self._buttons = 0
        self._parameter_of = 0  # command that waits for its parameter; 0: none
        self._commands: dict[int, Callable[[], None]] = {
            COMMAND_SCALING_1: lambda: self._set_scaling(double=False),
            COMMAND_SCALING_2: lambda: self._set_scaling(double=True),
            COMMAND_STATUS: lambda: self._reply(ACKNOWLEDGE, self._status(), self._resolution, self._rates[-1]),
            COMMAND_STREAM: lambda: self._set_remote(remote=False),
            COMMAND_REMOTE: lambda: self._set_remote(remote=True),
            COMMAND_READ: lambda: self._reply(ACKNOWLEDGE, *self._report(double=False)),
            COMMAND_WRAP_OFF: lambda: self._reply(ACKNOWLEDGE),
            COMMAND_WRAP: self._wrap,
            COMMAND_IDENTIFY: lambda: self._reply(ACKNOWLEDGE, self._identity),
            COMMAND_ENABLE: self._enable,
            COMMAND_DISABLE: self._disable,
            COMMAND_DEFAULTS: self._defaults,
            COMMAND_RESEND: lambda: self._send(self._answer),
            COMMAND_RESET: self._self_test,
        }
        self._clear()

    def realize(self) -> None:
        self.on_undo(self.ctx.inputs.add("QEMU PS/2 Mouse", {BUTTON, RELATIVE}, self))

    def reset(self, kind: ResetKind) -> None:
        self._queue.clear()
        self._answer = ()
        self._buttons = self._last = 0
        self._clear()
        self.changed()

    def _clear(self) -> None:
        """What its self test does."""
        self._identity = STANDARD
        self._rates: deque[int] = deque((0, 0, DEFAULT_RATE), 3)
        self._resolution = DEFAULT_RESOLUTION
        self._enabled = self._remote = self._wrapped = self._double = False
        self._parameter_of = 0
        self._forget_movement()

    def _forget_movement(self) -> None:
        self._x = self._y = self._wheel = self._horizontal = 0
        self._unsent = False  # a report is due that the queue has no room for

    # -- to the controller ---------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        return bool(self._queue)

    def _pop(self) -> int:
        value = self._queue.popleft()
        if self._unsent:
            self._send_reports()
        return value

    def _reply(self, *values: int) -> None:
        """Answer a command."""
        self._answer = values
        self._send(values)

    def _send(self, values: tuple[int, ...]) -> None:
        if len(self._queue) + len(values) <= QUEUE_BYTES + ANSWER_BYTES:
            self._queue.extend(values)
            self.changed()

    def insert(self, value: int) -> None:
        if len(self._queue) < QUEUE_BYTES:
            self._send((value,))

    # -- commands ------------------------------------------------------------------------------------------

    def receive(self, value: int) -> None:
        command, self._parameter_of = self._parameter_of, 0
        if self._wrapped and value not in (COMMAND_WRAP_OFF, COMMAND_RESET):
            self._send((value,))
        elif command == COMMAND_RATE:
            self._set_rate(value)
        elif command == COMMAND_RESOLUTION:
            self._resolution = value
            self._reply(ACKNOWLEDGE)
        elif value in (COMMAND_RATE, COMMAND_RESOLUTION):
            self._parameter_of = value
            self._reply(ACKNOWLEDGE)
        else:
            self._wrapped = False
            self._commands.get(value, lambda: self._send((RESEND,)))()

    def _set_rate(self, rate: int) -> None:
        self._rates.append(rate)
        self._identity = _KNOCKS.get(tuple(self._rates), self._identity)  # type: ignore[arg-type]  # three of them
        self._reply(ACKNOWLEDGE)

    def _set_scaling(self, *, double: bool) -> None:
        self._double = double
        self._reply(ACKNOWLEDGE)

    def _set_remote(self, *, remote: bool) -> None:
        self._remote = remote
        self._reply(ACKNOWLEDGE)

    def _wrap(self) -> None:
        self._wrapped = True
        self._reply(ACKNOWLEDGE)

    def _enable(self) -> None:
        self._enabled = True
        self._reply(ACKNOWLEDGE)

    def _disable(self) -> None:
        self._enabled = False
        self._forget_movement()
        self._reply(ACKNOWLEDGE)

    def _defaults(self) -> None:
        """What F6h does: all but the identity."""
        identity = self._identity
        self._clear()
        self._identity = identity
        self._reply(ACKNOWLEDGE)

    def _self_test(self) -> None:
        self._queue.clear()
        self._clear()
        self._reply(ACKNOWLEDGE, SELF_TEST_PASSED, self._identity)

    def _status(self) -> int:
        status = STATUS_REMOTE if self._remote else 0
        status |= STATUS_ENABLED if self._enabled else 0
        status |= STATUS_SCALING if self._double else 0
        for button, bit in ((LEFT, STATUS_LEFT), (MIDDLE, STATUS_MIDDLE), (RIGHT, STATUS_RIGHT)):
            status |= bit if self._buttons & button else 0
        return status

    # -- movement ------------------------------------------------------------------------------------------

    def input_event(self, event: InputEvent) -> None:
        if isinstance(event, ButtonEvent):
            self._press(event)
        elif isinstance(event, RelativeEvent) and (self._enabled or self._remote):
            if event.axis == "x":
                self._x = _bounded(self._x + event.value, COUNT_MAX)
            else:  # the mouse counts upwards
                self._y = _bounded(self._y - event.value, COUNT_MAX)

    def _press(self, event: ButtonEvent) -> None:
        if event.button in _BUTTONS:
            bit = _BUTTONS[event.button]
            self._buttons = self._buttons | bit if event.down else self._buttons & ~bit
        elif event.down and (self._enabled or self._remote):
            wheel, horizontal = _WHEELS[event.button]
            self._wheel = _bounded(self._wheel + wheel, COUNT_MAX)
            self._horizontal = _bounded(self._horizontal + horizontal, COUNT_MAX)

    def input_sync(self) -> None:
        if self._enabled and not self._remote and not self._wrapped:
            self._unsent = True
            self._send_reports()

    def _send_reports(self) -> None:
        """As many reports as there is room for, until all is told."""
        size = 3 if self._identity == STANDARD else 4
        while self._unsent and len(self._queue) + size <= QUEUE_BYTES:
            self._queue.extend(self._report(double=self._double))
            self._unsent = bool(self._x or self._y or self._wheel or self._horizontal)
        self.changed()

    def _report(self, *, double: bool) -> tuple[int, ...]:
        """Take as much out of the counters as one report carries."""
        x, y = _bounded(self._x, MOVE_MAX), _bounded(self._y, MOVE_MAX)
        self._x -= x
        self._y -= y
        if double:
            x, y = _scaled(x), _scaled(y)
        first = REPORT_ALWAYS | self._buttons & (LEFT | RIGHT | MIDDLE)
        first |= (REPORT_X_NEGATIVE if x < 0 else 0) | (REPORT_Y_NEGATIVE if y < 0 else 0)
        return (first, x & 0xFF, y & 0xFF, *self._wheels())

    def _wheels(self) -> tuple[int, ...]:
        """The fourth byte, if there is one. Turns that it has no place for are lost."""
        if self._identity != EXPLORER:
            self._horizontal = 0
        if self._identity == STANDARD:
            self._wheel = 0
            return ()
        if self._identity == WHEEL:
            turned = self._turned(WHEEL_MAX)
            return (turned & 0xFF,)
        if self._horizontal:
            turned = _bounded(self._horizontal, HORIZONTAL_MAX)
            self._horizontal -= turned
            return (REPORT_HORIZONTAL | turned & 0x3F,)
        side = REPORT_SIDE if self._buttons & SIDE else 0
        extra = REPORT_EXTRA if self._buttons & EXTRA else 0
        return (self._turned(EXPLORER_WHEEL_MAX) & 0x0F | side | extra,)

    def _turned(self, limit: int) -> int:
        turned = _bounded(self._wheel, limit)
        self._wheel -= turned
        return turned

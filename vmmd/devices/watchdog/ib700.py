# SPDX-License-Identifier: Apache-2.0
"""iBASE IB700 watchdog timer (IB700 user's manual, "Watchdog timer configuration"; Linux Documentation/watchdog).

    443h  write: start, or start anew; the low four bits choose the time: 0 is 30 s, each step 2 s less, 0Fh is 0 s
    441h  write: stop

When the time is over, ``-action watchdog=`` says what follows. Both ports are write-only. A reset stops the timer; it
counts virtual time, so it stands still while the machine is stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import MASKS, IoRange
from vmmd.core.device import Device
from vmmd.core.trace import GUEST_ERRORS
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from vmmd.core.clock import Timer
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT_STOP = 0x441
PORT_START = 0x443
LONGEST_S = 30
STEP_S = 2
TIME_MASK = 0x0F


class Ib700(Device):
    """The ISA watchdog."""

    type_name = "ib700"
    description = "watchdog of the iBASE IB700 board"
    category = "watchdog"
    bus_type = "ISA"
    user_creatable = True

    class Props(Device.Props):
        """No properties."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._timer: Timer = ctx.clock.timer(self._expired)

    def realize(self) -> None:
        self.on_undo(self._timer.cancel)
        for port, write in ((PORT_STOP, self._stop), (PORT_START, self._start)):
            self.claim_pio(IoRange(port, 1, _read, write, name=self.type_name, max_width=1))

    def reset(self, kind: ResetKind) -> None:
        self._timer.cancel()

    def _stop(self, offset: int, size: int, value: int) -> None:
        self._timer.cancel()

    def _start(self, offset: int, size: int, value: int) -> None:
        seconds = LONGEST_S - STEP_S * (value & TIME_MASK)
        self._timer.arm(self.ctx.clock.now_ns() + seconds * NS_PER_S)

    def _expired(self) -> None:
        self.ctx.requests.request_watchdog()


def _read(offset: int, size: int) -> int:
    if GUEST_ERRORS.on:
        GUEST_ERRORS("ib700: a write-only port is read")
    return MASKS[size]

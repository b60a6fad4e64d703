# SPDX-License-Identifier: Apache-2.0
"""A device with one bug of each kind that the random-access suite must find; never in the registry."""

from __future__ import annotations

import time

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import enum_type, prop

PORT = 0x600
BUSY_S = 0.06


class BrokenDevice(Device):
    """Works, but for what ``bug`` names."""

    type_name = "broken-device"
    description = "a device with a bug"

    class Props(Device.Props):
        bug = prop(enum_type("Bug", "none", "raises", "lasts", "logs", "asks", "timer"), "none", "what is wrong")

    props: Props

    def realize(self) -> None:
        self._last = 0
        self._timer = self.ctx.clock.timer(self._fired)
        self.on_undo(self._timer.cancel)
        self.claim_pio(IoRange(PORT, 4, self._read, self._write, name="broken", max_width=1))

    def _fired(self) -> None:
        if self.props.bug == "timer":
            raise ZeroDivisionError("in a timer")

    def _read(self, offset: int, size: int) -> int:
        return self._last

    def _write(self, offset: int, size: int, value: int) -> None:
        self._last = value
        self._timer.arm(self.ctx.clock.now_ns() + 1000)
        if offset != 2 or value & 0x81 != 0x81:
            return
        if self.props.bug == "raises":
            raise IndexError("a bug")
        if self.props.bug == "lasts":
            end = time.process_time() + BUSY_S
            while time.process_time() < end:
                pass
        if self.props.bug == "logs":
            self.log.error("a bug was survived")
        if self.props.bug == "asks":
            self.ctx.requests.request_internal_error("a bug")

# SPDX-License-Identifier: Apache-2.0
"""The one register of pvpanic (QEMU's docs/specs/pvpanic): by it a guest says that it has panicked.

A read tells which events the device knows; a write reports them. Bit 0: the guest has panicked, the host decides what
follows. Bit 1: it has panicked and deals with it itself (kdump); the host only makes it known. Not implemented: bit 2
(guest shutdown), which QEMU 7.2 has not either. No state: nothing to reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.events import GuestCrashloadedEvent
from vmmd.core.trace import GUEST_ERRORS

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext

PANICKED = 0x01
CRASH_LOADED = 0x02
ALL_EVENTS = PANICKED | CRASH_LOADED


class PanicRegister:
    """``known``: what a read gives (property ``events``). DeviceLock held."""

    def __init__(self, ctx: DeviceContext, known: int) -> None:
        self._ctx = ctx
        self._known = known

    def read(self, offset: int, size: int) -> int:
        """The events that a guest may report."""
        return self._known

    def write(self, offset: int, size: int, value: int) -> None:
        """Report events; a panic stands above all else."""
        if value & ~ALL_EVENTS and GUEST_ERRORS.on:
            GUEST_ERRORS(f"pvpanic: unknown event {value & ~ALL_EVENTS:#x}")
        if value & PANICKED:
            self._ctx.requests.request_panic()
        elif value & CRASH_LOADED:
            self._ctx.events.emit(GuestCrashloadedEvent("run"))

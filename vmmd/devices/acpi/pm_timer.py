# SPDX-License-Identifier: Apache-2.0
"""The ACPI power management timer (ACPI 4.8.3.3, PIIX4 PMTMR): 24 bits at 3.579545 MHz, of virtual time.

Its status bit is not stored but follows from the time: TMR_STS is set when bit 23 has toggled since it was cleared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.clock import Clock

FREQUENCY_HZ = 3_579_545
_WIDTH_MASK = 0xFF_FFFF
_TOGGLE_BIT = 23


class PmTimer:
    """Counter, status bit and the wake-up for its interrupt. DeviceLock held."""

    __slots__ = ("_clock", "_now_ns", "_seen", "_timer")

    def __init__(self, clock: Clock, toggled: Callable[[], None]) -> None:
        """``toggled`` is called when TMR_STS rises while ``watch(True)`` is in force."""
        self._clock = clock
        self._now_ns = clock.now_ns
        self._timer = clock.timer(toggled)
        self._seen = 0  # toggles of bit 23 up to the last clear

    def ticks(self) -> int:
        """Ticks since the machine was made, not cut to 24 bits."""
        return self._now_ns() * FREQUENCY_HZ // NS_PER_S

    def value(self) -> int:
        """The register."""
        return self._now_ns() * FREQUENCY_HZ // NS_PER_S & _WIDTH_MASK

    @property
    def status(self) -> bool:
        """TMR_STS."""
        return self.ticks() >> _TOGGLE_BIT != self._seen

    def clear(self) -> None:
        """The guest wrote 1 to TMR_STS."""
        self._seen = self.ticks() >> _TOGGLE_BIT

    def watch(self, on: bool) -> None:
        """Wake up at the next toggle (TMR_EN is set and TMR_STS is not), or do not."""
        if not on or self.status:
            self._timer.cancel()
            return
        next_ticks = (self._seen + 1) << _TOGGLE_BIT
        deadline_ns = -(-next_ticks * NS_PER_S // FREQUENCY_HZ)  # rounded up: then the toggle is visible
        if self._timer.deadline_ns != deadline_ns:
            self._timer.arm(deadline_ns)

# SPDX-License-Identifier: Apache-2.0
"""The timer of a local APIC: initial count, current count, divider (Intel SDM vol. 3 §11.5.4), on a 1 GHz bus clock.

A period below 200 µs is 200 µs: the guest chooses it, and each end of one costs a turn of the loop. Ends that the loop
was too late for are one. DeviceLock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.clock import Clock

MIN_PERIOD_NS = 200_000
DIVIDE_WRITABLE = 0xB


class ApicTimer:
    """Counts down from ``initial_count``, once or again and again; ``fired()`` at each end, on the loop."""

    def __init__(self, clock: Clock, fired: Callable[[], None]) -> None:
        self._clock = clock
        self._fired = fired
        self._timer = clock.timer(self._expired)
        self._started_ns = 0
        self._ended = False  # a single count has come to its end
        self.initial_count = 0
        self.divide = 0  # the register
        self.periodic = False

    def reset(self) -> None:
        self._timer.cancel()
        self.initial_count = self.divide = 0
        self.periodic = self._ended = False

    def start(self, count: int) -> None:
        """The initial count is written; 0 stops."""
        self.initial_count = count
        self._ended = False
        self._started_ns = self._clock.now_ns()
        self._aim()

    def set_divide(self, value: int) -> None:
        self.divide = value & DIVIDE_WRITABLE
        self._aim()

    def set_periodic(self, periodic: bool) -> None:
        if periodic != self.periodic:
            self.periodic = periodic
            self._aim()

    @property
    def current_count(self) -> int:
        """What is left of the count under way."""
        if not self.initial_count or self._ended:
            return 0
        counts = (self._clock.now_ns() - self._started_ns) // self._divisor
        if self.periodic:
            return self.initial_count - counts % self.initial_count
        return max(0, self.initial_count - counts)

    @property
    def _divisor(self) -> int:
        code = self.divide & 3 | self.divide >> 1 & 4
        return 1 << (code + 1 & 7)

    @property
    def _length_ns(self) -> int:
        length_ns = self.initial_count * self._divisor
        return max(length_ns, MIN_PERIOD_NS) if self.periodic else length_ns

    def _aim(self) -> None:
        """Arm for the end of the count under way, which may have passed already: every count that begins ends."""
        self._ended = self._ended and not self.periodic
        if self.initial_count and not self._ended:
            self._timer.arm(self._started_ns + self._length_ns)
        else:
            self._timer.cancel()

    def _expired(self) -> None:
        if self.periodic:
            length_ns = self._length_ns
            self._started_ns += (self._clock.now_ns() - self._started_ns) // length_ns * length_ns
            self._timer.arm(self._started_ns + length_ns)
        else:
            self._ended = True
        self._fired()

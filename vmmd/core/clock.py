# SPDX-License-Identifier: Apache-2.0
"""Time as devices see it. Implemented by the event loop (``daemon``) and, for tests, by ``ManualClock``.

``virtual`` time stands still while the VM is stopped; ``host`` time is the wall clock (RTC ``clock=host``).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer(Protocol):
    """A one-shot timer. Its callback runs on the loop with the DeviceLock held."""

    def arm(self, deadline_ns: int) -> None:
        """Fire once when virtual time reaches ``deadline_ns`` (re-arms if armed). Any thread, lock held."""

    def cancel(self) -> None:
        """Do not fire. Any thread, lock held. After it returns the callback does not run any more."""

    @property
    def deadline_ns(self) -> int | None:
        """When it fires, or None."""


class Clock(Protocol):
    """Source of time and timers."""

    def now_ns(self) -> int:
        """Virtual time in nanoseconds since the machine was made. Any thread."""

    def host_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch (UTC). Any thread."""

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A new timer, not armed."""


class ManualTimer:
    """Timer of a ManualClock."""

    def __init__(self, clock: ManualClock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.callback = callback
        self._deadline: int | None = None

    @property
    def deadline_ns(self) -> int | None:
        return self._deadline

    def arm(self, deadline_ns: int) -> None:
        self._deadline = deadline_ns
        self._clock.schedule(self, deadline_ns)

    def cancel(self) -> None:
        self._deadline = None


class ManualClock:
    """A clock that the test (or the qtest client) moves."""

    def __init__(self, host_ns: int = 1_700_000_000 * 1_000_000_000) -> None:
        self._now = 0
        self._host_base = host_ns
        self._queue: list[tuple[int, int, ManualTimer]] = []
        self._sequence = 0

    def now_ns(self) -> int:
        return self._now

    def host_ns(self) -> int:
        return self._host_base + self._now

    def timer(self, callback: Callable[[], None]) -> ManualTimer:
        return ManualTimer(self, callback)

    def schedule(self, timer: ManualTimer, deadline_ns: int) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (deadline_ns, self._sequence, timer))

    def next_deadline(self) -> int | None:
        """The earliest armed deadline, or None."""
        while self._queue and self._queue[0][2].deadline_ns != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def advance(self, nanoseconds: int) -> None:
        """Move time on, firing due timers one at a time, each seeing the time it was due."""
        target = self._now + nanoseconds
        while (due := self.next_deadline()) is not None and due <= target:
            timer = heapq.heappop(self._queue)[2]
            self._now = max(self._now, due)
            timer.cancel()
            timer.callback()
        self._now = target

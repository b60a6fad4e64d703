# SPDX-License-Identifier: Apache-2.0
"""Virtual time that only the client moves. Loop thread; all but ``host_ns`` with the DeviceLock held.

Moving it to a point runs what is due on the way, one deadline at a time and in order, each timer seeing the time at
which it was due; one that arms itself again on the way runs again. That may be many: ``advance_to`` works in slices,
and the loop gets a turn between them. While the machine is stopped time can be moved too, but no timer runs, as in
QEMU: what has become due meanwhile runs when the machine does. Behind ``exact_expiries`` of one move the rest is one
step, which is logged: a timer of 10 ns would make an hour of a second. Devices catch up, counters stay exact.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vmmd.core.clock import EXACT_EXPIRIES, ManualClock
from vmmd.log import get_logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vmmd.core.clock import ClockTimer
    from vmmd.core.notify import LoopPort

log = get_logger("vmmd.qtest")

#: one slice of ``advance_to`` ends after so many timers, or so much time of the host
_SLICE_TIMERS = 256
_SLICE_NS = 5_000_000
#: timers of at most this frequency run one by one however long the move is, up to so many
_EXACT_PERIOD_NS = 50_000
EXACT_EXPIRIES_MAX = 250_000


def exact_expiries(move_ns: int) -> int:
    """How many timers of a move that far run one by one."""
    return min(EXACT_EXPIRIES + max(0, move_ns) // _EXACT_PERIOD_NS, EXACT_EXPIRIES_MAX)


class ClientClock(ManualClock):
    """``core.clock.MachineClock`` under the client's control."""

    def __init__(self, loop: LoopPort, lock: threading.Lock) -> None:
        super().__init__()
        self._loop = loop
        self._lock = lock
        self.on_failure: Callable[[str], None] | None = None
        self._frozen = True  # until the machine runs for the first time
        self._due_posted = False
        self._moving_to = 0
        self._exact_left = EXACT_EXPIRIES  # of this move

    def host_ns(self) -> int:
        return time.time_ns()

    def freeze(self) -> None:
        self._frozen = True

    def thaw(self) -> None:
        self._frozen = False
        self._run_soon()

    def next_deadline(self) -> int | None:
        return None if self._frozen else super().next_deadline()

    def schedule(self, timer: ClockTimer, deadline_ns: int) -> None:
        super().schedule(timer, deadline_ns)
        if deadline_ns <= self._now:  # due already: it needs no step of the client's
            self._run_soon()

    def _run_soon(self) -> None:
        if not self._due_posted:
            self._due_posted = True
            self._loop.post(self._run_due)

    def _run_due(self) -> None:
        """A turn of the loop of its own: timers that are due without time having moved."""
        with self._lock:
            self._due_posted = False
            done = self.advance_to(self._now)
            if not done:
                self._run_soon()

    def advance_to(self, target_ns: int) -> bool:
        """Move towards ``target_ns``, never back; True when time is there, False: call again after a turn."""
        stop_ns = time.monotonic_ns() + _SLICE_NS
        left = _SLICE_TIMERS
        if target_ns != self._moving_to:
            self._moving_to, self._exact_left = target_ns, exact_expiries(target_ns - self._now)
        while (due := self.next_deadline()) is not None and due <= target_ns:
            if not left or time.monotonic_ns() > stop_ns:
                return False
            left -= 1
            if self._exact_left > 0:
                self._exact_left -= 1
                if not self._exact_left:
                    log.warning(
                        "timers every few ns: from %d ns to %d ns is one step, take smaller ones", due, target_ns
                    )
            self._now = max(self._now, due if self._exact_left > 0 else target_ns)
            self._expire(self._pop())
        self._now = max(self._now, target_ns)
        return True

    def hurry(self) -> None:
        """The client has gone: nobody sees the edges of what is left of the move."""
        self._exact_left = 0

    def _expire(self, timer: ClockTimer) -> None:
        try:
            timer.expire()
        except Exception:  # a bug in one device must not stop everybody's time (architecture §3 L8)
            log.exception("a timer failed")
            if self.on_failure is not None:
                self._loop.post(self.on_failure, "a device's timer raised, see the log")

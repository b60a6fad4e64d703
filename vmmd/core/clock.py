# SPDX-License-Identifier: Apache-2.0
"""Time as devices see it. ``VirtualClock`` runs timers on the event loop; ``ManualClock`` is moved by a test.

``virtual`` time stands still while the VM is stopped; ``host`` time is the wall clock (RTC ``clock=host``).
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, Protocol

from vmmd.log import get_logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vmmd.core.notify import Cancellable, LoopPort

log = get_logger("vmmd.clock")

#: entries in a clock's queue before stale ones are looked for
_QUEUE_MIN = 64
#: The guest chooses the periods of its timers. After a turn that ran some, the loop does not wake for the next ones
#: sooner than this, and a clock that is moved runs so many of them one by one and the rest at the end of the move. Who
#: is late sees it (``now_ns`` is past the deadline) and catches up; counters follow from the time and stay exact.
_TURN_GAP_NS = 50_000
EXACT_EXPIRIES = 20_000


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


class MachineClock(Clock, Protocol):
    """A machine's clock, which stands still while the machine does."""

    #: told (on the loop, without the lock) when a timer's callback has raised: a bug of its device
    on_failure: Callable[[str], None] | None

    def freeze(self) -> None:
        """The machine stops. Loop thread, DeviceLock held."""

    def thaw(self) -> None:
        """The machine runs on. Loop thread, DeviceLock held."""


class Schedule(Protocol):
    """A clock that timers enter themselves into."""

    def schedule(self, timer: ClockTimer, deadline_ns: int) -> None: ...


class ClockTimer:
    """A timer of any clock here. An entry of the clock's queue counts while it has the timer's deadline."""

    __slots__ = ("_callback", "_clock", "_deadline")

    def __init__(self, clock: Schedule, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._deadline: int | None = None

    @property
    def deadline_ns(self) -> int | None:
        return self._deadline

    def arm(self, deadline_ns: int) -> None:
        if deadline_ns != self._deadline:
            self._deadline = deadline_ns
            self._clock.schedule(self, deadline_ns)

    def cancel(self) -> None:
        self._deadline = None

    def expire(self) -> None:
        """Run the callback (DeviceLock held); the timer is not armed any more, unless the callback arms it."""
        self._deadline = None
        self._callback()


#: (deadline, sequence number, timer), a heap
_Queue = list[tuple[int, int, ClockTimer]]


def _compact(queue: _Queue) -> int:
    """Drop the entries of timers that were cancelled or armed again: the guest chooses how often. The length at which
    to look again. Lock held."""
    valid = {id(timer): (due, number, timer) for due, number, timer in queue if timer.deadline_ns == due}
    queue[:] = valid.values()
    heapq.heapify(queue)
    return max(_QUEUE_MIN, 2 * len(queue))


class VirtualClock:
    """Host monotonic time minus the time spent stopped; timers run on the event loop under the DeviceLock."""

    def __init__(self, loop: LoopPort, lock: threading.Lock) -> None:
        self._loop = loop
        self._lock = lock
        #: told (on the loop, without the lock) when a timer's callback has raised: a bug of its device
        self.on_failure: Callable[[str], None] | None = None
        self._offset_ns = -time.monotonic_ns()
        self._frozen_at: int | None = 0
        self._queue: _Queue = []
        self._queue_limit = _QUEUE_MIN
        self._sequence = 0
        self._wake: Cancellable | None = None
        #: when the loop wakes, or will once a posted ``_rearm`` has run; DeviceLock
        self._wake_deadline: int | None = None
        self._rearm_posted = False

    def now_ns(self) -> int:
        frozen = self._frozen_at
        return time.monotonic_ns() + self._offset_ns if frozen is None else frozen

    def host_ns(self) -> int:
        return time.time_ns()

    def timer(self, callback: Callable[[], None]) -> ClockTimer:
        return ClockTimer(self, callback)

    def freeze(self) -> None:
        """Stop virtual time (VM stopped). Loop thread, DeviceLock held."""
        if self._frozen_at is None:
            self._frozen_at = time.monotonic_ns() + self._offset_ns

    def thaw(self) -> None:
        """Let virtual time run on from where it stood. Loop thread, DeviceLock held."""
        if self._frozen_at is not None:
            self._offset_ns = self._frozen_at - time.monotonic_ns()
            self._frozen_at = None
            if not self._rearm_posted:
                self._post_rearm()

    def schedule(self, timer: ClockTimer, deadline_ns: int) -> None:
        """Enter a timer. Any thread, DeviceLock held."""
        self._sequence += 1
        heapq.heappush(self._queue, (deadline_ns, self._sequence, timer))
        if len(self._queue) > self._queue_limit:
            self._queue_limit = _compact(self._queue)
        if not self._rearm_posted and (self._wake_deadline is None or deadline_ns < self._wake_deadline):
            self._post_rearm()

    def _post_rearm(self) -> None:
        self._rearm_posted = True
        self._loop.post(self._rearm)

    def _rearm(self, gap_ns: int = 0) -> None:
        """Point the loop's one wake-up at the earliest deadline, ``gap_ns`` from now at the soonest. Loop thread."""
        with self._lock:
            self._rearm_posted = False
            while self._queue and self._queue[0][2].deadline_ns != self._queue[0][0]:
                heapq.heappop(self._queue)
            due = self._queue[0][0] if self._queue and self._frozen_at is None else None
            # ORDERING: before the lock is let go, so that a thread that arms an earlier timer next sees what to beat
            self._wake_deadline = due
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if due is not None:
            self._wake = self._loop.call_later(max(gap_ns, due - self.now_ns()), self._expire)

    def _expire(self) -> None:
        """Run what is due by now, each timer under the lock. Loop thread."""
        self._wake = None
        limit_ns = self.now_ns()
        gap_ns = 0
        while True:
            failed = False
            with self._lock:
                if self._frozen_at is not None or not self._queue or self._queue[0][0] > limit_ns:
                    break
                deadline, _, timer = heapq.heappop(self._queue)
                if timer.deadline_ns == deadline:
                    gap_ns = _TURN_GAP_NS
                    try:
                        timer.expire()
                    except Exception:  # a bug in one device must not stop everybody's time (architecture §3 L8)
                        log.exception("a timer failed")
                        failed = True
            if failed and self.on_failure is not None:
                self.on_failure("a device's timer raised, see the log")
        self._rearm(gap_ns)


class ManualClock:
    """A clock that the test (or the qtest client) moves."""

    def __init__(self, host_ns: int = 1_700_000_000 * 1_000_000_000) -> None:
        self._now = 0
        self._host_base = host_ns
        self._queue: _Queue = []
        self._queue_limit = _QUEUE_MIN
        self._sequence = 0

    def now_ns(self) -> int:
        return self._now

    def host_ns(self) -> int:
        return self._host_base + self._now

    def timer(self, callback: Callable[[], None]) -> ClockTimer:
        return ClockTimer(self, callback)

    def schedule(self, timer: ClockTimer, deadline_ns: int) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (deadline_ns, self._sequence, timer))
        if len(self._queue) > self._queue_limit:
            self._queue_limit = _compact(self._queue)

    def next_deadline(self) -> int | None:
        """The earliest armed deadline, or None."""
        while self._queue and self._queue[0][2].deadline_ns != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def advance(self, nanoseconds: int) -> None:
        """Move time on, firing due timers one at a time, each seeing the time it was due (``EXACT_EXPIRIES``)."""
        target = self._now + nanoseconds
        for number in range(2 * EXACT_EXPIRIES):
            due = self.next_deadline()
            if due is None or due > target:
                break
            self._now = max(self._now, due) if number < EXACT_EXPIRIES else target
            self._pop().expire()
        self._now = target

    def _pop(self) -> ClockTimer:
        """Take the timer whose turn it is out of the queue."""
        return heapq.heappop(self._queue)[2]

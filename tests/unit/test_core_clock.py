# SPDX-License-Identifier: Apache-2.0
"""VirtualClock: one wake-up of the loop for all timers, whatever threads arm, cancel and fail meanwhile."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.unit.fakes import ImmediateLoop
from vmmd.core.clock import EXACT_EXPIRIES, ManualClock, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000_000


class HookedLock:
    """Calls ``after_release`` once behind the next release: what another thread does as soon as it gets the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.after_release: Callable[[], None] | None = None

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
        hook, self.after_release = self.after_release, None
        if hook is not None:
            hook()


def make() -> tuple[VirtualClock, ImmediateLoop, HookedLock]:
    loop, lock = ImmediateLoop(), HookedLock()
    loop.hold = True
    clock = VirtualClock(loop, lock)  # type: ignore[arg-type]  # what it uses of a lock
    with lock:
        clock.thaw()
    loop.run()
    return clock, loop, lock


def next_wake_ns(loop: ImmediateLoop) -> int | None:
    """When the loop will look at the clock, from now."""
    return min((delay for delay, _, _, handle in loop.later if not handle.cancelled), default=None)


def test_timer_armed_while_the_loop_sets_its_wake_up_is_not_forgotten():
    clock, loop, lock = make()
    fired: list[str] = []
    first = clock.timer(lambda: fired.append("first"))
    late = clock.timer(lambda: fired.append("late"))
    soon = clock.timer(lambda: fired.append("soon"))
    with lock:
        first.arm(clock.now_ns())
        late.arm(clock.now_ns() + 3600 * SECOND)
    loop.run()

    def other_thread() -> None:
        with lock:
            soon.arm(clock.now_ns() + SECOND)

    with lock:
        first.cancel()
    # between the moment the loop has seen that ``late`` is next and the moment it goes to sleep for an hour
    lock.after_release = other_thread
    clock._rearm()
    loop.run()
    wake = next_wake_ns(loop)
    assert wake is not None
    assert wake <= SECOND


@pytest.mark.parametrize("step_ns", [1, 0, -1])
def test_timer_that_the_guest_arms_again_and_again_takes_no_memory(step_ns: int):
    clock, loop, lock = make()
    timer = clock.timer(lambda: None)
    keeper = clock.timer(lambda: None)
    with lock:
        start = clock.now_ns() + 3600 * SECOND
        keeper.arm(start - SECOND)
        for turn in range(20_000):
            timer.arm(start + turn * step_ns)
        timer.cancel()
        for turn in range(20_000):
            timer.arm(start + turn * step_ns)
            timer.cancel()
        timer.arm(start)
    assert len(clock._queue) < 200
    assert timer.deadline_ns == start
    assert keeper.deadline_ns == start - SECOND
    assert len(loop.pending) <= 20_002


def test_timer_that_fails_does_not_stop_the_others():
    clock, loop, lock = make()
    fired: list[str] = []
    failures: list[str] = []
    clock.on_failure = failures.append

    def broken() -> None:
        raise ZeroDivisionError("a bug of a device")

    with lock:
        now = clock.now_ns()
        clock.timer(broken).arm(now)
        clock.timer(lambda: fired.append("behind")).arm(now + 1)
        clock.timer(lambda: fired.append("later")).arm(now + 5 * SECOND)
    loop.run()
    time.sleep(0.001)
    loop.run_later()
    assert fired == ["behind"]
    assert len(failures) == 1
    assert next_wake_ns(loop) is not None


def test_frozen_clock_fires_nothing_and_goes_on_where_it_stood():
    clock, loop, lock = make()
    fired: list[int] = []
    timer = clock.timer(lambda: fired.append(clock.now_ns()))
    with lock:
        timer.arm(clock.now_ns())
    loop.run()
    with lock:
        clock.freeze()
    frozen_at = clock.now_ns()
    loop.run_later()
    loop.run()
    assert not fired
    assert clock.now_ns() == frozen_at
    with lock:
        clock.thaw()
    loop.run()
    loop.run_later()
    assert len(fired) == 1
    assert 0 <= fired[0] - frozen_at < SECOND


def test_a_timer_that_is_always_due_leaves_the_loop_its_turns():
    """A turn ends although the timer arms itself again in the past, and the next one keeps a distance."""
    clock, loop, lock = make()
    fired: list[int] = []

    def again() -> None:
        fired.append(clock.now_ns())
        timer.arm(fired[-1] + 1)

    timer = clock.timer(again)
    with lock:
        timer.arm(clock.now_ns())
    loop.run()
    loop.run_later()
    loop.run()
    assert len(fired) == 1
    assert next_wake_ns(loop) == 50_000


def test_a_move_of_a_clock_runs_a_bounded_number_of_timers_one_by_one():
    clock = ManualClock()
    fired: list[int] = []

    def again() -> None:
        fired.append(clock.now_ns())
        timer.arm(clock.now_ns() + 10)

    timer = clock.timer(again)
    timer.arm(10)
    clock.advance(3600 * SECOND)
    assert fired[:3] == [10, 20, 30]
    assert len(fired) == EXACT_EXPIRIES + 1
    assert fired[-1] == clock.now_ns() == 3600 * SECOND

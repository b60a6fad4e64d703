# SPDX-License-Identifier: Apache-2.0
"""EventLoopPort on asyncio and uvloop: posting, and delays that are shorter than a loop's millisecond."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from vmmd.eventloop import EventLoopPort

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

MICROSECOND = 1_000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[EventLoopPort], Coroutine[Any, Any, None]]], None]:
    def run_story(story: Callable[[EventLoopPort], Coroutine[Any, Any, None]]) -> None:
        port = EventLoopPort()

        async def main() -> None:
            port.bind(asyncio.get_running_loop())
            await asyncio.wait_for(story(port), 10)

        loop = LOOPS[request.param]()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    return run_story


def test_short_delays_are_waited_for_without_spinning(run: Any) -> None:
    async def story(port: EventLoopPort) -> None:
        finished = asyncio.get_running_loop().create_future()
        left = 300

        def again() -> None:
            nonlocal left
            left -= 1
            if left:
                port.call_later(400 * MICROSECOND, again)
            else:
                finished.set_result(None)

        started, cpu = time.monotonic(), time.thread_time()
        again()
        await finished
        elapsed, used = time.monotonic() - started, time.thread_time() - cpu
        assert elapsed >= 299 * 400e-6  # none is early
        assert used < elapsed / 2, f"{used:.3f} s of CPU in {elapsed:.3f} s"

    run(story)


def test_short_delays_run_in_order_of_their_ends_and_can_be_cancelled(run: Any) -> None:
    async def story(port: EventLoopPort) -> None:
        ran: list[str] = []
        port.call_later(900 * MICROSECOND, ran.append, "last")
        port.call_later(300 * MICROSECOND, ran.append, "first")
        cancelled = port.call_later(200 * MICROSECOND, ran.append, "cancelled")
        second = port.call_later(600 * MICROSECOND, ran.append, "second")
        port.call_later(250 * MICROSECOND, second.cancel)
        cancelled.cancel()
        await asyncio.sleep(0.01)
        assert ran == ["first", "last"]

    run(story)


def test_callback_that_raises_is_told_once_in_vmmds_words(
    run: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    async def story(port: EventLoopPort) -> None:
        for _ in range(50):
            port.post(broken)
        await asyncio.sleep(0.01)

    run(story)
    printed = capfd.readouterr().err
    assert printed.startswith("vmmd: ")
    assert printed.count("ZeroDivisionError: a bug") == 1
    assert all(record.name.startswith("vmmd.") for record in caplog.records)


def test_what_was_posted_before_the_loop_ran_runs_first_and_in_order() -> None:
    port = EventLoopPort()
    ran: list[int] = []
    for number in range(3):
        port.post(ran.append, number)

    async def main() -> None:
        port.bind(asyncio.get_running_loop())
        port.post(ran.append, 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ran == [0, 1, 2, 3]

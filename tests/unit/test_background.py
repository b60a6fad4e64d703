# SPDX-License-Identifier: Apache-2.0
"""Work off the loop."""

from __future__ import annotations

import asyncio
import threading

import uvloop

from vmmd.core.background import once_on_thread
from vmmd.eventloop import EventLoopPort


def test_who_asks_while_it_runs_shares_the_run() -> None:
    port = EventLoopPort()
    threads: list[int] = []
    may_end = threading.Event()

    def slow() -> None:
        threads.append(threading.get_ident())
        assert may_end.wait(10)

    async def main() -> None:
        port.bind(asyncio.get_running_loop())
        asks = [asyncio.create_task(once_on_thread(port, slow, "slow")) for _ in range(20)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in asks)
        may_end.set()
        await asyncio.gather(*asks)
        assert len(threads) == 1
        await once_on_thread(port, slow, "slow")  # later: a run of its own
        assert len(threads) == 2

    uvloop.run(main())
    assert threading.get_ident() not in threads


def test_a_run_that_fails_lets_those_go_that_waited() -> None:
    port = EventLoopPort()

    def fails() -> None:
        raise ValueError("no")

    async def main() -> None:
        port.bind(asyncio.get_running_loop())
        asks = [asyncio.create_task(once_on_thread(port, fails, "fails")) for _ in range(3)]
        first, *others = await asyncio.gather(*asks, return_exceptions=True)
        assert isinstance(first, ValueError)
        assert others == [None, None]

    uvloop.run(main())

# SPDX-License-Identifier: Apache-2.0
"""Work that must not hold up the clients and the vCPUs: on a thread of its own, or in several turns of the loop."""

from __future__ import annotations

import threading
from time import monotonic_ns
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vmmd.core.notify import LoopPort, Promise

T = TypeVar("T")

#: work that a coroutine does in one turn of the loop
TURN_NS = 200_000


async def on_thread(loop: LoopPort, function: Callable[[], T], name: str) -> T:
    """What ``function`` returns or raises when it runs on a thread of its own. For a coroutine on the loop."""
    returned: list[T] = []
    raised: list[BaseException] = []
    finished = loop.create_future()

    def run() -> None:
        try:
            returned.append(function())
        except BaseException as error:
            raised.append(error)
        finally:
            loop.post(finished.set_result, None)

    threading.Thread(target=run, name=name, daemon=True).start()
    await finished
    if raised:
        raise raised[0]
    return returned[0]


#: runs of ``once_on_thread`` that are under way, by loop and function: who waits for them
_shared: dict[tuple[int, Callable[[], None]], list[Promise]] = {}


async def once_on_thread(loop: LoopPort, function: Callable[[], None], name: str) -> None:
    """``on_thread``; who asks while it runs waits for the same run. Many threads that import the same would keep the
    loop from the interpreter."""
    key = (id(loop), function)
    waiting = _shared.get(key)
    if waiting is not None:
        turn = loop.create_future()
        waiting.append(turn)
        await turn
        return
    waiting = _shared[key] = []
    try:
        await on_thread(loop, function, name)
    finally:
        del _shared[key]
        for each in waiting:
            each.set_result(None)


async def within(loop: LoopPort, limit_ns: int, work: Coroutine[object, object, object], name: str) -> bool:
    """Wait for ``work`` so long at most; True when it has ended. It goes on by itself otherwise; what it raises is
    logged. For a coroutine on the loop."""
    over = loop.create_future()
    ended = False

    async def run() -> None:
        nonlocal ended
        try:
            await work
        finally:
            ended = True
            finish()

    def finish() -> None:
        if not over.done():
            over.set_result(None)

    loop.spawn(run(), name)
    timer = loop.call_later(limit_ns, finish)
    await over
    timer.cancel()
    return ended


class Turn:
    """What a coroutine with much to do may do at once on the loop: it calls ``pause`` after every piece of its work."""

    def __init__(self, loop: LoopPort) -> None:
        self._loop = loop
        self._ends = monotonic_ns() + TURN_NS

    async def pause(self) -> None:
        """Let others on the loop have their turn when this one has taken its time."""
        if monotonic_ns() < self._ends:
            return
        others = self._loop.create_future()
        self._loop.post(others.set_result, None)
        await others
        self._ends = monotonic_ns() + TURN_NS

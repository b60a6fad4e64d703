# SPDX-License-Identifier: Apache-2.0
"""One sequence of operations, run at start and while the machine runs: a generator that yields what may block.

    def open_two(...) -> Steps[Node]:
        yield first.open                    # a function without arguments; its exception is raised here
        head = yield partial(first.head, 512)
        ...
        return node

``run_now`` calls what is yielded, ``run_later`` calls it on a thread while the loop goes on; everything between runs on
the loop, and other commands may run in between.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from vmmd.core.background import on_thread

if TYPE_CHECKING:
    from vmmd.core.notify import LoopPort

T = TypeVar("T")
Steps = Generator[Callable[[], Any], Any, T]


def run_now(steps: Steps[T]) -> T:
    """Blocks. Raises what the steps raise."""
    try:
        step = next(steps)
        while True:
            try:
                result = step()
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


async def run_later(loop: LoopPort, steps: Steps[T], name: str) -> T:
    """Raises what the steps raise. ``name``: of the thread."""
    try:
        step = next(steps)
        while True:
            try:
                result = await on_thread(loop, step, name)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        value: T = end.value
        return value

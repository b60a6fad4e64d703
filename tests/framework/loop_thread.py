# SPDX-License-Identifier: Apache-2.0
"""The event loop as a device sees it: a thread, so that a test is the vCPU and locks, hand-shakes and completions
interleave as in the real machine. ``LoopThread.settle`` waits until nothing is left to do."""

from __future__ import annotations

import os
import queue
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SETTLE_S = 10.0


class LoopThread:
    """LoopPort on a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Callable[..., None], tuple[object, ...]] | None] = queue.Queue()
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="test-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                item[0](*item[1])
            except BaseException as error:  # reported by settle()
                self.errors.append(error)
            finally:
                self._queue.task_done()

    def post(self, callback: Callable[..., None], *args: object) -> None:
        self._queue.put((callback, args))

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> Any:
        raise NotImplementedError("virtio devices use no host timers")

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        raise NotImplementedError("virtio devices read no host fds")

    def remove_reader(self, fd: int) -> None:
        raise NotImplementedError("virtio devices read no host fds")

    def on_loop_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[..., Any], *args: object) -> Any:
        """Run ``callback`` on the loop and return what it returns."""
        result: list[Any] = []
        done = threading.Event()

        def run() -> None:
            try:
                result.append(callback(*args))
            finally:
                done.set()

        self.post(run)
        if not done.wait(SETTLE_S):
            raise TimeoutError("the loop is stuck")
        self._check()
        return result[0]

    def settle(self) -> None:
        """Return when everything posted, and what that posts, has run. Raises what a callback raised."""
        with self._queue.all_tasks_done:
            if not self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, SETTLE_S):
                raise TimeoutError("the loop is stuck")
        self._check()

    def _check(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(SETTLE_S)
        self._check()


class LoopDoorbells:
    """DoorbellFactory: a guest write that matches posts the callback to the loop, as an ioeventfd does."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self.attached: dict[tuple[str, int, int | None], Callable[[], None]] = {}
        self.rings = 0

    def attach(
        self, space: str, address: int, size: int, datamatch: int | None, ring: Callable[[], None] | int
    ) -> LoopDoorbell:
        key = (space, address, datamatch)
        if key in self.attached:
            raise ValueError(f"two doorbells at {key}")
        self.attached[key] = partial(os.eventfd_write, ring, 1) if isinstance(ring, int) else ring
        return LoopDoorbell(self, key)

    def ring(self, space: str, address: int, value: int) -> bool:
        """True when a doorbell took the write."""
        callback = self.attached.get((space, address, None)) or self.attached.get((space, address, value))
        if callback is None:
            return False
        self.rings += 1
        self._loop.post(callback)
        return True


class LoopDoorbell:
    def __init__(self, factory: LoopDoorbells, key: tuple[str, int, int | None]) -> None:
        self._factory, self._key = factory, key

    def close(self) -> None:
        del self._factory.attached[self._key]

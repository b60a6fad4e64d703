# SPDX-License-Identifier: Apache-2.0
"""A LoopPort that a test turns by hand: real descriptors, no asyncio. ``until`` runs rounds up to a deadline."""

from __future__ import annotations

import selectors
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Handle:
    def __init__(self, due: float, callback: Callable[..., None], args: tuple[object, ...]) -> None:
        self.due, self.callback, self.args = due, callback, args

    def cancel(self) -> None:
        self.callback = lambda *_: None


class SelectLoop:
    runs = True

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.posted: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()
        self.timers: list[Handle] = []
        self.posts = 0
        self._thread = threading.get_ident()

    def post(self, callback: Callable[..., None], *args: object) -> None:
        self.posts += 1
        self.posted.append((callback, args))

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> Handle:
        handle = Handle(time.monotonic() + delay_ns / 1e9, callback, args)
        self.timers.append(handle)
        return handle

    def _set(self, fd: int, bit: int, callback: Callable[[], None] | None) -> None:
        try:
            data: dict[int, Any] = dict(self.selector.get_key(fd).data)
            self.selector.unregister(fd)
        except KeyError:
            data = {}
        if callback is None:
            data.pop(bit, None)
        else:
            data[bit] = callback
        if data:
            self.selector.register(fd, sum(data), data)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self._set(fd, selectors.EVENT_READ, callback)

    def remove_reader(self, fd: int) -> None:
        self._set(fd, selectors.EVENT_READ, None)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self._set(fd, selectors.EVENT_WRITE, callback)

    def remove_writer(self, fd: int) -> None:
        self._set(fd, selectors.EVENT_WRITE, None)

    def on_loop_thread(self) -> bool:
        return threading.get_ident() == self._thread

    def round(self, timeout_s: float = 0.0) -> int:
        """One round; returns how many callbacks ran."""
        ran = 0
        for _ in range(len(self.posted)):
            callback, args = self.posted.popleft()
            callback(*args)
            ran += 1
        now = time.monotonic()
        due = [each for each in self.timers if each.due <= now]
        self.timers = [each for each in self.timers if each.due > now]
        for each in due:
            each.callback(*each.args)
        ran += len(due)
        for key, mask in self.selector.select(timeout_s):
            for bit, callback in list(key.data.items()):
                if mask & bit:
                    callback()
                    ran += 1
        return ran

    def until(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        """Turn until ``condition()`` is true; fails the test at the deadline."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "the awaited condition did not come true"
            self.round(0.005)

    def settle(self, rounds: int = 20) -> int:
        """Turn for some rounds; returns how many callbacks ran."""
        return sum(self.round(0.001) for _ in range(rounds))

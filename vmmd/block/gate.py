# SPDX-License-Identifier: Apache-2.0
"""What makes requests wait for each other: writes one at a time, and a bound on the memory of copies."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import IoDone


class CopyBudget:
    """Bounds the memory of copies (safety.md P6): a request waits until the others left room for its own; one that is
    larger than the limit goes alone. Loop thread."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._waiting: deque[tuple[int, Callable[[IoDone], None], IoDone]] = deque()
        self._starting = False

    def run(self, size_bytes: int, start: Callable[[IoDone], None], done: IoDone) -> None:
        """Call ``start(ended)`` when there is room, in order; ``done`` gets what ``ended`` is given."""
        self._waiting.append((size_bytes, start, done))
        self._start_some()

    def _start_some(self) -> None:
        if self._starting:  # a request that ends at once comes here again: the loop below goes on
            return
        self._starting = True
        waiting = self._waiting
        while waiting and (not self._used_bytes or self._used_bytes + waiting[0][0] <= self._limit_bytes):
            size_bytes, start, done = waiting.popleft()
            self._used_bytes += size_bytes
            start(partial(self._ended, size_bytes, done))
        self._starting = False

    def _ended(self, size_bytes: int, done: IoDone, error: int) -> None:
        self._used_bytes -= size_bytes
        done(error)
        self._start_some()


class WriteGate:
    """Where host sectors are larger than the guest's, a write may need to read first: one at a time. Loop thread."""

    def __init__(self, align: int) -> None:
        self.mask = align - 1
        self._waiting: deque[tuple[Callable[[IoDone], None], IoDone]] = deque()
        self._busy = False

    def run(self, start: Callable[[IoDone], None], done: IoDone) -> None:
        """Call ``start(ended)`` when all earlier ones have ended; ``done`` gets what ``ended`` is given."""
        self._waiting.append((start, done))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        if not self._waiting:
            self._busy = False
            return
        self._busy = True
        start, done = self._waiting.popleft()

        def ended(error: int) -> None:
            done(error)
            self._next()

        start(ended)

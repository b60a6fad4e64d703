# SPDX-License-Identifier: Apache-2.0
"""Writes one at a time: where host sectors are larger than the guest's, so that a write may need to read first."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import IoDone


class WriteGate:
    """Loop thread."""

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

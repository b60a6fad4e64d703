# SPDX-License-Identifier: Apache-2.0
"""The engine when no ``aio=`` is given: threads for a disk that is hardly used, io_uring for a busy one.

Importing liburing costs about as much CPU time as 500 requests gain by it, so it waits until these were made; it is
imported on a pool thread. Where it is missing or not allowed everything stays with the threads. Loop thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.block.file import Engine
    from vmmd.block.pool import ThreadPool

#: Requests by threads before io_uring is tried
SWITCH_AFTER = 500


class AutoEngine:
    def __init__(self, pool: ThreadPool, make_uring: Callable[[], Engine]) -> None:
        """``make_uring`` raises BackendError where there is no io_uring."""
        self._pool = pool
        self._make_uring = make_uring
        self._left = SWITCH_AFTER
        self.name = "threads"

    def readv(self, fd: int, buffers: Sequence[memoryview], offset: int, finish: Callable[[int], None]) -> None:
        self._count()
        self._pool.readv(fd, buffers, offset, finish)

    def writev(
        self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int, finish: Callable[[int], None]
    ) -> None:
        self._count()
        self._pool.writev(fd, buffers, offset, flags, finish)

    def fsync(self, fd: int, finish: Callable[[int], None]) -> None:
        self._pool.fsync(fd, finish)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._pool.submit(self._imported, _import_liburing)

    def _imported(self, missing: int) -> None:
        """Back on the loop: from now on the nodes call the chosen engine's own methods."""
        engine: Engine = self._pool
        if not missing:
            try:
                engine = self._make_uring()
                self.name = "io_uring"
            except BackendError:
                pass  # not allowed here
        self.readv = engine.readv  # type: ignore[method-assign]
        self.writev = engine.writev  # type: ignore[method-assign]
        self.fsync = engine.fsync  # type: ignore[method-assign]


def _import_liburing() -> int:
    """0, or 1 when there is none. Blocks."""
    try:
        import liburing  # noqa: F401  # for its side effect: it is in sys.modules afterwards
    except ImportError:
        return 1
    return 0

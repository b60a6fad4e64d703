# SPDX-License-Identifier: Apache-2.0
"""Threads for host calls that may block (aio=threads, discard, zeroes): results come back through one eventfd.

Jobs are bounded by what the devices may have in flight (queue sizes); threads are made when needed, up to a limit.
``submit`` and the results: loop thread.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from vmmd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.notify import LoopPort

log = get_logger("vmmd.block")

#: More threads than this only wait for the GIL and the disk
THREADS_MAX = 8
#: Scheduler slice of the threads: they work for some 10 µs, and the guest waits for it
SLICE_NS = 100_000

#: function, arguments, what gets the result: a count, or a negative errno
Job = tuple["Callable[..., int | None]", tuple[Any, ...], "Callable[[int], None]"]


def report(sentence: str) -> None:
    """Log the exception being handled; a bug of vmmd."""
    log.exception(sentence)


class ThreadPool:
    """Also an engine: ``readv``, ``writev`` and ``fsync`` by threads."""

    name = "threads"

    def __init__(self, loop: LoopPort) -> None:
        self.loop = loop
        self._jobs: deque[Job] = deque()
        #: locks that idle threads wait for; the last one to become idle is warmest and gets the next job
        self._idle: list[threading.Lock] = []
        self._closing = False
        self._finished: deque[tuple[Callable[[int], None], int]] = deque()
        self._threads: list[threading.Thread] = []
        self._event = -1
        self._signalled = False
        self.in_flight = 0

    def submit(self, finish: Callable[[int], None], function: Callable[..., int | None], *args: Any) -> None:
        """Run ``function(*args)`` on a thread; ``finish`` gets its result (None is 0), or minus its OSError's errno."""
        self.in_flight += 1
        if self.in_flight > len(self._threads) and len(self._threads) < THREADS_MAX:
            self._add_thread()
        # ORDERING: append first, then look for a sleeper; a thread registers as one first, then looks for jobs
        self._jobs.append((function, args, finish))
        if self._idle:
            self._wake()

    def readv(self, fd: int, buffers: Sequence[memoryview], offset: int, finish: Callable[[int], None]) -> None:
        self.submit(finish, os.preadv, fd, buffers, offset)

    def writev(
        self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int, finish: Callable[[int], None]
    ) -> None:
        self.submit(finish, os.pwritev, fd, buffers, offset, flags)

    def fsync(self, fd: int, finish: Callable[[int], None]) -> None:
        self.submit(finish, os.fdatasync, fd)

    def _add_thread(self) -> None:
        if self._event < 0:
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self.loop.add_reader(self._event, self._reap)
        thread = threading.Thread(target=self._work, name=f"io/{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _wake(self) -> None:
        try:
            self._idle.pop().release()
        except IndexError:  # it found the job by itself
            pass

    def _work(self) -> None:
        from vmmd.core.scheduling import ask_for_short_slices

        ask_for_short_slices(SLICE_NS)
        gate = threading.Lock()
        gate.acquire()
        while True:
            self._run_jobs()
            self._idle.append(gate)
            if self._jobs or self._closing:
                try:
                    self._idle.remove(gate)
                except ValueError:
                    pass  # somebody wakes us: take it up
                else:
                    if self._jobs:
                        continue
                    return
            gate.acquire()

    def _run_jobs(self) -> None:
        """Run jobs until none is left."""
        jobs, finished = self._jobs, self._finished
        while jobs:
            try:
                function, args, finish = jobs.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                result = function(*args) or 0
            except OSError as error:
                result = -(error.errno or errno.EIO)
            except Exception:
                report("a disk request failed inside vmmd")
                result = -errno.EIO
            finished.append((finish, result))
            # ORDERING: append first, then look at the flag; the loop clears the flag first, then looks
            if not self._signalled:
                self._signalled = True
                os.eventfd_write(self._event, 1)
            del args, finish  # buffers of a finished request are not kept while waiting

    def _reap(self) -> None:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass
        self._signalled = False
        finished = self._finished
        while finished:
            finish, result = finished.popleft()
            self.in_flight -= 1
            try:
                finish(result)
            except Exception:
                report("the end of a disk request failed")

    def drain(self) -> None:
        """Wait until nothing is in flight. Blocks."""
        if not self.in_flight:
            return
        import select

        poller = select.poll()  # descriptors above 1023 are too many for select()
        poller.register(self._event, select.POLLIN)
        while self.in_flight:
            poller.poll(1000)
            self._reap()

    def close(self) -> None:
        """Drain, and end the threads. Idempotent."""
        self.drain()
        self._closing = True
        while self._idle:
            self._wake()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._closing = False
        if self._event >= 0:
            self.loop.remove_reader(self._event)
            os.close(self._event)
            self._event = -1

# SPDX-License-Identifier: Apache-2.0
"""iothread: a thread that runs work handed to it, with a short busy wait for the next piece before it sleeps."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from vmmd.log import get_logger
from vmmd.machine.objects.base import HostObject
from vmmd.options.objects import IoThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.props import Prop

log = get_logger("vmmd.machine")

_STOP_TIMEOUT_S = 5.0
_FIRST_POLL_NS = 4000
_GROW = 2
_BATCH = 32


class IoThreadObject(HostObject[IoThread]):
    """A worker thread. LIMIT: no device hands it work yet; their ``iothread=`` is refused."""

    def __init__(self, options: IoThread) -> None:
        super().__init__(options)
        self._work: deque[Callable[[], None]] = deque()
        self._bell = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=f"IO {options.id}", daemon=True)

    @property
    def thread_id(self) -> int:
        """The kernel's number of the thread."""
        return self._thread.native_id or 0

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._bell.set()
        self._thread.join(_STOP_TIMEOUT_S)
        if self._thread.is_alive():
            log.error("iothread '%s' does not end", self.id)

    def submit(self, work: Callable[[], None]) -> None:
        """Run ``work`` on the thread, in order. Any thread."""
        self._work.append(work)
        self._bell.set()

    def change(self, options: IoThread, declared: Prop[Any]) -> None:
        self.options = options  # one reference: the thread sees the new values in its next turn

    def _main(self) -> None:
        poll_ns = 0
        while not self._stopping:
            # ORDERING: clear before looking; work that comes between the two rings again
            self._bell.clear()
            done = self._run_batch()
            if self._work:
                continue
            if done or poll_ns:
                poll_ns = self._poll(poll_ns)
            if not self._work and not self._stopping:
                self._bell.wait()

    def _run_batch(self) -> int:
        limit = self.options.aio_max_batch or _BATCH
        done = 0
        while self._work and done < limit:
            work = self._work.popleft()
            done += 1
            try:
                work()
            except Exception:
                log.exception("iothread '%s': a piece of work failed", self.id)
        return done

    def _poll(self, poll_ns: int) -> int:
        """Wait busily for at most ``poll_ns``; returns for how long to do so the next time."""
        options = self.options
        if not options.poll_max_ns:
            return 0
        end_ns = time.monotonic_ns() + poll_ns
        while not self._work and not self._stopping and time.monotonic_ns() < end_ns:
            continue
        if self._work:  # it was worth it: be ready for a longer pause
            return min(max(poll_ns, _FIRST_POLL_NS) * (options.poll_grow or _GROW), options.poll_max_ns)
        return poll_ns // options.poll_shrink if options.poll_shrink else 0

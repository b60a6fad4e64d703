# SPDX-License-Identifier: Apache-2.0
"""Machine-wide effects that devices and vCPUs ask for: reset, shutdown, stop on error. Implements SystemRequests.

A request is noted on the thread that makes it, the vCPUs are told not to enter the guest again, and the loop carries
it out (``Vm``).
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vmmd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import ShutdownCause

log = get_logger("vmmd.machine")


class Pending(NamedTuple):
    """What was asked for, most severe first when several are pending."""

    exit_code: int | None = None
    shutdown: ShutdownCause | None = None
    internal_error: str | None = None
    panic: bool = False
    reset: ShutdownCause | None = None
    watchdog: bool = False
    io_error: bool = False


_NOTHING = Pending()


class Requests:
    """Collects requests (any thread) until the loop takes them."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """``wake`` makes the vCPUs park and posts the service to the loop. Any thread; never blocks."""
        self._wake = wake
        self._lock = threading.Lock()
        self._pending = _NOTHING
        self.resume_callbacks: list[Callable[[], None]] = []
        self.quiesce_callbacks: list[Callable[[Callable[[], None]], None]] = []
        #: those that have not called ``done`` yet in the quiesce that is under way, and its end
        self._quiescing: list[Callable[[Callable[[], None]], None]] = []
        self._quiesced: Callable[[], None] | None = None

    def request_reset(self, cause: ShutdownCause) -> None:
        self._note(reset=cause)

    def request_shutdown(self, cause: ShutdownCause) -> None:
        self._note(shutdown=cause)

    def request_exit_code(self, code: int) -> None:
        """End the process with this status (isa-debug-exit)."""
        self._note(exit_code=code)

    def request_io_error_stop(self) -> None:
        self._note(io_error=True)

    def request_panic(self) -> None:
        self._note(panic=True)

    def request_watchdog(self) -> None:
        self._note(watchdog=True)

    def request_internal_error(self, reason: str) -> None:
        log.error("%s", reason)
        self._note(internal_error=reason)

    def _note(self, **fields: object) -> None:
        with self._lock:
            self._pending = self._pending._replace(**fields)  # type: ignore[arg-type]  # field names are ours
        self._wake()

    def take(self) -> Pending:
        """All that is pending; it counts as served. Loop thread."""
        with self._lock:
            pending, self._pending = self._pending, _NOTHING
        return pending

    @property
    def any_pending(self) -> bool:
        """True while something has been asked for that ``take`` has not given out. Any thread."""
        return self._pending is not _NOTHING

    def on_resume(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.resume_callbacks.append(callback)
        return lambda: self.resume_callbacks.remove(callback)

    def on_quiesce(self, begin: Callable[[Callable[[], None]], None]) -> Callable[[], None]:
        self.quiesce_callbacks.append(begin)

        def undo() -> None:
            self.quiesce_callbacks.remove(begin)
            self._is_quiet(begin)  # one that is unplugged is not waited for

        return undo

    def quiesce(self, done: Callable[[], None]) -> None:
        """Bring every device to rest; ``done()`` when nothing is in flight. Loop thread, one at a time."""
        self._quiesced = done
        self._quiescing = list(self.quiesce_callbacks)
        if not self._quiescing:
            self._all_quiet()
        for begin in list(self._quiescing):
            begin(partial(self._is_quiet, begin))

    def _is_quiet(self, begin: Callable[[Callable[[], None]], None]) -> None:
        if begin in self._quiescing:
            self._quiescing.remove(begin)
            if not self._quiescing:
                self._all_quiet()

    def _all_quiet(self) -> None:
        done, self._quiesced = self._quiesced, None
        if done is not None:
            done()

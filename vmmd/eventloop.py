# SPDX-License-Identifier: Apache-2.0
"""The event loop's side of ``core.notify.LoopPort``: posting from any thread, readers, delays, tasks.

Made before asyncio is imported (start-up: sockets are bound and the machine is built first): what is posted or
registered early is kept and handed to the loop by ``bind``.
"""

from __future__ import annotations

import heapq
import threading
import time
from typing import TYPE_CHECKING, Any

from vmmd.log import RateLimiter, get_logger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from vmmd.core.notify import Cancellable, Promise

log = get_logger("vmmd.loop")

#: uvloop rounds delays to this; it would spin until a shorter one is over
LOOP_RESOLUTION_NS = 1_000_000


class _ShortCall:
    """One delayed call."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., None], args: tuple[object, ...]) -> None:
        self.callback: Callable[..., None] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None


class _ShortDelays:
    """Delays below the loop's resolution, on one timerfd (a guest's RTC may tick 8192 times a second). Loop thread."""

    def __init__(self, port: EventLoopPort) -> None:
        from vmmd.core.timerfd import TimerFd

        self._timer = TimerFd()
        self._queue: list[tuple[int, int, _ShortCall]] = []
        self._sequence = 0
        port.add_reader(self._timer.fd, self._fired)

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> _ShortCall:
        deadline_ns = time.monotonic_ns() + delay_ns
        call = _ShortCall(callback, args)
        self._sequence += 1
        heapq.heappush(self._queue, (deadline_ns, self._sequence, call))
        if self._queue[0][2] is call:
            self._timer.arm(deadline_ns)
        return call

    def _fired(self) -> None:
        self._timer.acknowledge()
        queue, now_ns = self._queue, time.monotonic_ns()
        due = []
        while queue and (queue[0][0] <= now_ns or queue[0][2].callback is None):
            due.append(heapq.heappop(queue)[2])
        if queue:
            self._timer.arm(queue[0][0])
        for call in due:
            if call.callback is not None:
                call.callback(*call.args)


class EventLoopPort:
    """LoopPort over an asyncio loop that may not exist yet."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.get_ident()
        self._early: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._early_lock = threading.Lock()
        self._tasks: set[asyncio.Task[object]] = set()
        self._short: _ShortDelays | None = None
        self._may_log = RateLimiter()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the event loop does not run yet")
        return self._loop

    @property
    def runs(self) -> bool:
        return self._loop is not None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs now, on the calling thread: give it all that was posted early."""
        with self._early_lock:
            self._loop = loop
            self._thread = threading.get_ident()
            early, self._early = self._early, []
        loop.set_exception_handler(self._unhandled)
        for callback, arguments in early:
            loop.call_soon(callback, *arguments)

    def post(self, callback: Callable[..., None], *args: object) -> None:
        loop = self._loop
        if loop is None:
            with self._early_lock:
                if self._loop is None:
                    self._early.append((callback, args))
                    return
                loop = self._loop
        if threading.get_ident() == self._thread:
            loop.call_soon(callback, *args)
            return
        try:
            loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: the process is ending
            log.debug("posted after the end of the loop: %r", callback)

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> Cancellable:
        if 0 < delay_ns < LOOP_RESOLUTION_NS:
            if self._short is None:
                self._short = _ShortDelays(self)
            return self._short.call_later(delay_ns, callback, *args)
        return self.loop.call_later(delay_ns / 1e9, callback, *args)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        if self._loop is None:
            self.post(self.add_reader, fd, callback)
        else:
            self._loop.add_reader(fd, callback)

    def remove_reader(self, fd: int) -> None:
        if self._loop is not None:
            self._loop.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        if self._loop is None:
            self.post(self.add_writer, fd, callback)
        else:
            self._loop.add_writer(fd, callback)

    def remove_writer(self, fd: int) -> None:
        if self._loop is not None:
            self._loop.remove_writer(fd)

    def on_loop_thread(self) -> bool:
        return threading.get_ident() == self._thread

    def create_future(self) -> Promise:
        return self.loop.create_future()

    def spawn(self, coroutine: Coroutine[object, object, object], name: str) -> None:
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)  # the loop keeps only a weak reference
        task.add_done_callback(self._ended)

    def _unhandled(self, _loop: object, context: dict[str, Any]) -> None:
        """A callback raised: a bug. What a guest or client can repeat is told once in a while."""
        if self._may_log():
            log.error("%s", context.get("message", "a callback failed"), exc_info=context.get("exception"))

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task %s failed", task.get_name(), exc_info=task.exception())

# SPDX-License-Identifier: Apache-2.0
"""Events on their way from any thread to the monitors: stamped where they happen, ordered and throttled on the loop.

An event emitted on the loop is delivered before ``emit`` returns, so STOP precedes the reply of ``stop``. One from
another thread is posted. Rate-limited events (``core.events``): the first goes out at once, of those that follow within
the limit only the last, when the time is over (QMP specification §2.5), or just before a RESET.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from vmmd.core.events import EVENTS, ResetEvent, event_data
from vmmd.core.trace_events import MONITOR_PROTOCOL_EVENT_QUEUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.events import EventInfo
    from vmmd.core.notify import LoopPort

_Instance = tuple[object, ...]
_Key = tuple[object, ...]


class EventRouter:
    """Implements ``core.events.EventSink``; ``deliver`` is called on the loop with each message to send."""

    def __init__(self, loop: LoopPort, deliver: Callable[[dict[str, object]], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        #: keys whose limit runs: value is the message that waits, or None
        self._limited: dict[_Key, dict[str, object] | None] = {}
        #: events with a key or limit posted by other threads, last one per key: a guest cannot flood the loop with them
        self._posted: dict[_Key, tuple[int, _Instance]] = {}
        self._posted_lock = threading.Lock()

    def emit(self, instance: _Instance) -> None:
        """Send an event. Any thread; never blocks."""
        now_ns = wall_clock_ns()
        if self._loop.on_loop_thread():
            self._route(now_ns, instance)
            return
        info = EVENTS[type(instance)]
        if not _has_successors(info, instance):
            self._loop.post(self._route, now_ns, instance)
            return
        key = _key(info, instance)
        with self._posted_lock:
            is_new = key not in self._posted
            self._posted[key] = (now_ns, instance)
        if is_new:
            self._loop.post(self._route_posted, key)

    def _route_posted(self, key: _Key) -> None:
        with self._posted_lock:
            stamped = self._posted.pop(key)
        self._route(*stamped)

    def _route(self, now_ns: int, instance: _Instance) -> None:
        info = EVENTS[type(instance)]
        message = event_message(instance, now_ns)
        if MONITOR_PROTOCOL_EVENT_QUEUE.on:
            MONITOR_PROTOCOL_EVENT_QUEUE(info.wire_name, str(event_data(instance)))
        if not _is_limited(info, instance):
            if type(instance) is ResetEvent:
                self._send_waiting()
            self._deliver(message)
            return
        key = _key(info, instance)
        if key in self._limited:
            self._limited[key] = message
            return
        self._send_limited(key, info.rate_limit_ns, message)

    def _send_limited(self, key: _Key, limit_ns: int, message: dict[str, object]) -> None:
        self._limited[key] = None
        self._loop.call_later(limit_ns, self._limit_over, key, limit_ns)
        self._deliver(message)

    def _send_waiting(self) -> None:
        """What the guest did before a reset is told before it: a client must not take it for the new boot's doing."""
        for key, waiting in self._limited.items():
            if waiting is not None:
                self._limited[key] = None
                self._deliver(waiting)

    def _limit_over(self, key: _Key, limit_ns: int) -> None:
        waiting = self._limited.pop(key)
        if waiting is not None:
            self._send_limited(key, limit_ns, waiting)


def wall_clock_ns() -> int:
    """Nanoseconds since the epoch, -1 when the host's clock fails."""
    try:
        return time.time_ns()
    except OSError:
        return -1


def event_message(instance: _Instance, now_ns: int) -> dict[str, object]:
    """An event as it goes over the wire; empty ``data`` is left out. ``now_ns`` is wall-clock time, -1: unknown."""
    seconds, rest_ns = divmod(now_ns, 1_000_000_000)
    stamp = {"seconds": seconds, "microseconds": rest_ns // 1000}
    if now_ns < 0:
        stamp = {"seconds": -1, "microseconds": -1}
    message: dict[str, object] = {"timestamp": stamp, "event": EVENTS[type(instance)].wire_name}
    data = event_data(instance)
    if data:
        message["data"] = data
    return message


def _is_limited(info: EventInfo, instance: _Instance) -> bool:
    if not info.rate_limit_ns:
        return False
    exempt = info.never_limited
    return exempt is None or getattr(instance, exempt[0]) != exempt[1]


def _has_successors(info: EventInfo, instance: _Instance) -> bool:
    """Whether a later event of the same key makes it needless."""
    return _is_limited(info, instance) or bool(info.rate_key and not info.rate_limit_ns)


def _key(info: EventInfo, instance: _Instance) -> _Key:
    return (info.wire_name, *(getattr(instance, field) for field in info.rate_key))

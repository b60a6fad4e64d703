# SPDX-License-Identifier: Apache-2.0
"""announce-self: NICs tell the network where they are, several times with growing distances. On the loop.

Each announcement has a name (``id``); a new one of the same name takes the old one's place, one of no rounds ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.units import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.backend import Nic
    from vmmd.core.notify import Cancellable, LoopPort

#: announcements that wait for their next round
MAX_ANNOUNCEMENTS = 64


class Announcement(NamedTuple):
    """What was asked for."""

    id: str
    initial_ms: int  # from the first round to the second
    max_ms: int
    rounds: int
    step_ms: int  # how much longer each following distance is
    interfaces: frozenset[str] | None  # names of NICs; None: all

    def distance_ms(self, done: int) -> int:
        """From round ``done`` (the first is 1) to the next."""
        return min(self.initial_ms + (done - 1) * self.step_ms, self.max_ms)


class Announcer:
    """The announcements of one machine."""

    def __init__(self, loop: LoopPort, nics: Callable[[], Iterable[tuple[str, Nic]]]) -> None:
        """``nics()``: those there are at the moment, by name."""
        self._loop = loop
        self._nics = nics
        self._waiting: dict[str, Cancellable] = {}

    def has_room(self, asked: Announcement) -> bool:
        """It can be started: also when there are as many as there may be, if it takes the place of one, or ends it."""
        return asked.rounds <= 1 or asked.id in self._waiting or len(self._waiting) < MAX_ANNOUNCEMENTS

    def start(self, asked: Announcement) -> None:
        """The first round is now."""
        waiting = self._waiting.pop(asked.id, None)
        if waiting is not None:
            waiting.cancel()
        if asked.rounds:
            self._round(asked, 1)

    def _round(self, asked: Announcement, number: int) -> None:
        self._waiting.pop(asked.id, None)
        for name, nic in self._nics():
            if asked.interfaces is None or name in asked.interfaces:
                nic.announce()
        if number < asked.rounds:
            delay_ns = asked.distance_ms(number) * NS_PER_MS
            self._waiting[asked.id] = self._loop.call_later(delay_ns, self._round, asked, number + 1)

    def close(self) -> None:
        """No more rounds."""
        for each in self._waiting.values():
            each.cancel()
        self._waiting.clear()

# SPDX-License-Identifier: Apache-2.0
"""The last events of the process, numbered from its start: a client that was away asks for what it has missed."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

#: as many are kept at most, and as many bytes of text
MAX_EVENTS = 1024
MAX_BYTES = 1 << 20


class NumberedEvent(NamedTuple):
    """``message`` is what the monitors sent; the first event of the process has number 1."""

    number: int
    message: dict[str, object]


class EventRing:
    """Loop thread only."""

    def __init__(self, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._kept: deque[tuple[NumberedEvent, int]] = deque()
        self._bytes = 0
        #: the number that the next event will have
        self.next = 1

    def add(self, message: dict[str, object]) -> None:
        """Number and keep an event; the oldest go."""
        size = len(repr(message))  # about what its JSON has
        self._kept.append((NumberedEvent(self.next, message), size))
        self._bytes += size
        self.next += 1
        while len(self._kept) > self._max_events or self._bytes > self._max_bytes:
            self._bytes -= self._kept.popleft()[1]

    def since(self, number: int, limit: int) -> list[NumberedEvent]:
        """The first ``limit`` events that are left from ``number`` on."""
        skipped = max(0, number - self._oldest)
        if skipped >= len(self._kept):
            return []
        return [self._kept[at][0] for at in range(skipped, min(len(self._kept), skipped + limit))]

    def lost(self, number: int) -> int:
        """How many events from ``number`` on are not kept any more."""
        return max(0, self._oldest - max(number, 1))

    @property
    def _oldest(self) -> int:
        return self.next - len(self._kept)

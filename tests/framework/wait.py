# SPDX-License-Identifier: Apache-2.0
"""Waiting on file descriptors with a deadline: one poll set that serves every channel of an emulator at once.

A test that waits for a QMP reply must keep reading the serial port, or a full pipe stops the guest; so all
channels of one emulator share one `Reactor` and every wait serves all of them. Single-threaded.
"""

from __future__ import annotations

import math
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Reactor:
    """A poll set with one handler per file descriptor."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}

    def add(self, fd: int, handler: Callable[[], object]) -> None:
        """Call *handler* whenever *fd* is readable or closed by the peer, during any wait."""
        self._handlers[fd] = handler
        self._poll.register(fd, READABLE)

    def remove(self, fd: int) -> None:
        """Forget *fd*; harmless when it is not registered."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Serve all descriptors until *until* is true (returns True) or *timeout_s* has passed (False)."""
        deadline = time.monotonic() + timeout_s
        while not until():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            self._serve(remaining_s)
        return True

    def poll_now(self) -> None:
        """Serve what is ready without waiting."""
        self._serve(0.0)

    def _serve(self, timeout_s: float) -> None:
        for fd, _events in self._poll.poll(math.ceil(timeout_s * 1000)):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()

# SPDX-License-Identifier: Apache-2.0
"""File descriptors that a client of a monitor has sent (SCM_RIGHTS) and named (``getfd``). Loop thread only.

As with QEMU, a descriptor waits until a command takes it, first come first served, and the next message that brings
descriptors replaces those that nobody took. Here names belong to the session (in QEMU to the monitor, which has one
client at a time): whatever a session still has at its end is closed. This is the one place where a name becomes a
descriptor.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from vmmd.errors import UsageError, VmmdError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: descriptors that wait to be taken; as many come with one message at most (QEMU: 16)
MAX_WAITING = 16
#: names of one session: 256 queues of a network backend take two descriptors each
MAX_NAMED = 512
MAX_NAME_CHARS = 255


class PassedFds:
    """What one session holds."""

    __slots__ = ("_named", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._named: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._named)

    def arrived(self, fds: Iterable[int], *, commands_wait: bool) -> None:
        """Descriptors came with some bytes. ``commands_wait``: earlier commands still have to take theirs."""
        if not commands_wait:
            self._close_waiting()
        for fd in fds:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(fd)
            else:
                os.close(fd)

    def take(self) -> int:
        """The descriptor that came with this command; the caller's from now on. Raises VmmdError."""
        if not self._waiting:
            raise VmmdError(
                "No file descriptor supplied via SCM_RIGHTS", "send it with the command over a UNIX socket monitor"
            )
        return self._waiting.popleft()

    def give_name(self, name: str) -> None:
        """``getfd``: keep the descriptor that came with this command under ``name``, instead of the one that had it."""
        fd = self.take()
        try:
            self._check_name(name)
        except VmmdError:
            os.close(fd)
            raise
        replaced = self._named.pop(name, None)
        if replaced is not None:
            os.close(replaced)
        self._named[name] = fd

    def _check_name(self, name: str) -> None:
        if name[:1] in tuple("0123456789"):
            raise UsageError("Parameter 'fdname' expects a name not starting with a digit")
        if len(name) > MAX_NAME_CHARS:
            raise UsageError(f"Parameter 'fdname' expects a name of at most {MAX_NAME_CHARS} characters")
        if len(self._named) >= MAX_NAMED and name not in self._named:
            raise UsageError(f"This session has named {MAX_NAMED} file descriptors already", "closefd closes one")

    def close_name(self, name: str) -> None:
        """``closefd``. Raises VmmdError for an unknown name."""
        if name not in self._named:
            raise VmmdError(f"File descriptor named '{name}' not found", "getfd gives names, in the same session")
        os.close(self._named.pop(name))

    def named(self, name: str) -> int:
        """The descriptor called ``name``, which stays the session's: who keeps it calls ``handed_over``. Raises
        VmmdError for an unknown name."""
        if name not in self._named:
            raise VmmdError(
                f"File descriptor named '{name}' has not been found", "getfd gives names, in the same session"
            )
        return self._named[name]

    def handed_over(self, name: str) -> None:
        """What ``named`` gave has a new owner; the name is free."""
        del self._named[name]

    def close(self) -> None:
        """The session ends."""
        self._close_waiting()
        while self._named:
            os.close(self._named.popitem()[1])

    def _close_waiting(self) -> None:
        while self._waiting:
            os.close(self._waiting.popleft())

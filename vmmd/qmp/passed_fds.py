# SPDX-License-Identifier: Apache-2.0
"""File descriptors that a client of a monitor has sent (SCM_RIGHTS) and named (``getfd``). Loop thread only.

As with QEMU, a descriptor waits until a command takes it, first come first served, and the next message that brings
descriptors replaces those that nobody took. Here names belong to the session (in QEMU to the monitor, which has one
client at a time): whatever a session still has at its end is closed. This is the one place where a name becomes a
descriptor. All sessions and fd sets of the process share one budget.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmmd.errors import UsageError, VmmdError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmmd.core.fdsets import FdBudget

#: descriptors that wait to be taken; as many come with one message at most (QEMU: 16)
MAX_WAITING = 16
#: names of one session: 256 queues of a network backend take two descriptors each
MAX_NAMED = 512
MAX_NAME_CHARS = 255


class PassedFds:
    """What one session holds."""

    __slots__ = ("_budget", "_closed", "_lost", "_named", "_waiting")

    def __init__(self, budget: FdBudget) -> None:
        self._budget = budget
        self._waiting: deque[int] = deque()
        self._named: dict[str, int] = {}
        self._lost = ""  # why a descriptor that was sent is not here
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._named)

    def arrived(self, fds: Iterable[int], *, commands_wait: bool, lost: str = "") -> None:
        """Descriptors came with some bytes. ``commands_wait``: earlier commands still have to take theirs. ``lost``:
        why the kernel did not hand over all of them."""
        if not commands_wait:
            self._close_waiting()
        self._lost = lost
        for fd in fds:
            if len(self._waiting) >= MAX_WAITING:
                self._lost = f"at most {MAX_WAITING} wait to be taken"
            elif not self._budget.take():
                self._lost = self._budget.exhausted
            else:
                self._waiting.append(fd)
                continue
            os.close(fd)

    def take(self) -> int:
        """The descriptor that came with this command; the caller's from now on. Raises VmmdError."""
        fd = self._next()
        self._budget.give_back()
        return fd

    def _next(self) -> int:
        if not self._waiting:
            lost, self._lost = self._lost, ""
            hint = f"it was sent, but lost: {lost}" if lost else "send it with the command over a UNIX socket monitor"
            raise VmmdError("No file descriptor supplied via SCM_RIGHTS", hint)
        return self._waiting.popleft()

    def give_name(self, name: str) -> None:
        """``getfd``: keep the descriptor that came with this command under ``name``, instead of the one that had it."""
        fd = self._next()
        try:
            self._check_name(name)
        except VmmdError:
            self._close(fd)
            raise
        replaced = self._named.pop(name, None)
        if replaced is not None:
            self._close(replaced)
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
        self._close(self._named.pop(name))

    def claim(self, name: str) -> int:
        """The descriptor called ``name``, for a command that says ``handed_over`` or ``give_back`` in the end. Until
        then nobody else closes it: not its session, which may end before the command. Raises VmmdError for an unknown
        name."""
        if name not in self._named:
            raise VmmdError(
                f"File descriptor named '{name}' has not been found", "getfd gives names, in the same session"
            )
        return self._named.pop(name)

    def handed_over(self) -> None:
        """One that was claimed has a new owner."""
        self._budget.give_back()

    def give_back(self, name: str, fd: int) -> None:
        """One that was claimed is of no use: it has its name again, where it is free and there is a session."""
        if self._closed or name in self._named:
            self._close(fd)
        else:
            self._named[name] = fd

    @contextmanager
    def lent(self, name: str) -> Iterator[int]:
        """Inside, the descriptor called ``name`` is claimed; what raises nothing has taken it over. Raises VmmdError
        for an unknown name."""
        fd = self.claim(name)
        try:
            yield fd
        except BaseException:
            self.give_back(name, fd)
            raise
        self.handed_over()

    def close(self) -> None:
        """The session ends."""
        self._closed = True
        self._close_waiting()
        while self._named:
            self._close(self._named.popitem()[1])

    def _close_waiting(self) -> None:
        while self._waiting:
            self._close(self._waiting.popleft())

    def _close(self, fd: int) -> None:
        os.close(fd)
        self._budget.give_back()

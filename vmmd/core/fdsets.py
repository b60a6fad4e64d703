# SPDX-License-Identifier: Apache-2.0
"""Sets of file descriptors handed in from outside (``-add-fd``, QMP ``add-fd``), named by ``/dev/fdset/N`` paths.

A path ``/dev/fdset/N`` stands for the first descriptor of set N whose access mode fits the wanted one. The one who
opens it gets a duplicate and owns that; flags of the descriptor that came in are never changed. A set lives as long as
it has a descriptor or an opened duplicate. Loop thread (or start-up).
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from typing import NamedTuple

from vmmd.errors import UsageError

PREFIX = "/dev/fdset/"
#: descriptors in all sets together
MAX_MEMBERS = 1024
#: what clients have sent may take one in so many of the descriptors that the process may have
BUDGET_DIVISOR = 2


class FdBudget:
    """Counts what clients have put into this process, named, in sets or waiting: the rest of RLIMIT_NOFILE is the
    machine's and the monitors'. Loop thread (or start-up)."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0

    @property
    def limit(self) -> int:
        """As many may be held."""
        import resource

        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return sys.maxsize if soft == resource.RLIM_INFINITY else soft // BUDGET_DIVISOR

    def take(self) -> bool:
        """One more is held; False when there is no room, and then it is not."""
        if self.held >= self.limit:
            return False
        self.held += 1
        return True

    def give_back(self) -> None:
        """One that ``take`` counted is closed, or somebody else's."""
        self.held -= 1

    @property
    def exhausted(self) -> str:
        """The sentence for who comes too late."""
        return f"monitor clients hold {self.limit} file descriptors already, one in {BUDGET_DIVISOR} of RLIMIT_NOFILE"


class FdInSet(NamedTuple):
    fd: int
    opaque: str | None


class _Duplicate(NamedTuple):
    """A descriptor that ``open`` gave away, known by its file: whoever has it closes it without telling."""

    fd: int
    device: int
    inode: int

    @classmethod
    def of(cls, fd: int) -> _Duplicate:
        status = os.fstat(fd)
        return cls(fd, status.st_dev, status.st_ino)

    @property
    def is_open(self) -> bool:
        """Still open. LIMIT: also when the number was given to the same file again meanwhile."""
        try:
            return _Duplicate.of(self.fd) == self
        except OSError:
            return False


class FdSets:
    """The registry of one process."""

    def __init__(self) -> None:
        #: shared with what the sessions of monitors hold
        self.budget = FdBudget()
        self._sets: dict[int, list[FdInSet]] = {}
        self._duplicates: dict[int, list[_Duplicate]] = {}

    def add(self, set_id: int | None, fd: int, opaque: str | None = None) -> int:
        """Put ``fd`` (owned from now on) into a set, or into a new one when None; returns the set's number. Raises
        UsageError when there are too many; then ``fd`` is still the caller's."""
        if sum(map(len, self._sets.values())) >= MAX_MEMBERS:
            raise UsageError(f"The fd sets hold {MAX_MEMBERS} file descriptors already", "remove-fd closes some")
        if not self.budget.take():
            raise UsageError("No file descriptor can be added", self.budget.exhausted)
        self._forget_unused()
        if set_id is None:
            set_id = next(number for number in range(len(self._sets) + 1) if number not in self._sets)
        self._sets.setdefault(set_id, []).append(FdInSet(fd, opaque))
        return set_id

    def remove(self, set_id: int, fd: int | None = None) -> bool:
        """Close one or all descriptors of a set; False when there is no such set or descriptor. What was opened through
        it goes on; the set stays known, empty, until that is closed too."""
        self._forget_unused()
        members = self._sets.get(set_id)
        if members is None or (fd is not None and all(each.fd != fd for each in members)):
            return False
        for each in [each for each in members if fd is None or each.fd == fd]:
            members.remove(each)
            os.close(each.fd)
            self.budget.give_back()
        self._forget_unused()
        return True

    def query(self) -> dict[int, list[FdInSet]]:
        """The sets and what is in them."""
        self._forget_unused()
        return {number: list(members) for number, members in self._sets.items()}

    def close_unused(self) -> None:
        """Close the descriptors of every set through which nothing is open (the last monitor client has left: nobody
        is there who could use them)."""
        for number in [number for number in self._sets if not self._opened(number)]:
            self.remove(number)

    def open(self, path: str, flags: int) -> int:
        """A duplicate of the descriptor behind ``/dev/fdset/N`` that allows ``flags & O_ACCMODE``. Raises OSError:
        ENOENT for an unknown set, EACCES when no member has the access mode."""
        text = path.removeprefix(PREFIX)
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        members = self._sets.get(number)
        if not members:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        wanted = flags & os.O_ACCMODE
        for each in members:
            if fcntl.fcntl(each.fd, fcntl.F_GETFL) & os.O_ACCMODE in (wanted, os.O_RDWR):
                duplicate: int = fcntl.fcntl(each.fd, fcntl.F_DUPFD_CLOEXEC, 3)
                self._duplicates.setdefault(number, []).append(_Duplicate.of(duplicate))
                return duplicate
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    def _opened(self, number: int) -> bool:
        """True when something opened through the set is open still."""
        left = [each for each in self._duplicates.pop(number, ()) if each.is_open]
        if left:
            self._duplicates[number] = left
        return bool(left)

    def _forget_unused(self) -> None:
        for number in [number for number, members in self._sets.items() if not members]:
            if not self._opened(number):
                del self._sets[number]


def is_inherited(fd: int) -> bool:
    """The process was started with this descriptor: it is open, and not close-on-exec as all are that vmmd opens."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False


def open_path(path: str, flags: int, mode: int, fdsets: FdSets | None) -> int:
    """``os.open`` that knows ``/dev/fdset/N``; the result is close-on-exec. Raises OSError."""
    if path.startswith(PREFIX):
        return (fdsets or FdSets()).open(path, flags)
    return os.open(path, flags | os.O_CLOEXEC, mode)

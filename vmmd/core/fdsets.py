# SPDX-License-Identifier: Apache-2.0
"""Sets of file descriptors handed in from outside (``-add-fd``, QMP ``add-fd``), named by ``/dev/fdset/N`` paths.

A path ``/dev/fdset/N`` stands for the first descriptor of set N whose access mode fits the wanted one. The one who
opens it gets a duplicate and owns that; flags of the descriptor that came in are never changed. Loop thread (or
start-up).
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import NamedTuple

PREFIX = "/dev/fdset/"


class FdInSet(NamedTuple):
    fd: int
    opaque: str | None


class FdSets:
    """The registry of one process."""

    def __init__(self) -> None:
        self.sets: dict[int, list[FdInSet]] = {}

    def add(self, set_id: int | None, fd: int, opaque: str | None = None) -> int:
        """Put ``fd`` (owned from now on) into a set, or into a new one when None; returns the set's number."""
        if set_id is None:
            set_id = next(number for number in range(len(self.sets) + 1) if number not in self.sets)
        self.sets.setdefault(set_id, []).append(FdInSet(fd, opaque))
        return set_id

    def remove(self, set_id: int, fd: int | None = None) -> bool:
        """Close one or all descriptors of a set; False when there is no such set or descriptor."""
        members = self.sets.get(set_id)
        if members is None or (fd is not None and all(each.fd != fd for each in members)):
            return False
        for each in [each for each in members if fd is None or each.fd == fd]:
            members.remove(each)
            os.close(each.fd)
        if not members:
            del self.sets[set_id]
        return True

    def open(self, path: str, flags: int) -> int:
        """A duplicate of the descriptor behind ``/dev/fdset/N`` that allows ``flags & O_ACCMODE``. Raises OSError:
        ENOENT for an unknown set, EACCES when no member has the access mode."""
        number = path.removeprefix(PREFIX)
        members = self.sets.get(int(number)) if number.isascii() and number.isdigit() else None
        if not members:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        wanted = flags & os.O_ACCMODE
        for each in members:
            if fcntl.fcntl(each.fd, fcntl.F_GETFL) & os.O_ACCMODE in (wanted, os.O_RDWR):
                return fcntl.fcntl(each.fd, fcntl.F_DUPFD_CLOEXEC, 3)
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)


def open_path(path: str, flags: int, mode: int, fdsets: FdSets | None) -> int:
    """``os.open`` that knows ``/dev/fdset/N``; the result is close-on-exec. Raises OSError."""
    if path.startswith(PREFIX):
        return (fdsets or FdSets()).open(path, flags)
    return os.open(path, flags | os.O_CLOEXEC, mode)

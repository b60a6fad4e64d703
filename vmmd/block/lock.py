# SPDX-License-Identifier: Apache-2.0
"""Image locks that QEMU understands, so that neither opens an image the other writes.

Each user of an image holds shared OFD locks on single bytes far below any data's importance (locks are advisory and
carry no data): byte 100+n says «I use permission n», byte 200+n says «nobody else may use permission n». Before use
everybody looks whether others' bytes forbid it. Measured on QEMU 7.2 in /proc/locks; permissions 0 (consistent read)
and 1 (write) are the ones a disk needs.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from vmmd.block import syscalls
from vmmd.errors import BackendError

USED = 100
UNSHARED = 200
NAMES = {0: "consistent read", 1: "write"}
READ, WRITE = 0, 1


class LockState(NamedTuple):
    """Permissions used, and permissions denied to others."""

    used: frozenset[int]
    unshared: frozenset[int]


NOTHING = LockState(frozenset(), frozenset())
#: an image that is open but has no device yet
OPEN = LockState(frozenset((READ,)), frozenset())


def for_device(writes: bool, share_rw: bool) -> LockState:
    """What a guest disk needs; it denies writing to others unless ``share-rw=on``."""
    return LockState(frozenset((READ, WRITE) if writes else (READ,)), frozenset(() if share_rw else (WRITE,)))


class ImageLock:
    """The locks of one open image. ``mode`` is "on", "off" or "auto" (no locks where the file system has none)."""

    def __init__(self, fd: int, path: str, mode: str) -> None:
        self._fd = fd
        self._path = path
        self._enabled = mode != "off"
        self._required = mode == "on"
        self._state = NOTHING

    def change(self, wanted: LockState) -> None:
        """Move to another set of permissions. Raises BackendError, then nothing has changed."""
        if not self._enabled or wanted == self._state:
            return
        before = self._state
        try:
            self._take(wanted)
            self._check(wanted)
        except OSError as error:
            self._drop_to(before)
            if error.errno in (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS) and not self._required:
                self._enabled = False
                return
            raise BackendError.from_os(f"Could not lock '{self._path}'", error) from error
        except BackendError:
            self._drop_to(before)
            raise
        self._drop_to(wanted)

    def _take(self, wanted: LockState) -> None:
        for byte in sorted(_bytes(wanted) - _bytes(self._state)):
            syscalls.set_ofd_lock(self._fd, syscalls.F_RDLCK, byte)
        self._state = LockState(self._state.used | wanted.used, self._state.unshared | wanted.unshared)

    def _check(self, wanted: LockState) -> None:
        for permission in sorted(wanted.used):
            if syscalls.is_locked_by_others(self._fd, UNSHARED + permission):
                raise self._refused(f'Failed to get "{NAMES[permission]}" lock')
        for permission in sorted(wanted.unshared):
            if syscalls.is_locked_by_others(self._fd, USED + permission):
                raise self._refused(f'Failed to get shared "{NAMES[permission]}" lock')

    def _refused(self, sentence: str) -> BackendError:
        # QEMU-COMPAT: both sentences are what clients match on
        who = ", ".join(find_holders(self._fd)) or "a process that is not visible from here"
        return BackendError(sentence, f"Is another process using the image [{self._path}]? It is locked by {who}")

    def _drop_to(self, wanted: LockState) -> None:
        for byte in _bytes(self._state) - _bytes(wanted):
            syscalls.set_ofd_lock(self._fd, syscalls.F_UNLCK, byte)
        self._state = wanted


def _bytes(state: LockState) -> set[int]:
    return {USED + each for each in state.used} | {UNSHARED + each for each in state.unshared}


def find_holders(fd: int) -> list[str]:
    """``pid N (command)`` of the processes that have locks on the file of ``fd``, as far as /proc shows them."""
    found = os.fstat(fd)
    holders: list[str] = []
    for pid in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        try:
            if any(_locks(pid, entry, found) for entry in os.listdir(f"/proc/{pid}/fd") if not _own(pid, entry, fd)):
                with open(f"/proc/{pid}/comm") as file:
                    holders.append(f"pid {pid} ({file.read().strip()})")
        except OSError:
            continue  # gone, or not ours to look at
    return holders


def _own(pid: str, entry: str, fd: int) -> bool:
    return int(pid) == os.getpid() and int(entry) == fd


def _locks(pid: str, entry: str, image: os.stat_result) -> bool:
    try:
        status = os.stat(f"/proc/{pid}/fd/{entry}")
        if (status.st_dev, status.st_ino) != (image.st_dev, image.st_ino):
            return False
        with open(f"/proc/{pid}/fdinfo/{entry}") as file:
            return any(line.startswith("lock:") for line in file)
    except OSError:  # this descriptor was closed meanwhile; the others of the process still count
        return False

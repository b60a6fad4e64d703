# SPDX-License-Identifier: Apache-2.0
"""Linux calls the standard library lacks: ``fallocate`` with a mode, OFD locks, and constants for them."""

from __future__ import annotations

import errno
import os
import struct

# <linux/falloc.h>
FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_ZERO_RANGE = 0x10

# <asm-generic/fcntl.h>: locks that belong to the open file, not to the process
F_OFD_GETLK = 36
F_OFD_SETLK = 37
F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on x86-64

#: <linux/fs.h> BLKSSZGET: logical sector size of a block device
BLKSSZGET = 0x1268

_fallocate: object = None


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2). Blocks. Raises OSError."""
    global _fallocate
    import ctypes

    if _fallocate is None:
        function = ctypes.CDLL(None, use_errno=True).fallocate
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        _fallocate = function
    while _fallocate(fd, mode, offset, length) != 0:  # type: ignore[operator]  # a ctypes function
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def set_ofd_lock(fd: int, kind: int, start: int, length: int = 1) -> None:
    """Take or drop a lock without waiting. Raises OSError (EAGAIN: somebody has a conflicting one)."""
    import fcntl

    fcntl.fcntl(fd, F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def is_locked_by_others(fd: int, start: int) -> bool:
    """True when another open file has any lock on the byte."""
    import fcntl

    answer = fcntl.fcntl(fd, F_OFD_GETLK, _FLOCK.pack(F_WRLCK, os.SEEK_SET, start, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != F_UNLCK)

# SPDX-License-Identifier: Apache-2.0
"""What the host file system can do with an open image: found out by trying, at open."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct

from vmmd.block.syscalls import BLKSSZGET
from vmmd.units import PAGE_BYTES, SECTOR_BYTES

_LOCAL = frozenset(
    ("btrfs", "devtmpfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "overlay", "ramfs", "reiserfs",
     "squashfs", "tmpfs", "vfat", "xfs", "zfs")
)  # fmt: skip


def direct_alignment(fd: int) -> int:
    """Bytes that offsets and lengths of O_DIRECT requests must be multiples of."""
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        import fcntl

        answer: bytes = fcntl.ioctl(fd, BLKSSZGET, bytes(4))
        return int(struct.unpack("i", answer)[0])
    with mmap.mmap(-1, 2 * PAGE_BYTES) as area, memoryview(area) as view:
        for align in (SECTOR_BYTES, 1024, 2048):
            with view[:align] as buffer:
                try:
                    if os.preadv(fd, [buffer], align):
                        return align
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
    return PAGE_BYTES


def filesystem_type(fd: int) -> str:
    """ "ext4", "nfs4", "tmpfs"; "" when it is not known."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as file:
            for line in file:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""


def is_memory_backed(kind: str) -> bool:
    """True for file systems where a read or write is a copy."""
    return kind in ("tmpfs", "ramfs")


def is_local(kind: str) -> bool:
    """True where asking for an open file's attributes waits for nobody: neither a server nor a daemon."""
    return kind in _LOCAL


def takes_nowait(fd: int) -> bool:
    """True when the file system answers RWF_NOWAIT reads from the page cache."""
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def size_of(fd: int) -> int:
    """Bytes in a file or on a block device."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    return status.st_size

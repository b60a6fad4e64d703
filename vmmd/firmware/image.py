# SPDX-License-Identifier: Apache-2.0
"""A file that is loaded into guest RAM: kernel, initrd, multiboot module. Its content is hostile.

The file stays open, so that a reset of the machine loads the same one again even when its name is gone. LIMIT: a file
changed in place between start and reset shows its new content (QEMU keeps a copy in its own memory).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.errors import BackendError, VmmdError

if TYPE_CHECKING:
    import struct

    from vmmd.core.memory import GuestMemory

_ZEROS = bytes(1 << 16)


class ImageFile:
    """An opened image. Methods raise VmmdError naming the file."""

    def __init__(self, option: str, path: str) -> None:
        """``option`` ("-kernel") starts every error sentence. Raises BackendError when the file cannot be opened."""
        self.option = option
        self.path = path
        self.fd = -1
        try:
            # O_NONBLOCK: a FIFO would wait for a writer; on the files that are taken it means nothing
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            mode = os.fstat(self.fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self.size_bytes = os.lseek(self.fd, 0, os.SEEK_END) if stat.S_ISREG(mode) or stat.S_ISBLK(mode) else -1
        except OSError as error:
            self.close()
            raise BackendError.from_os(f"{option}: could not open '{path}'", error) from error
        if self.size_bytes < 0:
            self.close()
            raise self.error("it is no regular file")

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def error(self, what: str, hint: str | None = None) -> VmmdError:
        """The error for something wrong with this file."""
        return VmmdError(f"{self.option} {self.path}: {what}", hint)

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; fewer at the end of the file."""
        if offset >= self.size_bytes:  # also one that the system call would not take
            return b""
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise BackendError.from_os(f"{self.option}: could not read '{self.path}'", error) from error

    def unpack(self, layout: struct.Struct, offset: int, what: str) -> tuple[int, ...]:
        """A structure at ``offset``; ``what`` names it when the file ends before."""
        data = self.read(offset, layout.size)
        if len(data) < layout.size:
            raise self.error(f"the file ends inside {what}")
        return layout.unpack(data)

    def load(self, memory: GuestMemory, gpa: int, offset: int, length: int) -> None:
        """Read a part of the file straight into RAM. Raises VmmdError when it is not RAM or the file is too short."""
        for view in ram_views(self, memory, gpa, length):
            done = 0
            while done < len(view):
                try:
                    got = os.preadv(self.fd, [view[done:]], offset)
                except OSError as error:
                    raise BackendError.from_os(f"{self.option}: could not read '{self.path}'", error) from error
                if not got:
                    raise self.error(f"the file ends before {offset + len(view) - done:#x}")
                done += got
                offset += got


def ram_views(image: ImageFile, memory: GuestMemory, gpa: int, length: int) -> list[memoryview]:
    """Writable views of a range; the error names the file and the RAM there is."""
    if not length:
        return []
    try:
        return memory.views(gpa, length, writable=True)
    except GuestAddressError:
        mebibytes = memory.size_bytes >> 20
        raise image.error(
            f"{length} bytes for guest address {gpa:#x} do not fit in {mebibytes} MiB of RAM", "give more with -m"
        ) from None


def clear(image: ImageFile, memory: GuestMemory, gpa: int, length: int) -> None:
    """Zeros (bss)."""
    for view in ram_views(image, memory, gpa, length):
        for start in range(0, len(view), len(_ZEROS)):
            part = view[start : start + len(_ZEROS)]
            part[:] = _ZEROS if len(part) == len(_ZEROS) else bytes(len(part))

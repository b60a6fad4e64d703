# SPDX-License-Identifier: Apache-2.0
"""Files that a character device made: a start that fails takes them away again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.fdsets import PREFIX, open_path

if TYPE_CHECKING:
    from vmmd.core.fdsets import FdSets


class CreatedFile(NamedTuple):
    """A file that was not there before, known by its inode."""

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Unlink it if it is still the one."""
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)
        except OSError:
            pass  # somebody else removed it


def open_output(path: str, append: bool, fdsets: FdSets | None) -> tuple[int, CreatedFile | None]:
    """A descriptor to append to ``path``, emptied first unless ``append``; and the file if it is new. OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    if not path.startswith(PREFIX):
        try:
            fd = os.open(path, flags | os.O_EXCL, 0o666)
        except FileExistsError:
            pass
        else:
            status = os.fstat(fd)
            return fd, CreatedFile(path, status.st_dev, status.st_ino)
    return open_path(path, flags | (0 if append else os.O_TRUNC), 0o666, fdsets), None

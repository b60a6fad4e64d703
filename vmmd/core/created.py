# SPDX-License-Identifier: Apache-2.0
"""Files that vmmd made: what fails takes them away again."""

from __future__ import annotations

import os
from typing import NamedTuple


class CreatedFile(NamedTuple):
    """A file that was not there before, known by its inode."""

    path: str
    device: int
    inode: int

    @classmethod
    def opened(cls, path: str, fd: int) -> CreatedFile:
        """The file at ``path`` that has just been made with O_EXCL as ``fd``."""
        status = os.fstat(fd)
        return cls(path, status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Unlink it if it is still the one."""
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)
        except OSError:
            pass  # somebody else removed it

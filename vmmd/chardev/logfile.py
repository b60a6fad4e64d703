# SPDX-License-Identifier: Apache-2.0
"""The ``logfile=`` of a character device: every byte the guest prints, whoever is connected.

Always opened with O_APPEND, so that a copy-and-truncate rotation leaves no hole. A write that fails (ENOSPC, EIO)
loses its bytes, which are counted; it is never fatal. Loop thread.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.chardev.output_file import open_output
from vmmd.errors import BackendError

if TYPE_CHECKING:
    from vmmd.core.created import CreatedFile
    from vmmd.core.fdsets import FdSets


class LogFile:
    def __init__(self, path: str, append: bool, fdsets: FdSets | None) -> None:
        self.path = path
        self.lost_bytes = 0
        self._append = append
        self._fdsets = fdsets
        self._fd = -1
        self.created: CreatedFile | None = None

    def open(self) -> None:
        """Create or truncate (unless ``append``) the file. Raises BackendError."""
        try:
            self._fd, self.created = open_output(self.path, self._append, self._fdsets)
        except OSError as error:
            raise BackendError.from_os(f"Could not create '{self.path}'", error) from error

    def reopen(self) -> None:
        """Start a new file under the same name (rotation). Raises BackendError; then the old file stays in use."""
        old, self._append = self._fd, True
        self.open()
        if old >= 0:
            os.close(old)

    def write(self, data: bytes | bytearray) -> None:
        """Append; what cannot be written is counted in ``lost_bytes``."""
        if self._fd < 0:  # closed
            self.lost_bytes += len(data)
            return
        done = 0
        while done < len(data):
            try:
                done += os.write(self._fd, data[done:] if done else data)
            except OSError as error:
                if not self.lost_bytes:
                    from vmmd.log import get_logger

                    get_logger("vmmd.chardev").warning("logfile %s: %s; output is lost", self.path, error.strerror)
                self.lost_bytes += len(data) - done
                return

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

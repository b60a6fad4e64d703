# SPDX-License-Identifier: Apache-2.0
"""``-chardev file``: output only, into a file, a FIFO, or a descriptor handed in (``path=/dev/fdset/N``).

Always O_APPEND, so that a truncating rotation leaves no hole (QEMU seeks with its own offset unless ``append=on``).
A failed write (ENOSPC, EIO) loses the bytes, which are counted; the guest goes on.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from vmmd.chardev.output_file import open_output
from vmmd.chardev.stream import StreamChardev, is_pollable
from vmmd.core.fdsets import PREFIX
from vmmd.errors import BackendError
from vmmd.log import RateLimiter, get_logger

if TYPE_CHECKING:
    from vmmd.chardev.options import FileOptions
    from vmmd.core.fdsets import FdSets

log = get_logger("vmmd.chardev")

#: a full disk and a guest that prints: one line in this time
WARN_PERIOD_S = 60.0


class FileChardev(StreamChardev):
    config: FileOptions
    fdsets: FdSets | None = None
    _polite = False
    _may_warn: RateLimiter

    def _open(self) -> None:
        self._may_warn = RateLimiter(WARN_PERIOD_S)
        path = self.config.path
        try:
            self._write_fd, self._created = open_output(path, self.config.append, self.fdsets)
            # flags of a descriptor that came from outside stay as they are
            self._output_pollable = is_pollable(self._write_fd)
            self._polite = path.startswith(PREFIX) and self._output_pollable
            if path.startswith(PREFIX) and not self.config.append and stat.S_ISREG(os.fstat(self._write_fd).st_mode):
                os.ftruncate(self._write_fd, 0)
        except OSError as error:
            raise BackendError.from_os(f"Could not open '{path}'", error) from error

    def accept_input(self) -> None:
        """A file has no input."""

    def _emit(self, chunk: bytearray) -> int:
        if self._polite:
            return self._emit_politely(chunk)
        return super()._emit(chunk)

    def _write_failed(self, error: OSError) -> None:
        if not self._closed and self._may_warn():
            log.warning("chardev %s: %s; output is lost", self.label, error.strerror)

    def _close(self) -> None:
        fd = self._write_fd
        self._drop_peer()
        if fd >= 0:
            os.close(fd)

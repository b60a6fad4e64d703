# SPDX-License-Identifier: Apache-2.0
"""``-chardev file``: output only, into a file, a FIFO, or a descriptor handed in (``path=/dev/fdset/N``).

Always O_APPEND, so that a truncating rotation leaves no hole (QEMU seeks with its own offset unless ``append=on``).
A failed write (ENOSPC, EIO) loses the bytes, which are counted; the guest goes on. With ``max=`` the file never gets
longer (``output_file``).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from vmmd.chardev.output_file import WARN_PERIOD_S, OutputFile, is_pollable, open_output
from vmmd.chardev.stream import StreamChardev
from vmmd.core.fdsets import PREFIX
from vmmd.errors import BackendError
from vmmd.log import RateLimiter, get_logger

if TYPE_CHECKING:
    from vmmd.chardev.options import FileOptions
    from vmmd.core.fdsets import FdSets

log = get_logger("vmmd.chardev")


class FileChardev(StreamChardev):
    config: FileOptions
    fdsets: FdSets | None = None
    bounded: OutputFile | None = None  # it has a limit
    _polite = False
    _may_warn: RateLimiter

    def _open(self) -> None:
        self._may_warn = RateLimiter(WARN_PERIOD_S)
        config, path = self.config, self.config.path
        if config.max:
            self.bounded = OutputFile(
                path, config.append, self.fdsets, limit_bytes=config.max, keep=config.keep, what=f"chardev {self.label}"
            )
            self.bounded.open()
            self._created = self.bounded.created
            return
        try:
            self._write_fd, self._created = open_output(path, config.append, self.fdsets)
            self._look_at_file()
            if path.startswith(PREFIX) and not config.append and stat.S_ISREG(os.fstat(self._write_fd).st_mode):
                os.ftruncate(self._write_fd, 0)
        except OSError as error:
            raise BackendError.from_os(f"Could not open '{path}'", error) from error

    def _look_at_file(self) -> None:
        # flags of a descriptor that came from outside stay as they are
        self._output_pollable = is_pollable(self._write_fd)
        self._polite = self.config.path.startswith(PREFIX) and self._output_pollable

    @property
    def connected(self) -> bool:
        return super().connected or (self.bounded is not None and self.bounded.is_open)

    def reopen(self) -> list[str]:
        done = super().reopen()
        path = self.config.path
        if self.bounded is not None:
            self.bounded.reopen()
        else:
            try:
                fresh, _ = open_output(path, True, self.fdsets)
            except OSError as error:
                raise BackendError.from_os(f"Could not open '{path}'", error) from error
            self._unwatch_output()
            os.close(self._write_fd)
            self._write_fd = fresh
            self._look_at_file()
            self._writable()
        return [*done, path]

    def accept_input(self) -> None:
        """A file has no input."""

    def _emit(self, chunk: bytearray) -> int:
        if self.bounded is not None:
            before = self.bounded.lost_bytes
            self.bounded.write(chunk)
            self.dropped_bytes += self.bounded.lost_bytes - before
            return len(chunk)
        if self._polite:
            return self._emit_politely(chunk)
        return super()._emit(chunk)

    def _write_failed(self, error: OSError) -> None:
        if not self._closed and self._may_warn():
            log.warning("chardev %s: %s; output is lost", self.label, error.strerror)

    def _close(self) -> None:
        if self.bounded is not None:
            self.bounded.close()
        fd = self._write_fd
        self._drop_peer()
        if fd >= 0:
            os.close(fd)

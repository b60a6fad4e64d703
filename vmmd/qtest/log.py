# SPDX-License-Identifier: Apache-2.0
"""``-qtest-log``: every line of the protocol with the time since the client came, in QEMU's layout.

[I 0.000000] OPENED
[R +0.060088] endianness
[S +0.060099] OK little
"""

from __future__ import annotations

import os
import time

from vmmd.errors import BackendError

#: major and minor number of /dev/null
_NULL_DEVICE = (1, 3)


class TrafficLog:
    """The file, truncated at the start. What cannot be written is lost. Loop thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._start_ns = time.monotonic_ns()

    def open(self) -> None:
        """Raises BackendError."""
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise BackendError.from_os(f"Could not open '{self._path}'", error) from error
        if os.fstat(self._fd).st_rdev == os.makedev(*_NULL_DEVICE):  # as test programs have it: spare the system calls
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def event(self, text: str) -> None:
        """The client came or went."""
        if text == "OPENED":
            self._start_ns = time.monotonic_ns()
            self._write(b"[I 0.000000] OPENED\n")
        else:
            self._line(b"I", text.encode())

    def received(self, line: bytes) -> None:
        self._line(b"R", line)

    def sent(self, line: bytes) -> None:
        self._line(b"S", line)

    def _line(self, kind: bytes, line: bytes) -> None:
        if self._fd < 0:
            return
        seconds = (time.monotonic_ns() - self._start_ns) / 1e9
        self._write(b"[%s +%.6f] %s\n" % (kind, seconds, line))

    def _write(self, data: bytes) -> None:
        if self._fd >= 0:
            try:
                os.write(self._fd, data)
            except OSError:  # a full disk, a reader that has gone
                pass

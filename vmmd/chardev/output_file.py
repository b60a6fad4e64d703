# SPDX-License-Identifier: Apache-2.0
"""The files that character devices write to: logs and ``-chardev file``.

Always O_APPEND, so that a copy-and-truncate rotation leaves no hole. A write that fails (ENOSPC, EIO) loses its bytes,
which are counted; it is never fatal. With a limit the file never gets longer: it is moved out of the way (PATH.1, what
was there to PATH.2, and so on), and a new one begun. Somebody else may move it, and have it opened again. Loop thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

from vmmd.core.created import CreatedFile
from vmmd.core.fdsets import PREFIX, open_path
from vmmd.errors import BackendError
from vmmd.log import RateLimiter, get_logger

if TYPE_CHECKING:
    from vmmd.core.fdsets import FdSets

log = get_logger("vmmd.chardev")

#: a full disk and a guest that prints: one line in this time, and one attempt to begin a new file
WARN_PERIOD_S = 60.0
RETRY_NS = 1_000_000_000
#: kept for a pipe whose reader is slow
WAITING_BYTES = 1 << 20


_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC


def create_output(path: str) -> int:
    """A descriptor to append to a new file. Raises OSError; FileExistsError: there is something of that name."""
    return os.open(path, _FLAGS | os.O_EXCL, 0o666)


def open_output(path: str, append: bool, fdsets: FdSets | None) -> tuple[int, CreatedFile | None]:
    """A descriptor to append to ``path``, emptied first unless ``append``; and the file if it is new. OSError."""
    if not path.startswith(PREFIX):
        try:
            fd = create_output(path)
        except FileExistsError:
            pass
        else:
            return fd, CreatedFile.opened(path, fd)
    return open_path(path, _FLAGS | (0 if append else os.O_TRUNC), 0o666, fdsets), None


def is_pollable(fd: int) -> bool:
    """False for regular files and /dev/null, which epoll does not take (they never block)."""
    with select.epoll(1) as probe:
        try:
            probe.register(fd, 0)
        except PermissionError:
            return False
    return True


class OutputFile:
    """See the module's text. ``limit_bytes``: 0 for none; ``keep``: full files that stay.

    A pipe whose reader is slow takes what it can; a megabyte waits for the rest, and what is more is lost."""

    def __init__(
        self, path: str, append: bool, fdsets: FdSets | None, *, limit_bytes: int = 0, keep: int = 0, what: str = "file"
    ) -> None:
        self.path = path
        self.lost_bytes = 0
        self.moved = 0  # how often a full file was moved
        self.created: CreatedFile | None = None
        self._append = append
        self._fdsets = fdsets
        self._limit = limit_bytes
        self._keep = keep if limit_bytes else 0
        self._what = what
        self._fd = -1
        self._pipe = False  # it may be full, and its flags may not be ours
        self._waiting = bytearray()
        self._size = 0  # of the file, when there is a limit
        self._retry_ns = 0
        self._may_warn = RateLimiter(WARN_PERIOD_S)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def open(self) -> None:
        """Create or truncate (unless ``append``) the file; where full files are kept, it is moved instead, so that the
        log of the run before stays. Raises BackendError."""
        moves = self._keep > 0 and not self._append
        before = self._fd
        try:
            self._fd, self.created = open_output(self.path, self._append or moves, self._fdsets)
            self._size = os.fstat(self._fd).st_size
            if moves and self._size:
                self._begin_new()
            self._pipe = is_pollable(self._fd)
        except OSError as error:
            if self._fd != before:
                os.close(self._fd)
                self._fd = before
            raise BackendError.from_os(f"Could not create '{self.path}'", error) from error

    def reopen(self) -> None:
        """Go on in the file that has the name now (somebody has moved ours). Raises BackendError; then the old file
        stays in use."""
        old = self._fd, self.created, self._append
        self._append = True
        try:
            self.open()
        except BackendError:
            _, self.created, self._append = old
            raise
        self.created = old[1]
        self.retry()
        if old[0] >= 0:
            os.close(old[0])

    def write(self, data: bytes | bytearray) -> None:
        """Append; what cannot be written is counted in ``lost_bytes``."""
        if not self._pipe:
            self._append_to_file(data)
            return
        self._waiting += data
        self.retry()
        excess = max(0, len(self._waiting) - WAITING_BYTES) if self._fd >= 0 else len(self._waiting)
        self.lost_bytes += excess
        del self._waiting[len(self._waiting) - excess :]

    @property
    def waiting(self) -> bool:
        """A pipe has not taken everything: ``retry`` after a while."""
        return len(self._waiting) > 0

    def retry(self) -> None:
        """Write to the pipe what it takes now. The kernel calls it writable when PIPE_BUF bytes fit (pipe(7))."""
        poller = select.poll()
        if self._fd >= 0:
            poller.register(self._fd, select.POLLOUT)
        while self._waiting and self._fd >= 0 and poller.poll(0):
            try:
                del self._waiting[: os.write(self._fd, self._waiting[: select.PIPE_BUF])]
            except BlockingIOError:
                return
            except OSError as error:
                self._warn(f"{error.strerror}; output is lost")
                self.lost_bytes += len(self._waiting)
                self._waiting.clear()

    def _append_to_file(self, data: bytes | bytearray) -> None:
        done = 0
        try:
            while self._fd >= 0 and done < len(data):
                room = self._room() if self._limit else len(data)
                if not room:
                    break
                count = os.write(self._fd, data[done : done + room] if done or room < len(data) else data)
                done += count
                self._size += count
        except OSError as error:
            self._warn(f"{error.strerror}; output is lost")
        self.lost_bytes += len(data) - done

    def _warn(self, what: str) -> None:
        if self._may_warn():
            log.warning("%s %s: %s", self._what, self.path, what)

    def _room(self) -> int:
        """Bytes that fit into the file; of a new one when it is full; 0 when none can be begun."""
        if self._size >= self._limit:
            self._size = os.fstat(self._fd).st_size  # somebody may have truncated it
        if self._size >= self._limit:
            now_ns = time.monotonic_ns()
            if now_ns < self._retry_ns:
                return 0
            self._retry_ns = now_ns + RETRY_NS
            self._begin_new()
            self._retry_ns = 0
        return self._limit - self._size

    def _begin_new(self) -> None:
        """Move the full file, and those before it. Raises OSError; the old one is still open then."""
        path, keep = self.path, self._keep
        if not keep:
            os.ftruncate(self._fd, 0)
            self._size = 0
            return
        # of a name that nobody else uses: nothing that is there is overwritten
        new = os.path.join(os.path.dirname(path), f".vmmd-{os.urandom(8).hex()}.new")
        fd = create_output(new)  # first what may fail on a full disk
        try:
            for number in range(keep - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{path}.{number}", f"{path}.{number + 1}")
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, f"{path}.1")
            os.rename(new, path)
        except BaseException:
            os.close(fd)
            os.unlink(new)
            raise
        os.close(self._fd)
        self._fd, self._size = fd, 0
        self.moved += 1

    def close(self) -> None:
        if self._fd >= 0:
            self.retry()
            self.lost_bytes += len(self._waiting)
            self._waiting.clear()
            os.close(self._fd)
            self._fd = -1

# SPDX-License-Identifier: Apache-2.0
"""The process around the machine: pid file, ``-daemonize``, its name.

Used before the event loop exists; imports nothing heavy.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from vmmd.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable


class PidFile:
    """``-pidfile``: holds the pid and a lock while the process lives; removed at the end if it is still ours."""

    def __init__(self, path: str) -> None:
        """Create, lock and write the file. Raises BackendError."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            # QEMU-COMPAT: "cannot create PID file: Cannot open pid file: Permission denied"
            raise BackendError.from_os(f"cannot create PID file '{path}'", cause) from cause
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            os.close(self._fd)
            raise BackendError(
                f"cannot create PID file '{path}': another process holds its lock", "is this VM already running?"
            ) from cause
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())
        self._inode = os.fstat(self._fd).st_ino

    def remove(self) -> None:
        """Unlink the file unless somebody replaced it."""
        try:
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            return
        finally:
            os.close(self._fd)


class Daemonizer:
    """``-daemonize``: the parent waits until the child has its monitors listening, then exits 0 (or 1)."""

    def __init__(self) -> None:
        self._ready_fd: int | None = None
        self._home_fd: int | None = None

    def fork(self, in_parent: Callable[[], None]) -> None:
        """Go on in a child of its own session. The parent calls ``in_parent``, waits and never returns. Before any
        thread is started."""
        read_end, write_end = os.pipe()
        if os.fork():
            in_parent()
            os.close(write_end)
            status = os.read(read_end, 1)  # empty: the child died; its message is on stderr
            os._exit(0 if status == b"\0" else 1)
        os.close(read_end)
        os.setsid()
        os.umask(0o027)  # QEMU-COMPAT: what its -daemonize sets
        self._ready_fd = write_end

    def ready(self) -> None:
        """The machine is built and its monitors listen: release fds 0 to 2 and let the parent go. Raises
        BackendError."""
        if self._ready_fd is None:
            return
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)
        self._home_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir("/")
        ready, self._ready_fd = self._ready_fd, None
        try:
            os.write(ready, b"\0")
        except OSError as cause:  # nobody would know of this machine
            raise BackendError.from_os("-daemonize: the process that started it has gone", cause) from cause
        finally:
            os.close(ready)

    def return_home(self) -> None:
        """Back to the directory of the start: what was made is removed by the names it was given there. Idempotent."""
        if self._home_fd is not None:
            os.fchdir(self._home_fd)
            os.close(self._home_fd)
            self._home_fd = None


def set_process_name(name: str) -> None:
    """``-name process=``: what ``ps`` and /proc/PID/comm show (15 bytes)."""
    with open("/proc/self/comm", "w", encoding="utf-8", errors="replace") as comm:
        comm.write(name[:15])

# SPDX-License-Identifier: Apache-2.0
"""Non-blocking byte streams under a monitor: a connected socket, or a pair of file descriptors (stdio, pty)."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.notify import LoopPort

#: most bytes taken by one read
READ_BYTES = 65536
#: taken of a UNIX socket while single commands come: a large buffer costs 2 µs for each of them
COMMAND_BYTES = 4096
#: most descriptors taken by one read; the kernel closes further ones
MAX_FDS = 16
_FD_BYTES = 4
#: plain numbers: arithmetic of enum.IntFlag takes a microsecond
_CLOSE_ON_EXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_CONTROL_BYTES = socket.CMSG_SPACE(MAX_FDS * _FD_BYTES)


class Stream(Protocol):
    """What a connection needs. All calls on the loop thread."""

    def read(self) -> bytes:
        """Some bytes; b"" at the end. Raises BlockingIOError when there are none now, OSError when broken."""

    def write(self, data: bytes | memoryview) -> int:
        """Write without waiting; returns how much was taken. Raises BlockingIOError or OSError."""

    def watch_input(self, loop: LoopPort, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever there is something to read."""

    def unwatch_input(self, loop: LoopPort) -> None:
        """Undo ``watch_input``."""

    def watch_output(self, loop: LoopPort, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever bytes can be written."""

    def unwatch_output(self, loop: LoopPort) -> None:
        """Undo ``watch_output``."""

    def watch_hang_up(self, loop: LoopPort, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when the other end sends no more, also while its input is not read; may call it more than
        once. What comes back ends the watch."""

    def close(self) -> None:
        """Give back what it has."""


class DescriptorStream:
    """Base of streams over file descriptors, which the loop watches."""

    __slots__ = ()

    if TYPE_CHECKING:
        read_fd: int
        write_fd: int

    def watch_input(self, loop: LoopPort, callback: Callable[[], None]) -> None:
        loop.add_reader(self.read_fd, callback)

    def unwatch_input(self, loop: LoopPort) -> None:
        loop.remove_reader(self.read_fd)

    def watch_output(self, loop: LoopPort, callback: Callable[[], None]) -> None:
        loop.add_writer(self.write_fd, callback)

    def unwatch_output(self, loop: LoopPort) -> None:
        loop.remove_writer(self.write_fd)

    def watch_hang_up(self, loop: LoopPort, callback: Callable[[], None]) -> Callable[[], None]:
        """The loop tells only of input; a poller of its own, edge-triggered, does not care whether that is read."""
        poller = select.epoll(1)
        try:
            poller.register(self.read_fd, select.EPOLLRDHUP | select.EPOLLET)
        except PermissionError:
            pass  # a regular file: it never hangs up

        def changed() -> None:
            if poller.poll(0):
                callback()

        def undo() -> None:
            loop.remove_reader(poller.fileno())
            poller.close()

        loop.add_reader(poller.fileno(), changed)
        return undo


class SocketStream(DescriptorStream):
    """A connected stream socket."""

    __slots__ = ("_socket", "read_fd", "write", "write_fd")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.read_fd = self.write_fd = sock.fileno()
        self.write = sock.send  # SIGPIPE is ignored by the interpreter

    def read(self) -> bytes:
        return self._socket.recv(READ_BYTES)

    def close(self) -> None:
        self._socket.close()


class UnixStream(SocketStream):
    """A connected UNIX socket, which may bring file descriptors: ``on_fds`` gets them, and why some of them are lost
    (or ""), before ``read`` returns the bytes that they came with."""

    __slots__ = ("_recvmsg", "_wanted_bytes", "on_fds")

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._recvmsg = sock.recvmsg
        self._wanted_bytes = COMMAND_BYTES
        self.on_fds: Callable[[list[int], str], None] | None = None

    def read(self) -> bytes:
        wanted = self._wanted_bytes
        data, control, flags, _address = self._recvmsg(wanted, _CONTROL_BYTES, _CLOSE_ON_EXEC)
        if len(data) == wanted:  # more than one command: the next read may be a large one
            self._wanted_bytes = READ_BYTES
        elif wanted != COMMAND_BYTES:
            self._wanted_bytes = COMMAND_BYTES
        if control or flags & _TRUNCATED:
            self._received(control, truncated=bool(flags & _TRUNCATED))
        return data

    def _received(self, control: list[tuple[int, int, bytes]], *, truncated: bool) -> None:
        fds: list[int] = []
        for level, kind, content in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(content) - len(content) % _FD_BYTES
                fds += memoryview(content)[:whole].cast("i")
        if self.on_fds is not None:
            self.on_fds(fds, _why_lost(len(fds)) if truncated else "")
        else:
            for fd in fds:
                os.close(fd)


def _why_lost(received: int) -> str:
    """The kernel has closed some: for want of room in the message, or in the process."""
    if received >= MAX_FDS:
        return f"at most {MAX_FDS} come with one message"
    return "the process cannot have more file descriptors (RLIMIT_NOFILE)"


class FdStream(DescriptorStream):
    """A pair of descriptors, which may be the same (pty).

    Unless ``owned`` they stay open and get their blocking mode back: a shell shares its terminal with us (stdio).
    """

    __slots__ = ("_blocking", "_owned", "read_fd", "write_fd")

    def __init__(self, read_fd: int, write_fd: int, *, owned: bool) -> None:
        self._blocking = {fd: os.get_blocking(fd) for fd in (read_fd, write_fd)}
        for fd in self._blocking:
            os.set_blocking(fd, False)
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._owned = owned

    def read(self) -> bytes:
        return os.read(self.read_fd, READ_BYTES)

    def write(self, data: bytes | memoryview) -> int:
        return os.write(self.write_fd, data)

    def close(self) -> None:
        for fd, blocking in self._blocking.items():
            if self._owned:
                os.close(fd)
            else:
                os.set_blocking(fd, blocking)

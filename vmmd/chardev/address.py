# SPDX-License-Identifier: Apache-2.0
"""Socket addresses of character devices: adopting descriptors, options of connections, and their texts.

Synchronous system calls; sockets come back non-blocking. Sockets from ``fd=`` belong to us from then on, but what they
are bound to does not: it is not unlinked.
"""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

from vmmd.core import sockets
from vmmd.errors import BackendError, UsageError

if TYPE_CHECKING:
    from vmmd.chardev.options import SocketOptions


def wanted_text(config: SocketOptions) -> str:
    """The address as configured, in query-chardev's spelling."""
    if config.fd is not None:
        return f"fd:{config.fd}"
    if config.host is not None:
        return f"tcp:{config.host}:{config.port}"
    # QEMU-COMPAT: tight=off is not shown
    tail = ",abstract=on" + (",tight=on" if config.tight else "") if config.abstract else ""
    return f"unix:{config.path}{tail}"


def bound_text(config: SocketOptions, listener: socket.socket) -> str:
    """The address a listening socket really has."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        if config.abstract:
            return wanted_text(config)
        return f"unix:{name if isinstance(name, str) else ''}"
    return f"tcp:{name[0]}:{name[1]}"


def peer_text(connection: socket.socket, server: bool) -> str:
    """A connection in query-chardev's spelling."""
    tail = ",server=on" if server else ""
    try:
        here = connection.getsockname()
        there = connection.getpeername()
    except OSError:
        return f"unix:{tail}"
    if connection.family == socket.AF_UNIX:
        return f"unix:{here if isinstance(here, str) else ''}{tail}"
    form = "[{}]:{}" if connection.family == socket.AF_INET6 else "{}:{}"
    return f"tcp:{form.format(*here[:2])}{tail} <-> {form.format(*there[:2])}"


def adopt(config: SocketOptions) -> socket.socket:
    """The socket of ``fd=``. Raises UsageError when it is none, or not of the needed kind."""
    text = config.fd or ""
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"fd={text} is not a file descriptor", "it takes a number")
    fd = int(text)
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except (OSError, OverflowError):
        is_socket = False
    if not is_socket:
        raise UsageError(f"File descriptor '{text}' is not a socket")
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    try:
        if config.server and not listening:
            sock.listen(sockets.BACKLOG)
    except OSError as error:
        sock.detach()
        raise BackendError.from_os(f"fd={text} cannot listen", error) from error
    if not config.server and listening:
        sock.detach()
        raise UsageError(f"fd={text} is a listening socket", "add server=on")
    sock.setblocking(False)
    return sock


def listen(config: SocketOptions) -> socket.socket:
    """A bound, listening, non-blocking socket. Raises BackendError or UsageError."""
    return adopt(config) if config.fd is not None else sockets.listen(config)


def connect(config: SocketOptions, timeout_s: float | None = None) -> socket.socket:
    """A connected socket; waits, so only at start-up or on a thread of its own. Raises BackendError."""
    if config.fd is not None:
        return adopt(config)
    sock = sockets.connect(config, timeout_s)
    try:
        tune(config, sock)
    except OSError as error:
        sock.close()
        raise BackendError.from_os(f"Failed to connect to '{config.host}:{config.port}'", error) from error
    return sock


def tune(config: SocketOptions, sock: socket.socket) -> None:
    """Options of a new connection."""
    sock.setblocking(False)
    if config.nodelay and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

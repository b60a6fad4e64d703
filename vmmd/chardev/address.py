# SPDX-License-Identifier: Apache-2.0
"""Socket addresses of character devices: binding, connecting, adopting descriptors, and their texts.

Everything here is synchronous system calls; listening sockets come back non-blocking. Sockets from ``fd=`` belong to us
from then on, but what they are bound to does not: it is not unlinked.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from vmmd.errors import BackendError, UsageError
from vmmd.units import UNIX_PATH_BYTES

if TYPE_CHECKING:
    from vmmd.chardev.options import SocketOptions

#: Connections that may wait to be accepted
BACKLOG = 16


def unix_name(config: SocketOptions) -> str | bytes:
    """The address to bind or connect: a path, or an abstract name."""
    path = config.path or ""
    if not config.abstract:
        return path
    name = b"\0" + os.fsencode(path)
    return name if config.tight else name.ljust(UNIX_PATH_BYTES, b"\0")


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
            sock.listen(BACKLOG)
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
    if config.fd is not None:
        return adopt(config)
    return _listen_inet(config) if config.host is not None else _listen_unix(config)


def _listen_unix(config: SocketOptions) -> socket.socket:
    path = config.path or ""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not config.abstract:
            _remove_stale(path)
        sock.bind(unix_name(config))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BackendError.from_os(f"Failed to bind socket to {path}", error) from error
    return sock


def _remove_stale(path: str) -> None:
    """Unlink a socket file nobody listens on. Raises OSError EADDRINUSE for anything else that is there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _resolve(config: SocketOptions, passive: bool) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    family = socket.AF_UNSPEC
    if (config.ipv4 and not config.ipv6) or config.ipv6 is False:
        family = socket.AF_INET
    if (config.ipv6 and not config.ipv4) or config.ipv4 is False:
        family = socket.AF_INET6
    try:
        found = socket.getaddrinfo(
            config.host or None, config.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE if passive else 0
        )
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is no domain name
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise BackendError(f"address resolution failed for {config.host}:{config.port}: {reason}") from error
    return [(entry[0], entry[4]) for entry in found]


def _listen_inet(config: SocketOptions) -> socket.socket:
    last: OSError | None = None
    for family, address in _resolve(config, passive=True):
        first = int(str(address[1]))
        for port in range(first, (config.to or first) + 1):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if config.ipv4 else 1)
                sock.bind((address[0], port, *address[2:]))
                sock.listen(BACKLOG)
                sock.setblocking(False)
            except OSError as error:
                sock.close()
                last = error
                if error.errno != errno.EADDRINUSE:
                    break
            else:
                return sock
    raise BackendError.from_os(f"Failed to find an available port for {config.host}:{config.port}", last or OSError())


def connect(config: SocketOptions, timeout_s: float | None = None) -> socket.socket:
    """A connected socket; waits, so only at start-up or on a thread of its own. Raises BackendError."""
    if config.fd is not None:
        return adopt(config)
    if config.host is None:
        candidates: list[tuple[socket.AddressFamily, object]] = [(socket.AF_UNIX, unix_name(config))]
        shown = f"'{config.path}'"
    else:
        candidates = list(_resolve(config, passive=False))
        shown = f"'{config.host}:{config.port}'"
    last = OSError(errno.ECONNREFUSED, "")
    for family, address in candidates:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)  # type: ignore[arg-type]  # the family decides the shape
            tune(config, sock)
        except TimeoutError:
            sock.close()
            last = OSError(errno.ETIMEDOUT, "")
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    raise BackendError.from_os(f"Failed to connect to {shown}", last)


def tune(config: SocketOptions, sock: socket.socket) -> None:
    """Options of a new connection."""
    sock.setblocking(False)
    if config.nodelay and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

# SPDX-License-Identifier: Apache-2.0
"""Stream sockets of the host by address: listening, connecting; the file of a UNIX socket.

Synchronous system calls; sockets come back non-blocking. A socket file that nobody listens on is replaced.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

from vmmd.errors import BackendError
from vmmd.units import UNIX_PATH_BYTES

if TYPE_CHECKING:
    from typing import Protocol

    class Address(Protocol):
        """A UNIX socket (``path``), or else ``host`` and ``port``."""

        @property
        def path(self) -> str | None: ...
        @property
        def abstract(self) -> bool: ...
        @property
        def tight(self) -> bool: ...
        @property
        def host(self) -> str | None: ...
        @property
        def port(self) -> str | None: ...
        @property
        def to(self) -> int | None: ...
        @property
        def ipv4(self) -> bool | None: ...
        @property
        def ipv6(self) -> bool | None: ...
        @property
        def numeric(self) -> bool: ...


#: Connections that may wait to be accepted
BACKLOG = 16
#: accept(2) says so when process or host has no room left. The connection stays in the backlog and keeps the socket
#: readable: without a pause the loop would spin
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
RETRY_ACCEPT_NS = 1_000_000_000

#: a family, and an address of it as the socket module has it: host, port, for IPv6 two numbers more
Resolved = tuple[socket.AddressFamily, tuple[Any, ...]]


def is_ipv4(text: str) -> bool:
    """Four numbers with dots between."""
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def is_group(text: str | None) -> bool:
    """An IPv4 multicast address."""
    return text is not None and is_ipv4(text) and 224 <= int(text.partition(".")[0]) <= 239  # RFC 1112 §4: class D


def unix_name(address: Address) -> str | bytes:
    """The address to bind or connect: a path, or an abstract name."""
    path = address.path or ""
    if not address.abstract:
        return path
    name = b"\0" + os.fsencode(path)
    return name if address.tight else name.ljust(UNIX_PATH_BYTES, b"\0")


def resolve(address: Address, kind: socket.SocketKind = socket.SOCK_STREAM, *, passive: bool = False) -> list[Resolved]:
    """Where ``host`` and ``port`` lead; never empty. Waits for name servers. Raises BackendError."""
    family = socket.AF_UNSPEC
    if (address.ipv4 and not address.ipv6) or address.ipv6 is False:
        family = socket.AF_INET
    if (address.ipv6 and not address.ipv4) or address.ipv4 is False:
        family = socket.AF_INET6
    flags = (socket.AI_PASSIVE if passive else 0) | (socket.AI_NUMERICHOST if address.numeric else 0)
    try:
        found = socket.getaddrinfo(address.host or None, address.port, family, kind, 0, flags)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is no domain name
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise BackendError(f"address resolution failed for {address.host}:{address.port}: {reason}") from error
    return [(entry[0], entry[4]) for entry in found]


def listen(address: Address) -> socket.socket:
    """A bound, listening, non-blocking socket. Raises BackendError."""
    return _listen_inet(address) if address.host is not None else _listen_unix(address)


def connect(address: Address, timeout_s: float | None = None) -> socket.socket:
    """A connected, non-blocking socket. Waits. Raises BackendError."""
    if address.host is None:
        candidates: list[tuple[socket.AddressFamily, object]] = [(socket.AF_UNIX, unix_name(address))]
        shown = f"'{address.path}'"
    else:
        candidates = list(resolve(address))
        shown = f"'{address.host}:{address.port}'"
    last = OSError(errno.ECONNREFUSED, "")
    for family, name in candidates:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(name)  # type: ignore[arg-type]  # the family decides the shape
            sock.setblocking(False)
        except TimeoutError:
            sock.close()
            last = OSError(errno.ETIMEDOUT, "")
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    raise BackendError.from_os(f"Failed to connect to {shown}", last)


def _listen_unix(address: Address) -> socket.socket:
    path = address.path or ""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not address.abstract:
            remove_stale(path)
        sock.bind(unix_name(address))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BackendError.from_os(f"Failed to bind socket to {path}", error) from error
    return sock


def remove_stale(path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    """Unlink a socket file that nobody has bound any more. Raises OSError EADDRINUSE for anything else that is
    there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass  # its backlog is full (EAGAIN), or it is of another kind (EPROTOTYPE): somebody is there
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _listen_inet(address: Address) -> socket.socket:
    last: OSError | None = None
    for family, name in resolve(address, passive=True):
        first = int(name[1])
        for port in range(first, (address.to or first) + 1):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.ipv4 else 1)
                sock.bind((name[0], port, *name[2:]))
                sock.listen(BACKLOG)
                sock.setblocking(False)
            except OSError as error:
                sock.close()
                last = error
                if error.errno != errno.EADDRINUSE:
                    break
            else:
                return sock
    raise BackendError.from_os(f"Failed to find an available port for {address.host}:{address.port}", last or OSError())


class SocketFile:
    """The file of a bound UNIX socket, which nobody removes but who made it."""

    def __init__(self, path: str) -> None:
        """Right after bind."""
        found = os.stat(path)
        self._path = path
        self._inode: tuple[int, int] | None = (found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Unlink it if it is still the one that was made. Idempotent."""
        inode, self._inode = self._inode, None
        if inode is None:
            return
        try:
            found = os.stat(self._path)
            if (found.st_dev, found.st_ino) == inode:
                os.unlink(self._path)
        except OSError:
            pass  # somebody else removed it

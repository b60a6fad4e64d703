# SPDX-License-Identifier: Apache-2.0
"""``-netdev dgram``, and ``-netdev socket`` with ``udp=``, ``mcast=`` or a datagram ``fd=``: a frame is a datagram.

Over UDP, to one address or to a multicast group that others are in, or over UNIX sockets. Nobody knows whether a peer
is there, so the link is always up. Anybody who can send to the socket is heard, as with QEMU.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.core import sockets
from vmmd.errors import BackendError, UsageError
from vmmd.net.base import Netdev
from vmmd.net.fd_queue import FdQueue
from vmmd.net.inherited import InheritedSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.notify import LoopPort
    from vmmd.net.base import Host
    from vmmd.net.options import DgramOptions, SocketAddress

#: The peer's queue of a UNIX socket is full: the kernel does not tell when it has room again, so it is tried again,
#: at first after this time, then after twice as long each time
_FIRST_PAUSE_NS = 1_000_000
_LONGEST_PAUSE_NS = 64_000_000
#: what a datagram that is thrown away is read into
_SCRAP_BYTES = 64

_readv = os.readv

#: host and port, and for IPv6 two numbers more
InetName = tuple[Any, ...]


class Way(NamedTuple):
    """A bound socket, where its datagrams go (None: where it is connected to), and what ``info network`` says."""

    sock: socket.socket
    target: Any
    text: str
    file: sockets.SocketFile | None = None


class DgramQueue(FdQueue):
    """One datagram socket, non-blocking."""

    def __init__(self, loop: LoopPort, way: Way) -> None:
        super().__init__(loop, way.sock.fileno())
        self._target = way.target
        self._send = way.sock.sendmsg
        #: polling tells nothing of the room that the peer has
        self._blind = way.sock.family == socket.AF_UNIX and way.target is not None
        self._pause_ns = _FIRST_PAUSE_NS
        self._scrap = bytearray(_SCRAP_BYTES)

    def read(self, buffers: Sequence[memoryview]) -> int:
        return 0 if self.cut else self._take(buffers)

    def _take(self, buffers: Sequence[memoryview]) -> int:
        try:
            return _readv(self.fd, buffers)
        except BlockingIOError:
            return 0
        except OSError:
            self._failed()
            return 0

    def write(self, buffers: Sequence[memoryview]) -> bool:
        if self.cut:
            self.dropped += 1
            return True
        try:
            self._send(buffers, (), 0, self._target)
        except BlockingIOError:
            self.wait_for_room()
            return False
        except OSError:
            self._failed()
        self._pause_ns = _FIRST_PAUSE_NS
        return True

    def _failed(self) -> None:
        """Nobody is there, or it is too long.

        ORDERING: uvloop does not watch a socket with an error any longer, also when that has been taken note of here.
        """
        self.dropped += 1
        self._loop.post(self._watch_again)

    def _watch_again(self) -> None:
        if self._reading:
            self._loop.remove_reader(self.fd)
            self._loop.add_reader(self.fd, self._readable)

    def discard(self) -> bool:
        return self._take([memoryview(self._scrap)]) > 0

    def wait_for_room(self) -> None:
        if not self._blind:
            super().wait_for_room()
        elif not self._writing:
            self._writing = True
            self._loop.call_later(self._pause_ns, self._try_again)
            self._pause_ns = min(2 * self._pause_ns, _LONGEST_PAUSE_NS)

    def _try_again(self) -> None:
        if self._writing:
            self._writable()


class DgramNetdev(Netdev):
    """``local=`` and ``remote=``."""

    kind = "dgram"

    def __init__(self, options: DgramOptions, host: Host, given: InheritedSocket | None = None) -> None:
        super().__init__(options, host)
        self.options = options
        self._given = given
        self.queues: Sequence[DgramQueue] = ()
        self._way: Way | None = None

    @property
    def open_may_wait(self) -> bool:
        return True  # for name servers

    def check(self) -> None:
        local = self.options.local
        if self._given is None and local is not None and local.fd is not None:
            self._given = InheritedSocket(self.host.descriptors, local.fd, self.id)
        given = self._given
        if given is None:
            return
        given.need(socket.SOCK_DGRAM)
        if self.options.remote is None and not given.connected and not _is_group(given.name):
            raise UsageError(f"fd={given.text} is not connected", "frames would have nowhere to go: connect it first")

    def open(self) -> None:
        self._way = self._make()
        self.queues = (DgramQueue(self.host.loop, self._way),)

    def _make(self) -> Way:
        local, remote = self.options.local, self.options.remote
        if self._given is not None:
            return given_way(self._given, None if remote is None else resolve(remote))
        assert remote is not None  # the options' check
        if remote.path is not None:
            assert local is not None
            return _unix_way(local, remote)
        target = resolve(remote)
        if _is_group(target):
            return group_way(target, None if local is None else resolve(local), "mcast={}:{}")
        assert local is not None
        return udp_way(resolve(local), target, "udp={2}:{3}/{0}:{1}")

    def stop(self) -> None:
        for queue in self.queues:
            queue.stop()

    def close(self) -> None:
        way, self._way = self._way, None
        self.queues = ()
        if way is not None:
            way.sock.close()
            if way.file is not None:
                way.file.remove()

    def describe(self, index: int) -> str:
        return "" if self._way is None else self._way.text


class LegacyDgramNetdev(DgramNetdev):
    """``-netdev socket``: other texts."""

    kind = "socket"

    def _make(self) -> Way:
        local, remote = self.options.local, self.options.remote
        if self._given is not None:
            way = given_way(self._given, None)
            return way._replace(text=f"socket: {way.text}")
        assert remote is not None
        target = resolve(remote)
        if _is_group(target):
            return group_way(target, None if local is None else resolve(local), "socket: mcast={}:{}")
        assert local is not None
        return udp_way(resolve(local), target, "socket: udp={0}:{1}")


def resolve(address: SocketAddress) -> InetName:
    """The address that ``host`` and ``port`` mean; of several an IPv4 one, as QEMU knows no other here. Waits for name
    servers. Raises BackendError."""
    found = sockets.resolve(address, socket.SOCK_DGRAM, passive=True)
    _family, name = min(found, key=lambda each: each[0] != socket.AF_INET)
    return name


def udp_way(local: InetName, target: InetName, text: str) -> Way:
    """From one address to one other. Raises BackendError."""
    if (":" in local[0]) != (":" in target[0]):
        raise BackendError(f"{local[0]} and {target[0]} are of different protocols", "both IPv4, or both IPv6")
    sock = _datagram_socket(socket.AF_INET6 if ":" in local[0] else socket.AF_INET)
    try:
        sock.bind(local)
    except OSError as error:
        sock.close()
        # QEMU-COMPAT: the phrase
        raise BackendError.from_os(f"can't bind ip={local[0]} to socket", error) from error
    return Way(sock, target, text.format(*target[:2], *local[:2]))


def group_way(group: InetName, interface: InetName | None, text: str) -> Way:
    """To all that are in a multicast group, on the interface with that address. Raises BackendError."""
    sock = _datagram_socket(socket.AF_INET)
    member = socket.inet_aton(group[0]) + socket.inet_aton("0.0.0.0" if interface is None else interface[0])
    try:
        # others on this host are in the group too
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(group)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        if interface is not None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member[4:])
    except OSError as error:
        sock.close()
        # QEMU-COMPAT: the phrase
        raise BackendError.from_os(f"can't add socket to multicast group {group[0]}", error) from error
    return Way(sock, group, text.format(*group))


def _unix_way(local: SocketAddress, remote: SocketAddress) -> Way:
    sock = _datagram_socket(socket.AF_UNIX)
    try:
        if local.path is not None and not local.abstract:
            sockets.remove_stale(local.path, socket.SOCK_DGRAM)
        sock.bind(sockets.unix_name(local))
    except OSError as error:
        sock.close()
        # QEMU-COMPAT: the sentence
        raise BackendError.from_os(f"can't bind unix={local.path} to socket", error) from error
    file = None if local.abstract or local.path is None else sockets.SocketFile(local.path)
    return Way(sock, sockets.unix_name(remote), f"udp={local.path}:{remote.path}", file)


def given_way(given: InheritedSocket, target: InetName | None) -> Way:
    """A socket that came from outside: connected, or in a multicast group that is its own name if it is not said."""
    family = "unix" if given.family == socket.AF_UNIX else "inet"
    return Way(given.take(), target or (None if given.connected else given.name), f"fd={given.fd} {family}")


def _datagram_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


def _is_group(name: object) -> bool:
    """The address of a socket is an IPv4 multicast address."""
    return isinstance(name, tuple) and sockets.is_group(str(name[0]))

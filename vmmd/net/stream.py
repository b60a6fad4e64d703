# SPDX-License-Identifier: Apache-2.0
"""``-netdev stream``, and ``-netdev socket`` with ``listen=``, ``connect=`` or a connected ``fd=``: frames in a byte
stream (``frames``) over TCP or a UNIX socket.

A server serves one peer at a time; the next waits in its backlog until that one leaves. A client connects once. While
there is no peer the link is down, and what the guest sends is dropped.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vmmd.core import sockets
from vmmd.core.ending import early_end
from vmmd.core.events import InetPeer, NetdevStreamConnectedEvent, NetdevStreamDisconnectedEvent, UnixPeer
from vmmd.log import RateLimiter, get_logger
from vmmd.net.base import Netdev
from vmmd.net.inherited import InheritedSocket
from vmmd.net.stream_queue import StreamQueue

if TYPE_CHECKING:
    from vmmd.core.notify import Cancellable
    from vmmd.net.base import Host
    from vmmd.net.options import SocketAddress, StreamOptions

log = get_logger("vmmd.net")

#: patience with a connection that is being made while the machine runs
_CONNECT_TIMEOUT_S = 30.0


class StreamNetdev(Netdev):
    """One server or client."""

    kind = "stream"
    announces = True  # by events

    def __init__(self, options: StreamOptions, host: Host, given: InheritedSocket | None = None) -> None:
        super().__init__(options, host)
        self.address: SocketAddress = options.addr
        self.server = options.server
        self.queue = StreamQueue(host.loop, self._ended)
        self.queues = (self.queue,)
        self.alive = False
        self._given = given
        self._listener: socket.socket | None = None
        self._file: sockets.SocketFile | None = None
        self._accepting = False
        self._pause: Cancellable | None = None  # of accepting
        self._first: socket.socket | None = None  # a client's connection before ``start``
        self._info = ""
        self._may_warn = RateLimiter()

    @property
    def open_may_wait(self) -> bool:
        return True  # for name servers, peers

    # --- start and end ----------------------------------------------------------------------------------------

    def check(self) -> None:
        if self._given is None and self.address.fd is not None:
            self._given = InheritedSocket(self.host.descriptors, self.address.fd, self.id)
        if self._given is not None:
            self._given.need_stream(self.server)

    def open(self) -> None:
        if not self.server:
            self._first = self._given.take() if self._given is not None else self._connect()
        elif self._given is not None:
            self._listener = self._given.take()
        else:
            self._listener = sockets.listen(self.address)
            if self.address.path is not None and not self.address.abstract:
                self._file = sockets.SocketFile(self.address.path)

    def _connect(self) -> socket.socket:
        if not self.host.loop.on_loop_thread():
            return sockets.connect(self.address, _CONNECT_TIMEOUT_S)
        with early_end:
            return sockets.connect(self.address)

    def start(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            self._serve(first)
        else:
            self._accept_next()

    def stop(self) -> None:
        self._accept_no_more()
        self.queue.hang_up()

    def close(self) -> None:
        for sock in (self._listener, self._first):
            if sock is not None:
                sock.close()
        self._listener = self._first = None
        if self._file is not None:
            self._file.remove()
            self._file = None

    # --- connections ------------------------------------------------------------------------------------------

    def describe(self, index: int) -> str:
        return self._info

    def _accept_next(self) -> None:
        if self._listener is not None and not self._accepting:
            self._accepting = True
            self.host.loop.add_reader(self._listener.fileno(), self._arrived)

    def _accept_no_more(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._accepting and self._listener is not None:
            self._accepting = False
            self.host.loop.remove_reader(self._listener.fileno())

    def _arrived(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in sockets.NO_ROOM:
                if self._may_warn():
                    log.warning("netdev %s: cannot accept a connection: %s", self.id, error)
                self._accept_no_more()
                self._pause = self.host.loop.call_later(sockets.RETRY_ACCEPT_NS, self._accept_next)
            return  # or it has left already
        self._accept_no_more()
        sock.setblocking(False)
        self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._tune(sock)
            self._info = self._text(sock)
            addr = _peer(sock, self.address)
        except OSError:  # it has left already
            sock.close()
            self._accept_next()
            return
        self.queue.serve(sock)
        self.set_alive(True)
        if self.announces:
            self.host.events.emit(NetdevStreamConnectedEvent(self.id, addr))

    def _tune(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.address.keep_alive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _text(self, sock: socket.socket) -> str:
        """The connection as ``info network`` shows it."""
        if sock.family == socket.AF_UNIX:
            return f"unix:{_met_at(sock, self.address)}"
        host, port, *_ = sock.getpeername()
        return f"tcp:{host}:{port}"

    def _ended(self, why: str) -> None:
        """The connection is of no use any more."""
        self.queue.hang_up()
        self._info = ""
        log.info("netdev %s: the peer has gone%s", self.id, f": {why}" if why else "")
        self.set_alive(False)
        if self.announces:
            self.host.events.emit(NetdevStreamDisconnectedEvent(self.id))
        self._accept_next()


class LegacyStreamNetdev(StreamNetdev):
    """``-netdev socket``: other texts, and no events."""

    kind = "socket"
    announces = False

    def _text(self, sock: socket.socket) -> str:
        if self.address.fd is not None:
            return f"socket: fd={sock.fileno()}"
        name = sock.getpeername()
        return f"socket: {'connection from' if self.server else 'connect to'} {name[0]}:{name[1]}"


def _peer(sock: socket.socket, address: SocketAddress) -> InetPeer | UnixPeer:
    """Who is there, as the event says. Raises OSError."""
    if sock.family == socket.AF_UNIX:
        peer: UnixPeer = {"type": "unix", "path": _met_at(sock, address)}
        if address.abstract:
            peer |= {"abstract": True, "tight": address.tight}
        return peer
    name = sock.getpeername()
    if sock.family == socket.AF_INET6:
        return {"type": "inet", "host": name[0], "port": str(name[1]), "ipv6": True}
    return {"type": "inet", "host": name[0], "port": str(name[1]), "ipv4": True}


def _met_at(sock: socket.socket, address: SocketAddress) -> str:
    """The path of a UNIX socket: of this end when it has one, else of the other."""
    if address.path is not None:
        return address.path
    names: list[str | bytes] = [sock.getsockname(), sock.getpeername()]
    return next((name for name in names if isinstance(name, str) and name), "")

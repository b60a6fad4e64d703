# SPDX-License-Identifier: Apache-2.0
"""The monitor server: listening sockets, clients, and the way of events to them. Loop thread, except ``emit``.

It works on a ``LoopPort``, so it can be set up, and can even accept and greet, before asyncio is imported: what it
registers early is handed to the loop when that runs.
"""

from __future__ import annotations

from socket import AF_UNIX
from typing import TYPE_CHECKING, Protocol

from vmmd.core.sockets import NO_ROOM, RETRY_ACCEPT_NS
from vmmd.log import RateLimiter, get_logger
from vmmd.qmp.events import EventRouter
from vmmd.qmp.session import error_reply, greeting, greeting_bytes

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Callable

    from vmmd.core.backend import CharBackend
    from vmmd.core.notify import LoopPort
    from vmmd.qmp.connection import Connection
    from vmmd.qmp.streams import Stream
    from vmmd.qmp.vm_api import VmApi

log = get_logger("vmmd.qmp")

#: clients of one listening socket; further ones get one error line. An idle session takes some kilobytes, one whose
#: client never reads some hundred, and a reply
MAX_CLIENTS = 64
#: connections taken by one wake-up of the loop
ACCEPT_BATCH = 16

GREETING = greeting_bytes()


class ClientObserver(Protocol):
    """Who wants to know of a listener's clients (chardev.listen.ListenSocket)."""

    def joined(self, connection: socket.socket) -> None: ...

    def left(self, connection: socket.socket) -> None: ...


class Listener:
    """One listening monitor socket and its clients."""

    def __init__(
        self, server: QmpServer, sock: socket.socket, *, pretty: bool, max_clients: int, observer: ClientObserver | None
    ) -> None:
        sock.setblocking(False)
        self._observer = observer
        self._server = server
        self._socket = sock
        self._pretty = pretty
        self._max_clients = max_clients
        self.clients: set[Connection] = set()
        self._may_warn = RateLimiter()
        server.loop.add_reader(sock.fileno(), self.accept)

    @property
    def connected(self) -> bool:
        """True when a client is there (query-chardev's ``disconnected:``)."""
        return bool(self.clients)

    def accept(self) -> None:
        """Take and greet the connections that wait. Works before the loop runs, too."""
        for _turn in range(ACCEPT_BATCH):
            try:
                sock, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            if len(self.clients) >= self._max_clients:
                self._refuse(sock)
            else:
                self.adopt(sock)

    def adopt(self, sock: socket.socket, *, greeted: bool = False) -> None:
        """Serve a socket that was accepted (and perhaps greeted) elsewhere."""
        observer = self._observer
        if observer is not None:
            observer.joined(sock)
        self._server.serve(
            _socket_stream(sock),
            pretty=self._pretty,
            greeted=greeted,
            group=self.clients,
            on_close=None if observer is None else lambda: observer.left(sock),
        )

    def close(self) -> None:
        """Stop listening. The path of a UNIX socket belongs to whoever made it."""
        if self._socket.fileno() >= 0:
            self._server.loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _refuse(self, sock: socket.socket) -> None:
        from vmmd.qmp.wire import encode

        text = f"This monitor has {self._max_clients} clients already"
        sock.setblocking(False)
        try:
            sock.send(encode(error_reply("GenericError", text), self._pretty))
        except OSError:
            log.debug("a refused client did not wait for the reason")
        sock.close()

    def _pause_accepting(self, error: OSError) -> None:
        if self._may_warn():
            log.warning("cannot accept a monitor connection: %s", error)
        if error.errno in NO_ROOM:
            self._server.loop.remove_reader(self._socket.fileno())
            self._server.loop.call_later(RETRY_ACCEPT_NS, self._accept_again)

    def _accept_again(self) -> None:
        if self._socket.fileno() >= 0:
            self._server.loop.add_reader(self._socket.fileno(), self.accept)


class QmpServer:
    """All monitors of one machine; implements ``core.events.EventSink``."""

    def __init__(self, vm: VmApi, loop: LoopPort) -> None:
        self.loop = loop
        self._vm = vm
        self._listeners: list[Listener] = []
        self._connections: set[Connection] = set()
        self._router = EventRouter(loop, self._deliver)

    def listen(
        self,
        sock: socket.socket,
        pretty: bool = False,
        max_clients: int = MAX_CLIENTS,
        observer: ClientObserver | None = None,
    ) -> Listener:
        """Serve a bound and listening stream socket. ``observer`` is told who comes and goes (query-chardev)."""
        listener = Listener(self, sock, pretty=pretty, max_clients=max_clients, observer=observer)
        self._listeners.append(listener)
        return listener

    def connect_client(self, sock: socket.socket, pretty: bool = False, *, greeted: bool = False) -> Connection:
        """Serve a socket that we connected (``-qmp unix:path``), or that has been greeted already."""
        return self.serve(_socket_stream(sock), pretty=pretty, greeted=greeted)

    def add_stream(self, read_fd: int, write_fd: int, pretty: bool = False, *, owned: bool = True) -> Connection:
        """Serve a pair of descriptors (stdio, pty). With ``owned`` they are closed with the session."""
        from vmmd.qmp.streams import FdStream

        return self.serve(FdStream(read_fd, write_fd, owned=owned), pretty=pretty)

    def attach(self, chardev: CharBackend, lock: threading.Lock, *, pretty: bool) -> None:
        """Serve the peers of a character device, one at a time. Raises UsageError when it has a user."""
        from vmmd.qmp.char_monitor import ChardevMonitor

        ChardevMonitor(self, chardev, pretty=pretty).attach(lock)

    def serve(
        self,
        stream: Stream,
        *,
        pretty: bool = False,
        greeted: bool = False,
        group: set[Connection] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> Connection:
        """Serve any stream; ``group`` is kept up to date with the sessions that are open."""
        greeting_left = b"" if greeted else self._greeting(pretty)
        greeting_left = greeting_left[_write_now(stream, greeting_left) :]
        from vmmd.qmp.connection import Connection

        def closed(connection: Connection) -> None:
            self._connections.discard(connection)
            if group is not None:
                group.discard(connection)
            if on_close is not None:
                on_close()
            if not self._connections and self._vm.runstate.running:
                # QEMU-COMPAT: not before the machine runs
                self._vm.fdsets.close_unused()

        connection = Connection(self._vm, self.loop, stream, closed, pretty)
        self._connections.add(connection)
        if group is not None:
            group.add(connection)
        connection.start(greeting_left)
        return connection

    @staticmethod
    def _greeting(pretty: bool) -> bytes:
        if not pretty:
            return GREETING
        from vmmd.qmp.wire import encode

        return encode(greeting(), pretty)

    def emit(self, instance: tuple[object, ...]) -> None:
        """Send an event to every negotiated session. Any thread; never blocks."""
        self._router.emit(instance)

    def _deliver(self, message: dict[str, object]) -> None:
        from vmmd.qmp.wire import encode

        self._vm.event_ring.add(message)
        encoded: dict[bool, bytes] = {}
        for connection in list(self._connections):
            if connection.session.negotiated:
                if connection.pretty not in encoded:
                    encoded[connection.pretty] = encode(message, connection.pretty)
                connection.send_event(encoded[connection.pretty])

    def close(self) -> None:
        """Stop listening and end every session; replies that can be written at once are. Idempotent."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections):
            connection.close()


def warm_up() -> None:
    """Load now what the first command would load: the commands, JSON, the schema. Any thread."""
    import json

    from vmmd.qmp import wire
    from vmmd.qmp.registry import load

    wire.decode_simple(b"{}")
    wire.encode({})
    load()
    json.dumps({})
    from vmmd.qmp.commands.introspect import published

    published()


def _socket_stream(sock: socket.socket) -> Stream:
    from vmmd.qmp.streams import SocketStream, UnixStream

    return UnixStream(sock) if sock.family == AF_UNIX else SocketStream(sock)


def _write_now(stream: Stream, data: bytes) -> int:
    """Send the greeting before anything else is imported; returns how much went out (errors come up again later)."""
    try:
        return stream.write(data) if data else 0
    except OSError:
        return 0

# SPDX-License-Identifier: Apache-2.0
"""The socket of a character device before anybody talks on it: bound and listening, or to be connected.

Used by ``SocketChardev``, and by the monitor server, which accepts any number of clients on it itself.
"""

from __future__ import annotations

import sys
from socket import SHUT_RDWR
from typing import TYPE_CHECKING

from vmmd.chardev import address
from vmmd.core.ending import early_end
from vmmd.core.sockets import NO_ROOM, SocketFile
from vmmd.errors import BackendError

if TYPE_CHECKING:
    import socket

    from vmmd.chardev.options import SocketOptions


class ListenSocket:
    """``open`` makes the system calls; ``sock`` is then the listening socket, or None for a client.

    For query-chardev: ``label``, ``filename`` and ``frontend_open``. Whoever accepts reports connections with
    ``joined`` and ``left``; the text follows.
    """

    def __init__(self, config: SocketOptions) -> None:
        self.label = config.id
        self.config = config
        self.sock: socket.socket | None = None
        self.frontend_open = False
        self._connections: list[socket.socket] = []
        self._address = address.wanted_text(config)
        self._file: SocketFile | None = None

    @property
    def is_server(self) -> bool:
        return self.config.server

    @property
    def waits(self) -> bool:
        """The start waits for the first client."""
        return self.config.waits

    @property
    def filename(self) -> str:
        """As QEMU's query-chardev shows it; with several connections, the latest."""
        if self._connections:
            return address.peer_text(self._connections[-1], self.is_server)
        return f"disconnected:{self._address}" + (",server=on" if self.is_server else "")

    def open(self) -> None:
        """Bind and listen; with ``wait=on`` the caller goes on with ``wait``. Raises BackendError, UsageError."""
        if not self.is_server:
            return
        self.sock = address.listen(self.config)
        self._address = address.bound_text(self.config, self.sock)
        if self.config.path is not None and not self.config.abstract:
            self._file = SocketFile(self.config.path)

    def wait(self) -> socket.socket:
        """Block until the first client is there (``wait=on``). Before the loop runs only. Raises BackendError."""
        import select

        # QEMU-COMPAT: scripts wait for this line
        print(f"vmmd: info: QEMU waiting for connection on: {self.filename}", file=sys.stderr, flush=True)
        while True:
            assert self.sock is not None  # open() came first
            poller = select.poll()
            poller.register(self.sock, select.POLLIN)
            with early_end:
                poller.poll()
            if (connection := self.accept()) is not None:
                return connection

    def accept(self) -> socket.socket | None:
        """The next client, non-blocking, or None when none waits (or it has already left). Raises BackendError when
        there is no room for one that waits: it has to be tried again later."""
        if self.sock is None:
            return None
        try:
            connection, _ = self.sock.accept()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise BackendError.from_os(f"chardev '{self.label}': cannot accept a connection", error) from error
            return None
        try:
            address.tune(self.config, connection)
        except OSError:
            connection.close()
            return None
        return connection

    def connect(self, timeout_s: float | None = None) -> socket.socket:
        """The client's connection; blocks. Raises BackendError."""
        if timeout_s is not None:  # on a thread of its own, where no signal comes
            return address.connect(self.config, timeout_s)
        with early_end:
            return address.connect(self.config)

    def joined(self, connection: socket.socket) -> None:
        self._connections.append(connection)

    def left(self, connection: socket.socket) -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    def yank(self) -> None:
        """Shut every connection down, whatever its peer does. Loop thread."""
        for connection in self._connections:
            try:
                connection.shutdown(SHUT_RDWR)
            except OSError:
                pass  # it is gone already

    def close(self) -> None:
        """Stop listening; unlink the socket file if it is still the one we made. Idempotent."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        if self._file is not None:
            self._file.remove()
            self._file = None

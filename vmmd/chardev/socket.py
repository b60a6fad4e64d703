# SPDX-License-Identifier: Apache-2.0
"""``-chardev socket``: UNIX or TCP, server (one client at a time) or client (with ``reconnect=``).

Further clients of a server wait in its backlog until the present one leaves, as with QEMU. Output without a peer is
dropped; the log has it.
"""

from __future__ import annotations

import os
import select
import time
from socket import send_fds
from typing import TYPE_CHECKING

from vmmd.chardev.base import CHUNK_BYTES
from vmmd.chardev.listen import ListenSocket
from vmmd.chardev.stream import StreamChardev
from vmmd.core.backend import CharEvent
from vmmd.core.ending import early_end
from vmmd.core.sockets import RETRY_ACCEPT_NS
from vmmd.errors import BackendError, VmmdError
from vmmd.log import RateLimiter, get_logger
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Callable, Sequence

    from vmmd.chardev.logfile import LogFile
    from vmmd.chardev.options import SocketOptions
    from vmmd.core.notify import LoopPort

log = get_logger("vmmd.chardev")

#: Patience with one attempt to connect
CONNECT_TIMEOUT_S = 30.0


class SocketChardev(StreamChardev):
    config: SocketOptions

    def __init__(self, config: SocketOptions, loop: LoopPort, lock: threading.Lock, log: LogFile | None = None) -> None:
        super().__init__(config, loop, lock, log)
        self._peer_options = self.config
        self.listen_socket = ListenSocket(config)
        self._connection: socket.socket | None = None
        self._accepting = False
        self._expecting: list[Callable[[], None]] = []
        self._may_warn = RateLimiter()
        self._reported = False  # a failed attempt to connect was reported

    @property
    def filename(self) -> str:
        return self.listen_socket.filename

    @property
    def open_may_wait(self) -> bool:
        config = self.config
        return config.host is not None or not (config.server or config.reconnect or config.fd is not None)

    def retire(self) -> None:
        """Its address is free at once."""
        self._unlisten()
        self.listen_socket.close()
        super().retire()

    def yank(self) -> None:
        """Shut the connection down, whatever its peer does; the hang-up is then seen as any other. Loop thread."""
        self.listen_socket.yank()

    # -- core.backend.MessageBackend -----------------------------------------------------------------------------

    @property
    def passes_descriptors(self) -> bool:
        return self.config.host is None

    def send_message(self, data: bytes, fds: Sequence[int]) -> bool:
        if self._connection is None:
            return False
        try:
            # a stream socket takes less than all only when it has no room, which a peer that reads leaves
            return send_fds(self._connection, [data], list(fds)) == len(data)
        except OSError:
            return False

    def disconnect(self) -> None:
        if self._loop.runs:
            self.yank()
        elif self._connection is not None:
            self._drop_peer()

    def wait_connected(self) -> None:
        config = self.config
        while self._connection is None:
            if config.server:
                self._take(self.listen_socket.wait())
            elif not config.reconnect:
                raise BackendError(f"chardev '{self.label}': the peer has closed the connection")
            else:
                try:
                    self._take(self.listen_socket.connect())
                except BackendError as error:
                    self._report(error)
                    with early_end:
                        time.sleep(config.reconnect)
        self._loop.post(self._started)

    def read_now(self, timeout_s: float) -> bytes:
        if self._connection is not None:
            poller = select.poll()
            poller.register(self._connection, select.POLLIN)
            with early_end:
                ready = poller.poll(timeout_s * 1000)
            data = self._receive(CHUNK_BYTES) if ready else b""
            if data:
                return data
            self._drop_peer()
        return b""

    def when_connected(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once there is a peer, or never will be (closed). Loop thread."""
        if self._connection is not None or self._closed:
            callback()
        else:
            self._expecting.append(callback)

    def _tell_expecting(self) -> None:
        expecting, self._expecting = self._expecting, []
        for callback in expecting:
            callback()

    def _open(self) -> None:
        self.listen_socket.open()
        if self.config.server:
            if self.config.waits:
                self._take(self.listen_socket.wait())
            self._loop.post(self._listen)
        elif self.config.reconnect:
            self._loop.post(self._try_connect)
        else:
            self._take(self.listen_socket.connect(self.patience_s))
        if self._connection is not None:
            self._loop.post(self._started)

    def _close(self) -> None:
        self._unlisten()
        if self._connection is not None:
            self._drop_peer()
        self.listen_socket.close()
        self._tell_expecting()

    # -- connections -------------------------------------------------------------------------------------------

    def _take(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read_fd = self._write_fd = connection.fileno()
        self._paused = False
        self.listen_socket.joined(connection)

    def _started(self) -> None:
        """A connection made by ``open`` is served from now on. Loop thread."""
        if self._connection is not None:
            self._replay()
            self._watch_input()

    def _emit_views(self, views: Sequence[memoryview]) -> int:
        """Guest RAM goes to the kernel without a copy."""
        if self._write_fd < 0:
            return super()._emit_views(views)
        try:
            return os.writev(self._write_fd, views)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            lost = sum(map(len, views))
            self.dropped_bytes += lost
            self._write_failed(error)
            return lost

    def _drop_peer(self) -> None:
        super()._drop_peer()
        connection, self._connection = self._connection, None
        if connection is not None:
            self.listen_socket.left(connection)
            connection.close()

    def _hung_up(self) -> None:
        super()._hung_up()
        if self._closed or self._retiring:
            return
        if self.config.server:
            self._listen_again()
        elif self.config.reconnect:
            self._loop.call_later(self.config.reconnect * NS_PER_S, self._try_connect)

    def _listen_again(self) -> None:
        """For the next peer, once the requests of the last one have been served."""
        with self._lock:
            self._ending = self._answering()
        if not self._ending:
            self._listen()

    def _resume(self) -> None:
        was_ending = self._ending
        super()._resume()
        if was_ending and self._connection is None and self.config.server and not (self._closed or self._retiring):
            self._listen_again()

    def _listen(self) -> None:
        sock = self.listen_socket.sock
        if sock is not None and not self._accepting and self._connection is None:
            self._accepting = True
            self._loop.add_reader(sock.fileno(), self._arrived)

    def _unlisten(self) -> None:
        sock = self.listen_socket.sock
        if self._accepting and sock is not None:
            self._loop.remove_reader(sock.fileno())
        self._accepting = False

    def _arrived(self) -> None:
        try:
            connection = self.listen_socket.accept()
        except BackendError as error:
            if self._may_warn():
                log.warning("%s", error)
            self._unlisten()
            self._loop.call_later(RETRY_ACCEPT_NS, self._listen)
            return
        if connection is not None:
            self._unlisten()
            self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        self._take(connection)
        self._tell_expecting()
        self._replay()
        self._tell(CharEvent.OPENED)
        if self._connection is connection:
            self._watch_input()

    # -- reconnect= --------------------------------------------------------------------------------------------

    def _try_connect(self) -> None:
        """Connect on a thread of its own: name resolution and connect may block. Loop thread."""
        if self._closed or self._retiring or self._connection is not None:
            return
        import threading

        threading.Thread(target=self._connect_thread, name=f"connect/{self.label}", daemon=True).start()

    def _connect_thread(self) -> None:
        try:
            connection = self.listen_socket.connect(CONNECT_TIMEOUT_S)
        except VmmdError as error:
            self._loop.post(self._connect_failed, error)
        else:
            self._loop.post(self._connect_done, connection)

    def _connect_done(self, connection: socket.socket) -> None:
        if self._closed or self._retiring:
            connection.close()
            return
        self._reported = False
        self._serve(connection)

    def _connect_failed(self, error: VmmdError) -> None:
        if self._closed:
            return
        self._report(error)
        self._loop.call_later(self.config.reconnect * NS_PER_S, self._try_connect)

    def _report(self, error: VmmdError) -> None:
        """Say once that nobody is there."""
        if not self._reported:
            from vmmd.log import get_logger

            self._reported = True
            get_logger("vmmd.chardev").warning("Unable to connect character device %s: %s", self.label, error)

# SPDX-License-Identifier: Apache-2.0
"""QMP on a character device with one peer at a time: pty, stdio, a socket that connects again (``-mon mode=control``).

The monitor is the front end of the device; each peer that comes gets a session of its own, greeting first. Loop thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.backend import CharEvent
from vmmd.qmp.streams import READ_BYTES

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vmmd.core.backend import CharBackend, CharFrontend
    from vmmd.core.notify import LoopPort
    from vmmd.qmp.server import QmpServer


class ChardevMonitor:
    """Implements ``core.backend.OrderedFrontend``."""

    def __init__(self, server: QmpServer, chardev: CharBackend, *, pretty: bool) -> None:
        self._server = server
        self._chardev = chardev
        self._pretty = pretty
        self._stream: ChardevStream | None = None

    def attach(self, lock: threading.Lock) -> None:
        """Become the front end of the device. Raises UsageError when it has one."""
        frontend: CharFrontend = self
        with lock:
            self._chardev.attach(frontend)
        self._chardev.set_open(True)

    # called with the DeviceLock held: commands must not run in here, so all is posted

    def can_receive(self) -> int:
        return 0 if self._stream is None else self._stream.room

    def receive(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.arrived(data)

    def handle_event(self, event: CharEvent) -> None:
        if event is CharEvent.OPENED:
            self._end_session()
            self._stream = ChardevStream(self._server.loop, self._chardev)
            self._server.loop.post(self._serve, self._stream)
        elif event is CharEvent.CLOSED:
            self._end_session()

    def answering(self) -> bool:
        return False  # a session ends with its client

    def write_ready(self) -> None:
        if self._stream is not None:
            self._stream.has_room()

    def _end_session(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.hang_up()

    def _serve(self, stream: ChardevStream) -> None:
        self._server.serve(stream, pretty=self._pretty)


class ChardevStream:
    """The way of one peer's bytes (``qmp.streams.Stream``)."""

    def __init__(self, loop: LoopPort, chardev: CharBackend) -> None:
        self._loop = loop
        self._chardev: CharBackend | None = chardev
        self._input = bytearray()
        self._ended = False
        self._on_input: Callable[[], None] | None = None
        self._on_room: Callable[[], None] | None = None
        self._on_hang_up: Callable[[], None] | None = None

    # -- the device's side -----------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Input that is taken now."""
        return READ_BYTES - len(self._input) if self._on_input is not None else 0

    def arrived(self, data: bytes) -> None:
        """The peer has sent something."""
        self._input += data
        self._loop.post(self._tell_input)

    def hang_up(self) -> None:
        """The peer sends no more: what it had sent is still run. Unless it reads on (stdio) the replies are dropped."""
        self._ended = True
        if self._chardev is not None and not self._chardev.connected:
            self._chardev = None
        self._loop.post(self._tell_input)
        self._loop.post(self._tell_room)
        self._loop.post(self._tell_hang_up)

    def has_room(self) -> None:
        """The device takes output again."""
        self._loop.post(self._tell_room)

    def _tell_input(self) -> None:
        if self._on_input is not None and (self._input or self._ended):
            self._on_input()

    def _tell_room(self) -> None:
        if self._on_room is not None:
            self._on_room()

    def _tell_hang_up(self) -> None:
        if self._on_hang_up is not None and self._ended:
            self._on_hang_up()

    # -- the session's side ----------------------------------------------------------------------------------------

    def read(self) -> bytes:
        if not self._input:
            if self._ended:
                return b""
            raise BlockingIOError
        data = bytes(self._input)
        self._input.clear()
        return data

    def write(self, data: bytes | memoryview) -> int:
        if self._chardev is None:
            return len(data)
        taken = self._chardev.write(bytes(data))
        if not taken:
            raise BlockingIOError
        return taken

    def watch_input(self, loop: LoopPort, callback: Callable[[], None]) -> None:
        self._on_input = callback
        if self._input or self._ended:
            loop.post(self._tell_input)
        if self._chardev is not None:
            self._chardev.accept_input()

    def unwatch_input(self, loop: LoopPort) -> None:
        self._on_input = None

    def watch_output(self, loop: LoopPort, callback: Callable[[], None]) -> None:
        self._on_room = callback
        if self._chardev is None:
            loop.post(self._tell_room)

    def unwatch_output(self, loop: LoopPort) -> None:
        self._on_room = None

    def watch_hang_up(self, loop: LoopPort, callback: Callable[[], None]) -> Callable[[], None]:
        def undo() -> None:
            self._on_hang_up = None

        self._on_hang_up = callback
        loop.post(self._tell_hang_up)
        return undo

    def close(self) -> None:
        self._on_input = self._on_room = self._on_hang_up = None
        self._ended = True

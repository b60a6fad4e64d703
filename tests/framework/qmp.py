# SPDX-License-Identifier: Apache-2.0
"""A small blocking QMP client for tests.

It reports exactly what came over the wire: replies are matched by id, errors keep class and description, events
are kept in arrival order, and `transcript` holds every message so that a test can check the order of replies
and events. Raw bytes can be sent for tests of the wire itself.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from tests.framework.wait import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable

Message = dict[str, Any]
REPLY_TIMEOUT_S = 60.0


class QmpError(Exception):
    """An error reply: `error_class` and `desc` as they came."""

    def __init__(self, error_class: str, desc: str) -> None:
        super().__init__(f"{error_class}: {desc}")
        self.error_class = error_class
        self.desc = desc


class QmpTimeout(AssertionError):
    """Nothing came in time; the text says what was waited for and what came last."""


class QmpClosed(AssertionError):
    """The server closed the connection while a message was awaited."""


class Qmp:
    """One QMP connection on a connected stream socket.

    `greeting` is set by `negotiate()`. Unless said otherwise a wait ends after REPLY_TIMEOUT_S seconds with
    QmpTimeout, and with QmpClosed when the server hangs up.
    """

    def __init__(self, sock: socket.socket, reactor: Reactor | None = None) -> None:
        self.greeting: Message = {}
        self.events: list[Message] = []
        self.transcript: list[Message] = []
        self.closed = False
        self._sock = sock
        self._reactor = reactor if reactor is not None else Reactor()
        self._buffer = b""
        self._inbox: list[Message] = []
        self._next_id = 0
        self._seen_events = 0
        self._reactor.add(sock.fileno(), self._readable)

    @classmethod
    def connect(cls, path: str) -> Qmp:
        """Connect to the UNIX socket *path* and negotiate."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        qmp = cls(sock)
        qmp.negotiate()
        return qmp

    def negotiate(self, *, enable: list[str] | None = None) -> Message:
        """Read the greeting and leave negotiation mode; returns the greeting."""
        self.greeting = self.receive()
        if "QMP" not in self.greeting:
            raise AssertionError(f"not a QMP greeting: {self.greeting}")
        self.cmd("qmp_capabilities", {"enable": enable} if enable else None)
        return self.greeting

    def cmd(self, name: str, arguments: Message | None = None, /, **kwargs: Any) -> Any:
        """Execute *name* and return its `return` value; raise QmpError for an error reply.

        *arguments* is sent verbatim; keyword arguments are sent with `_` replaced by `-`.
        """
        wire_id = self.start(name, arguments, **kwargs)
        return self.finish(wire_id)

    def start(self, name: str, arguments: Message | None = None, /, **kwargs: Any) -> str:
        """Send a command without waiting; returns the id for `finish()`."""
        self._next_id += 1
        wire_id = f"t{self._next_id}"
        request: Message = {"execute": name, "id": wire_id}
        merged = dict(arguments or {}) | {key.replace("_", "-"): value for key, value in kwargs.items()}
        if merged:
            request["arguments"] = merged
        self.send_raw(json.dumps(request).encode() + b"\r\n")
        return wire_id

    def finish(self, wire_id: str, timeout_s: float = REPLY_TIMEOUT_S) -> Any:
        """Wait for the reply to *wire_id*; other replies stay queued for `receive()`."""
        found: list[Message] = []

        def arrived() -> bool:
            found.extend(message for message in self._inbox if message.get("id") == wire_id)
            return bool(found)

        self._wait(arrived, timeout_s, f"the reply to {wire_id}")
        self._inbox.remove(found[0])
        reply = found[0]
        if "error" in reply:
            raise QmpError(reply["error"]["class"], reply["error"]["desc"])
        return reply["return"]

    def hmp(self, line: str) -> str:
        """Run one human monitor command and return its text."""
        return str(self.cmd("human-monitor-command", {"command-line": line}))

    def send_raw(self, data: bytes) -> None:
        """Send *data* as it is."""
        self._sock.sendall(data)

    def receive(self, timeout_s: float = REPLY_TIMEOUT_S) -> Message:
        """The next message that is not an event (greeting, return or error), in arrival order."""
        self._wait(lambda: bool(self._inbox), timeout_s, "a message")
        return self._inbox.pop(0)

    def wait_event(self, name: str, timeout_s: float = REPLY_TIMEOUT_S) -> Message:
        """The next event *name* that no earlier `wait_event` returned or passed over."""
        found: list[Message] = []

        def arrived() -> bool:
            while self._seen_events < len(self.events) and not found:
                event = self.events[self._seen_events]
                self._seen_events += 1
                if event["event"] == name:
                    found.append(event)
            return bool(found)

        self._wait(arrived, timeout_s, f"the event {name}")
        return found[0]

    def wait_closed(self, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Wait until the server has closed the connection."""
        if not self._reactor.wait(lambda: self.closed, timeout_s):
            raise QmpTimeout(f"the QMP server did not close the connection within {timeout_s} s")

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._sock.fileno() >= 0:
            self._reactor.remove(self._sock.fileno())
            self._sock.close()
        self.closed = True

    def _wait(self, until: Callable[[], bool], timeout_s: float, what: str) -> None:
        if self._reactor.wait(lambda: until() or self.closed, timeout_s) and (not self.closed or until()):
            return
        error = QmpClosed if self.closed else QmpTimeout
        raise error(f"waited for {what} (at most {timeout_s} s); last messages: {self.transcript[-3:]}")

    def _readable(self) -> None:
        try:
            data = self._sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self._reactor.remove(self._sock.fileno())
            self.closed = True
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._accept(json.loads(line))

    def _accept(self, message: Message) -> None:
        self.transcript.append(message)
        (self.events if "event" in message else self._inbox).append(message)

# SPDX-License-Identifier: Apache-2.0
"""The manager's side of a guest agent's channel: one connection to its UNIX socket, as libvirt uses it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket

    from tests.framework.vm import Vm

DELIMITER = b"\xff"
ANSWER_TIMEOUT_S = 300.0


class GuestAgent:
    """A connected agent; a context manager. Replies are waited for while the other channels of *vm* are served."""

    def __init__(self, vm: Vm, sock: socket.socket) -> None:
        self._vm, self._socket = vm, sock
        self._buffer = bytearray()
        self._closed = False
        vm.reactor.add(sock.fileno(), self._readable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._vm.reactor.remove(self._socket.fileno())
        self._socket.close()

    def sync(self, number: int) -> bytes:
        """guest-sync-delimited with *number*; what came before its delimiter: left from an earlier connection."""
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._socket.sendall(DELIMITER + json.dumps(request).encode() + b"\n")
        before = self._take(DELIMITER)
        reply = json.loads(self._take(b"\n"))
        assert reply == {"return": number}, reply
        return before

    def call(self, name: str, **arguments: Any) -> Any:
        """What *name* returns; AssertionError for an error."""
        request = {"execute": name} | ({"arguments": arguments} if arguments else {})
        self.send(request)
        reply = json.loads(self._take(b"\n"))
        assert "return" in reply, f"{name}: {reply}"
        return reply["return"]

    def send(self, request: dict[str, Any]) -> None:
        """Send *request* and wait for nothing."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def _take(self, end: bytes) -> bytes:
        """All up to *end*, which is taken too but not returned."""
        self._vm.wait(lambda: end in self._buffer or self._closed, ANSWER_TIMEOUT_S, f"the guest agent's {end!r}")
        assert end in self._buffer, f"the channel was closed after {bytes(self._buffer)!r}"
        taken, _end, rest = bytes(self._buffer).partition(end)
        self._buffer[:] = rest
        return taken

    def _readable(self) -> None:
        data = self._socket.recv(65536)
        self._buffer += data
        if not data:
            self._closed = True
            self._vm.reactor.remove(self._socket.fileno())

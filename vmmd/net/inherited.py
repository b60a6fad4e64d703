# SPDX-License-Identifier: Apache-2.0
"""Sockets that were made by somebody else (``fd=``): looked at before anything is done, then taken over."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

from vmmd.errors import UsageError, VmmdError

if TYPE_CHECKING:
    from vmmd.net.base import Descriptors

_KINDS = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "datagram"}


class InheritedSocket:
    """One descriptor; its owner's until ``take``."""

    def __init__(self, descriptors: Descriptors, text: str, netdev: str) -> None:
        """Raises VmmdError when it is no socket of a kind that frames can travel by."""
        self.text = text
        self.fd = descriptors.find(text, netdev)
        if not stat.S_ISSOCK(os.fstat(self.fd).st_mode):
            # QEMU-COMPAT: the phrase
            raise UsageError(f"File descriptor '{text}' is not a socket")
        borrowed = socket.socket(fileno=self.fd)
        try:
            self.family = borrowed.family
            self.type = borrowed.type
            self.name = borrowed.getsockname()
            self.listening = bool(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            self.connected = _has_peer(borrowed)
        except OSError as error:
            raise VmmdError(f"File descriptor '{text}' cannot be used: {error.strerror}") from error
        finally:
            borrowed.detach()
        if self.type not in _KINDS:
            # QEMU-COMPAT: the sentence
            raise UsageError(f"socket type={int(self.type)} for fd={self.fd} must be either SOCK_DGRAM or SOCK_STREAM")

    def need(self, kind: socket.SocketKind) -> None:
        """Raises UsageError when it is of another kind."""
        if self.type != kind:
            raise UsageError(f"fd={self.text} is a {_KINDS[self.type]} socket", f"it takes a {_KINDS[kind]} socket")

    def need_stream(self, server: bool) -> None:
        """One that listens, or is connected. Raises UsageError."""
        self.need(socket.SOCK_STREAM)
        if server and not self.listening:
            raise UsageError(f"fd={self.text} does not listen", "server=on takes a listening socket")
        if not server and self.listening:
            raise UsageError(f"fd={self.text} is a listening socket", "add server=on")
        if not server and not self.connected:
            raise UsageError(f"fd={self.text} is not connected", "a client's socket comes connected")

    def take(self) -> socket.socket:
        """From now on it is ours, non-blocking."""
        sock = socket.socket(fileno=self.fd)
        sock.set_inheritable(False)
        sock.setblocking(False)
        return sock


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True

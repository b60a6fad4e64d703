# SPDX-License-Identifier: Apache-2.0
"""``-netdev vhost-user``: the rings of a virtio NIC are served by another process, over a UNIX socket chardev.

The start, and netdev_add, wait for the back end, since the NIC's features depend on it (as with QEMU); netdev_add does
so on a thread and gives up after a while. Once it has been there, it may come and go: the NIC's link follows.

Only a virtio NIC can use it: no frame passes through vmmd. What is written to a queue is an announcement (RARP), which
the back end sends in the guest's name, or is dropped.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from vmmd.core.backend import CharEvent, MessageBackend
from vmmd.errors import BackendError, UsageError
from vmmd.net.base import Netdev
from vmmd.net.vhost_user.backend import VhostUser
from vmmd.net.vhost_user.messages import RINGS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.backend import NetFrontend
    from vmmd.core.vhost import VhostBackend
    from vmmd.net.base import Host
    from vmmd.net.options import VhostUserOptions

#: what is read in one turn; the answers of all rings fit
READ_BYTES = 4096
#: netdev_add's patience with a back end
CONNECT_TIMEOUT_S = 30.0
#: an Ethernet frame that is a RARP packet: bytes without padding, type, sender's address
RARP_FRAME_BYTES = 42
_ETHERTYPE_RARP = b"\x80\x35"


class VhostUserQueue:
    """NetQueue without frames."""

    def __init__(self, vhost: VhostUser) -> None:
        self.dropped = 0
        self._vhost = vhost

    def attach(self, frontend: NetFrontend) -> None:
        """Nothing comes here."""

    def detach(self) -> None:
        """Nothing did."""

    def read(self, buffers: Sequence[memoryview]) -> int:
        return 0

    def write(self, buffers: Sequence[memoryview]) -> bool:
        frame = b"".join(buffers)
        is_rarp = len(frame) >= RARP_FRAME_BYTES and frame[12:14] == _ETHERTYPE_RARP
        if not (is_rarp and self._vhost.send_rarp(frame[6:12])):
            self.dropped += 1
        return True

    def watch(self, wanted: bool) -> None:
        """There is nothing to watch."""

    def set_cut(self, cut: bool) -> None:
        """The netdev does that for all."""


class VhostUserNetdev(Netdev):
    """NetBackend whose work is done by ``vhost``; CharFrontend of the chardev."""

    kind = "vhost-user"
    open_may_wait: ClassVar[bool] = True

    def __init__(self, options: VhostUserOptions, host: Host) -> None:
        super().__init__(options, host)
        self._options = options
        self._pairs = 1 if options.queues is None else options.queues
        self._channel: MessageBackend | None = None
        self._user = VhostUser(self.id, host.loop, self, self._pairs, self.set_alive)
        self.vhost: VhostBackend | None = self._user
        self.queues = [VhostUserQueue(self._user) for _ in range(self._pairs)]
        self.alive = False
        self._known = threading.Event()  # a back end has said what it can

    def check(self) -> None:
        if not 1 <= self._pairs <= RINGS_MAX // 2:
            # QEMU-COMPAT: the sentence, where QEMU says so too
            limit = 1024 if self._pairs > 1024 or not self._pairs else RINGS_MAX // 2
            raise UsageError(
                f"vhost-user number of queues must be in range [1, {limit}]",
                f"queues= counts pairs of queues; the protocol has room for {RINGS_MAX // 2}",
            )

    def describe(self, index: int) -> str:
        return f"vhost-user{index} to {self._options.chardev}"

    # -- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        channel = self.host.chardev(self._options.chardev)
        # QEMU-COMPAT: the sentences
        if not isinstance(channel, MessageBackend):
            raise UsageError(f'chardev "{channel.label}" is not reconnectable', "it takes -chardev socket,path=…")
        if not channel.passes_descriptors:
            raise UsageError(f'chardev "{channel.label}" does not support FD passing', "a UNIX socket does: path=…")
        with self.host.lock:
            channel.attach(self)
        self._channel = channel
        try:
            if self.host.loop.on_loop_thread():
                self._greet(channel)
            elif not self._known.wait(CONNECT_TIMEOUT_S):
                raise BackendError(
                    f"no vhost-user back end has come to chardev {channel.label}", self._user.state.reason
                )
        except BaseException:
            self._leave()
            raise

    def _greet(self, channel: MessageBackend) -> None:
        """The process starts and the loop does not run yet: wait for the back end, and for what it says. One that
        leaves before that may have been a probe; one that says something wrong would go on doing so."""
        while not self._known.is_set():
            channel.wait_connected()
            self._user.connected(self._known.set)
            while self._user.session is not None and not self._known.is_set():
                data = channel.read_now(CONNECT_TIMEOUT_S)
                self._user.receive(data) if data else self._user.lost()
            if self._user.refused:
                raise BackendError(
                    self._user.state.reason, f"said of the vhost-user back end at chardev {channel.label}"
                )

    def stop(self) -> None:
        if self._channel is not None:
            self._user.lost("the netdev is gone")
            self._leave()

    def _leave(self) -> None:
        """The back end lets go of the guest's memory when its connection ends."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with self.host.lock:
                channel.detach()
            channel.disconnect()

    def set_cut(self, cut: bool) -> None:
        self._user.set_cut(cut)

    def enable_queues(self, count: int) -> None:
        self._user.enable_pairs(count)

    # -- the back end's connection: what the chardev tells (with the lock held) goes on in the loop's next turn ---

    def can_receive(self) -> int:
        return READ_BYTES

    def receive(self, data: bytes) -> None:
        self.host.loop.post(self._user.receive, data)

    def handle_event(self, event: CharEvent) -> None:
        if event is CharEvent.OPENED:
            self.host.loop.post(self._opened)
        elif event is CharEvent.CLOSED:
            self.host.loop.post(self._user.lost)

    def write_ready(self) -> None:
        """Messages are never kept."""

    def _opened(self) -> None:
        if self._channel is not None and self._user.session is None:  # the start has greeted the first one itself
            self._user.connected(self._known.set)

    # -- Link ----------------------------------------------------------------------------------------------------

    def send(self, data: bytes, fds: Sequence[int]) -> bool:
        return self._channel is not None and self._channel.send_message(data, fds)

    def disconnect(self) -> None:
        if self._channel is not None:
            self._channel.disconnect()

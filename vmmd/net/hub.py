# SPDX-License-Identifier: Apache-2.0
"""``-netdev hubport``: ports of hubs, which send what comes in at one port out at all others.

At a port is a NIC, or another netdev (``netdev=``), or nothing. Frames have no vnet header here: who needs offloads
does not use a hub. Each port keeps a bounded number of frames for a NIC that does not take them, or a netdev that has
no room; what comes then is lost. Hubs may be connected by ports, but not in a ring. Loop thread only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.net.base import Netdev
from vmmd.net.frames import scatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmmd.core.backend import NetFrontend
    from vmmd.core.notify import LoopPort
    from vmmd.net.base import Host, Queue
    from vmmd.net.options import HubportOptions

#: frames that wait at one port
_WAITING_MAX = 256
#: the longest frame that passes: 64 KiB and an Ethernet header with two VLAN tags
_FRAME_BYTES_MAX = 65_536 + 22
#: frames that a netdev may bring, and that it is sent of those that wait, in one turn of the loop
_AT_ONCE = 32


class Hub:
    """All ports with one number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ports: list[HubPort] = []
        self.named = 0  # ports that got their name from the hub

    def spread(self, frame: bytes, source: HubPort) -> None:
        for port in self.ports:
            if port is not source:
                port.deliver(frame)

    def reaches(self, other: Hub | None) -> bool:
        """Frames of this hub come to the other one."""
        found, at = {self}, [self]
        while at:
            new = set(at.pop()._neighbours()) - found
            found |= new
            at += new
        return other in found

    def _neighbours(self) -> Iterator[Hub]:
        """The hubs that ports lead to."""
        for port in self.ports:
            end = port.user if port.uplink is None else port.uplink.netdev
            if isinstance(end, HubPort) and end.hub is not None:
                yield end.hub


class HubQueue:
    """The NIC's side of a port (NetQueue)."""

    def __init__(self, loop: LoopPort, port: HubPort) -> None:
        self.dropped = 0
        self._loop = loop
        self._port = port
        self._waiting: deque[bytes] = deque()
        self._frontend: NetFrontend | None = None
        self._wanted = False
        self._posted = False

    def attach(self, frontend: NetFrontend) -> None:
        self._frontend = frontend

    def detach(self) -> None:
        self._frontend = None
        self._wanted = False
        self._waiting.clear()

    def read(self, buffers: Sequence[memoryview]) -> int:
        if not self._waiting:
            return 0
        return scatter(memoryview(self._waiting.popleft()), buffers)

    def write(self, buffers: Sequence[memoryview]) -> bool:
        frame = b"".join(buffers)
        if len(frame) > _FRAME_BYTES_MAX:
            self.dropped += 1
        else:
            self._port.send(frame)
        return True

    def watch(self, wanted: bool) -> None:
        self._wanted = wanted
        self._tell_later()

    def set_cut(self, cut: bool) -> None:
        """The port itself sees to what comes from now on."""
        if cut:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def deliver(self, frame: bytes) -> None:
        """A frame from the hub."""
        if self._frontend is None or len(self._waiting) >= _WAITING_MAX:
            self.dropped += 1
            return
        self._waiting.append(frame)
        self._tell_later()

    def _tell_later(self) -> None:
        if self._wanted and self._waiting and not self._posted:
            self._posted = True
            self._loop.post(self._tell)

    def _tell(self) -> None:
        self._posted = False
        if self._wanted and self._waiting and self._frontend is not None:
            self._frontend.readable()
            self._tell_later()


class Uplink:
    """A netdev at a port instead of a NIC (NetFrontend of its first queue): what it brings goes to the hub and back."""

    def __init__(self, netdev: Netdev, port: HubPort) -> None:
        self.netdev = netdev
        self._port = port
        self._loop = netdev.host.loop
        #: frames go to another hub in a turn of their own: any number of hubs in a row is no deep recursion
        self._later = isinstance(netdev, HubPort)
        self._queue: Queue = netdev.queues[0]
        self._waiting: deque[bytes] = deque()
        self._buffer = memoryview(bytearray(_FRAME_BYTES_MAX))
        netdev.set_header(0)
        netdev.enable_queues(1)
        self._queue.attach(self)
        self._queue.watch(True)

    def close(self) -> None:
        self._waiting.clear()
        self._queue.detach()

    def readable(self) -> None:
        for _ in range(_AT_ONCE):
            length = self._queue.read([self._buffer])
            if not length:
                return
            self._port.send(bytes(self._buffer[:length]))

    def writable(self) -> None:
        for _ in range(min(len(self._waiting), _AT_ONCE)):
            if not self._queue.write([memoryview(self._waiting[0])]):
                return
            self._waiting.popleft()
        if self._waiting:
            self._loop.post(self.writable)

    def deliver(self, frame: bytes) -> None:
        """A frame from the hub."""
        if self._waiting:
            if len(self._waiting) >= _WAITING_MAX:
                self._queue.dropped += 1
            else:
                self._waiting.append(frame)
        elif self._later:
            self._waiting.append(frame)
            self._loop.post(self.writable)
        elif not self._queue.write([memoryview(frame)]):
            self._waiting.append(frame)


class HubPort(Netdev):
    """One port."""

    kind = "hubport"

    def __init__(self, options: HubportOptions, host: Host) -> None:
        super().__init__(options, host)
        self.options = options
        self._queue = HubQueue(host.loop, self)
        self.queues = (self._queue,)
        self.hub: Hub | None = None
        self._cut = False
        self.uplink: Uplink | None = None

    @property
    def name(self) -> str:
        return self.id

    def check(self) -> None:
        self._peer()

    def _peer(self) -> Netdev | None:
        """The netdev that is to be at the port. Raises UsageError."""
        name = self.options.netdev
        if name is None:
            return None
        found = self.host.find(name)
        if found is None:
            # QEMU-COMPAT: the sentence
            raise UsageError(f"netdev '{name}' not found", "it has to come before the hubport")
        if found.vhost is not None:
            raise UsageError(f"netdev '{name}' has no frames for a hub", f"a {found.kind} serves a virtio NIC only")
        if found.user is not None:
            raise UsageError(f"netdev '{name}' is in use", f"{found.user.name} has it")
        if isinstance(found, HubPort) and self._leads_to(found):
            sentence = f"netdev '{name}' leads to hub {self.options.hubid} already"
            raise UsageError(sentence, "hubs in a ring would send frames round for ever")
        return found

    def _leads_to(self, port: HubPort) -> bool:
        """Connecting this port to that one would make a ring."""
        hub = self.host.hubs.get(self.options.hubid)
        same = port.options.hubid == self.options.hubid
        return same or (port.hub is not None and port.hub.reaches(hub))

    def open(self) -> None:
        peer = self._peer()
        self.hub = self.host.hubs.setdefault(self.options.hubid, Hub(self.options.hubid))
        self.hub.ports.append(self)
        if peer is not None:
            self.uplink = Uplink(peer, self)
            peer.user = self.user = self

    def stop(self) -> None:
        self.lose_uplink()
        if self.hub is not None:
            self.hub.ports.remove(self)
            if not self.hub.ports:
                del self.host.hubs[self.hub.number]
            self.hub = None

    def lose_uplink(self) -> None:
        """The netdev at the port is no more, or the port."""
        if self.uplink is not None:
            self.uplink.close()
            self.uplink.netdev.user = self.user = None
            self.uplink = None

    def set_cut(self, cut: bool) -> None:
        self._cut = cut
        super().set_cut(cut)

    def send(self, frame: bytes) -> None:
        """What is at the port sends a frame."""
        if self._cut or self.hub is None:
            self._queue.dropped += 1
        else:
            self.hub.spread(frame, self)

    def deliver(self, frame: bytes) -> None:
        """A frame came in at another port."""
        if self._cut:
            self._queue.dropped += 1
        elif self.uplink is not None:
            self.uplink.deliver(frame)
        else:
            self._queue.deliver(frame)

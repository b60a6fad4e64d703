# SPDX-License-Identifier: Apache-2.0
"""The loop's sides of a port's two queues: guest RAM goes to the host and comes from it without a copy.

Guest to host: what the host does not take now stays in the ring, to the byte; nothing is dropped but what the port says
may be. Host to guest: only as much is read from the host as the buffers take that the driver has posted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vmmd.devices.virtio.chain import split
from vmmd.devices.virtio.queue import RingError
from vmmd.devices.virtio.serial.worker import Worker

if TYPE_CHECKING:
    from vmmd.devices.virtio.queue import VirtQueue
    from vmmd.devices.virtio.serial.device import VirtioSerial

#: what one system call gets, at most
PIECE_BYTES = 128 << 10
INPUT_BYTES = 64 << 10
PIECE_BUFFERS = 64
#: chains in hand
OUTPUT_CHAINS = 32
INPUT_CHAINS = 16
#: system calls of one turn of the loop
TURN_PIECES = 4


class _Sent:
    """A chain on its way to the host."""

    __slots__ = ("head", "views")

    def __init__(self, head: int, views: list[memoryview]) -> None:
        self.head = head
        self.views = views[::-1]  # the next one last


class PortOutput(Worker):
    """Guest to host."""

    def __init__(self, serial: VirtioSerial, index: int, ring: VirtQueue, number: int) -> None:
        super().__init__(serial, index, ring)
        self._number = number
        self._held: deque[_Sent] = deque()

    def _serve(self) -> bool:
        for _ in range(TURN_PIECES):
            if len(self._held) < OUTPUT_CHAINS:
                for chain in self._pop(OUTPUT_CHAINS - len(self._held)):
                    self._held.append(_Sent(chain[0], self._views(split(chain)[0], writable=False)))
            if not self._held:
                return False
            views = self._gather()
            size = sum(map(len, views))
            port = self._serial.ports.get(self._number)
            taken = size if port is None or not size else port.send(views)
            del views
            self._consumed(taken)
            if taken < size:
                return False  # the port calls when the host takes more
        return True

    def _gather(self) -> list[memoryview]:
        """Buffers for one system call."""
        views: list[memoryview] = []
        room = PIECE_BYTES
        for sent in self._held:
            for view in reversed(sent.views):
                if len(views) == PIECE_BUFFERS or not room:
                    return views
                views.append(view[:room])
                room -= len(views[-1])
        return views

    def _consumed(self, count: int) -> None:
        """The host has got so many bytes, or may not get them: give the chains back that are finished."""
        done: list[tuple[int, int]] = []
        while self._held:
            views = self._held[0].views
            while views and count >= len(views[-1]):
                count -= len(views.pop())
            if views:
                views[-1] = views[-1][count:]
                break
            done.append((self._held.popleft().head, 0))
        if done:
            self._give_back(done)

    def _forget(self) -> int:
        # LIMIT: a queue that is taken away and given back (bus mastering off and on, a stop of the driver) sends the
        # chain again that the host had taken a part of
        count = len(self._held)
        self._held.clear()
        return count


class PortInput(Worker):
    """Host to guest."""

    def __init__(self, serial: VirtioSerial, index: int, ring: VirtQueue, number: int) -> None:
        super().__init__(serial, index, ring)
        self._number = number
        self._held: deque[tuple[int, list[memoryview], int]] = deque()  # head, buffers, their length

    def _serve(self) -> bool:
        """The driver has posted buffers."""
        port = self._serial.ports.get(self._number)
        if port is not None:
            port.wants_input()
        return False

    def buffers(self) -> list[memoryview]:
        """Where the next input goes; empty when there is no room. With or without the DeviceLock."""
        if self.closed or self._serial.paused:
            return []
        try:
            self._refill()
        except RingError as error:
            self._fail(error)
            return []
        found: list[memoryview] = []
        room = INPUT_BYTES
        for _, views, _ in self._held:
            for view in views:
                if len(found) == PIECE_BUFFERS or not room:
                    return found
                found.append(view[:room])
                room -= len(found[-1])
        return found

    def _refill(self) -> None:
        """Take chains in hand. Those without room go back, in their turn."""
        wanted = INPUT_CHAINS - len(self._held)
        if wanted <= 0:
            return
        chains = self._pop(wanted)
        for chain in chains:
            views = self._views(split(chain)[1], writable=True)
            self._held.append((chain[0], views, sum(map(len, views))))
        self.filled(0, posted=True)
        if chains and not self._held:
            self.schedule()

    def filled(self, count: int, *, posted: bool = False) -> None:
        """So many bytes are in the first of the buffers. ``posted``: the caller may hold the DeviceLock."""
        done: list[tuple[int, int]] = []
        while self._held and (count > 0 or not self._held[0][2]):
            head, _, size = self._held.popleft()
            done.append((head, min(count, size)))
            count = max(0, count - size)
        if done:
            self._give_back(done, posted=posted)

    def _forget(self) -> int:
        count = len(self._held)
        self._held.clear()
        return count

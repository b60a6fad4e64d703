# SPDX-License-Identifier: Apache-2.0
"""A driver of virtio-serial (virtio 1.2 §5.3) on top of the virtqueue driver, of fakes or of a whole machine:

guest = SerialDriver(driver, multiport=True)      # negotiates, sets the queues of ``ports`` up, says DRIVER_OK
guest.announce()                                  # DEVICE_READY; answers DEVICE_ADD with PORT_READY
guest.open(1)                                     # PORT_OPEN
guest.write(1, b"hello"), guest.read(1, 5)        # what the host sends is collected from the posted buffers
guest.take_messages()                             # (port, event, value, name) of control messages since the last look
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.framework.virtqueue_driver import Buffer, Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.framework.virtqueue_driver import DriverQueue

F_MULTIPORT, F_EMERG_WRITE = 1 << 1, 1 << 2
READY, ADD, REMOVE, PORT_READY, CONSOLE, RESIZE, OPEN, NAME = range(8)

RINGS, RING_STRIDE = 0x20_0000, 0x4000
CONTROL_IN, CONTROL_OUT, CONTROL_BYTES, CONTROL_BUFFERS = 0x30_0000, 0x31_0000, 64, 16
DATA, DATA_STRIDE = 0x40_0000, 0x2_0000
BUFFER_BYTES, BUFFERS = 256, 16
DEADLINE_S = 30.0


class Message(NamedTuple):
    port: int
    event: int
    value: int
    name: bytes = b""


class _Port:
    """The driver's side of one port."""

    def __init__(self, number: int, inward: DriverQueue, outward: DriverQueue) -> None:
        self.inward, self.outward = inward, outward
        self.base = DATA + DATA_STRIDE * number
        self.slots: dict[int, int] = {}  # head -> address of the posted buffer
        self.received = bytearray()


class SerialDriver:
    """See the module's text. ``settle`` lets the device work; by default nothing is to do but wait."""

    def __init__(
        self,
        driver: Driver,
        *,
        multiport: bool = True,
        ports: Iterable[int] = (0, 1, 2),
        features: int = 0,
        settle: Callable[[], None] = lambda: time.sleep(0.001),
    ) -> None:
        self.driver, self.memory, self.settle = driver, driver.memory, settle
        self.multiport = multiport
        self.messages: list[Message] = []
        driver.negotiate(features | (F_MULTIPORT if multiport else 0))
        self.ports = {number: self._set_up(number) for number in ports}
        if multiport:
            self._control_in = driver.setup_queue(2, RINGS + 2 * RING_STRIDE)
            self._control_out = driver.setup_queue(3, RINGS + 3 * RING_STRIDE)
        driver.ready()
        if multiport:
            self._slots = {self._post_control(slot): slot for slot in range(CONTROL_BUFFERS)}
            self._control_in.kick()

    def _set_up(self, number: int) -> _Port:
        first = 0 if not number else 2 * number + 2
        inward, outward = (self.driver.setup_queue(index, RINGS + index * RING_STRIDE) for index in (first, first + 1))
        return _Port(number, inward, outward)

    # -- control -------------------------------------------------------------------------------------------

    def _post_control(self, slot: int) -> int:
        return self._control_in.add([], [Buffer(CONTROL_IN + CONTROL_BYTES * slot, CONTROL_BYTES)])

    def say(self, port: int, event: int, value: int = 1) -> None:
        """Send a control message, and wait until it was taken."""
        self.memory.write(CONTROL_OUT, struct.pack("<IHH", port, event, value))
        self._control_out.add([Buffer(CONTROL_OUT, 8)], [])
        self._control_out.kick()
        self.until(lambda: self._control_out.collect(), "the device takes no control message")

    def take_messages(self) -> list[Message]:
        """Messages of the device since the last look; their buffers are posted again."""
        found = []
        for head, written in self._control_in.collect():
            slot = self._slots.pop(head)
            data = self.memory.read(CONTROL_IN + CONTROL_BYTES * slot, written)
            port, event, value = struct.unpack("<IHH", data[:8])
            found.append(Message(port, event, value, data[8:]))
            self._slots[self._post_control(slot)] = slot
        if found:
            self._control_in.kick()
        return found

    def messages_of(self, count: int) -> list[Message]:
        """The next ``count`` messages."""
        self.until(lambda: self._gather() >= count, f"{count} control messages do not come")
        found, self.messages = self.messages[:count], self.messages[count:]
        return found

    def _gather(self) -> int:
        self.messages += self.take_messages()
        return len(self.messages)

    def announce(self, count: int) -> list[Message]:
        """DEVICE_READY, PORT_READY for each of ``count`` ports; what the device said of them before that."""
        self.say(0xFFFF_FFFF, READY)
        added = self.messages_of(count)
        for message in added:
            self.say(message.port, PORT_READY)
        return added

    def open(self, port: int, value: int = 1) -> None:
        self.say(port, OPEN, value)

    # -- data ----------------------------------------------------------------------------------------------

    def post(self, number: int, count: int = BUFFERS, length: int = BUFFER_BYTES) -> None:
        """Post receive buffers."""
        port = self.ports[number]
        used = set(port.slots.values())
        free = [port.base + 0x1_0000 + BUFFER_BYTES * slot for slot in range(BUFFERS)]
        for address in [each for each in free if each not in used][:count]:
            port.slots[port.inward.add([], [Buffer(address, length)])] = address
        port.inward.kick()

    def collect(self, number: int) -> list[bytes]:
        """What has come in, by buffer."""
        port = self.ports[number]
        found = [self.memory.read(port.slots.pop(head), written) for head, written in port.inward.collect()]
        port.received += b"".join(found)
        return found

    def read(self, number: int, count: int) -> bytes:
        """The next ``count`` bytes from the host; posts buffers as they are used."""
        port = self.ports[number]

        def enough() -> bool:
            self.collect(number)
            if len(port.received) < count:
                self.post(number)
            return len(port.received) >= count

        self.until(enough, f"{count} bytes do not come in")
        data = bytes(port.received[:count])
        del port.received[:count]
        return data

    def offer(self, number: int, data: bytes, *, at: int = 0) -> int:
        """Put data into the ring, and ring; the head."""
        port = self.ports[number]
        self.memory.write(port.base + at, data)
        head = port.outward.add([Buffer(port.base + at, len(data))], [])
        port.outward.kick()
        return head

    def taken(self, number: int) -> list[int]:
        """Heads that the device has given back."""
        return [head for head, _ in self.ports[number].outward.collect()]

    def write(self, number: int, data: bytes) -> None:
        """Send, and wait until the device is done with it."""
        self.offer(number, data)
        self.until(lambda: self.taken(number), "the device takes no data")

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            self.settle()

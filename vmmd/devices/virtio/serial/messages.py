# SPDX-License-Identifier: Apache-2.0
"""Control messages of virtio-serial (virtio 1.2 §5.3.6.2), and those that wait for the driver's buffers.

Drivers post few buffers and may stop doing so, while hosts connect and leave as they like: of each port and kind only
what the driver has to see is kept, so that the number of waiting messages has a bound.
"""

from __future__ import annotations

import enum
import struct


class Event(enum.IntEnum):
    """``event`` of a control message."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    DEVICE_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


#: id, event, value; a name may follow
MESSAGE = struct.Struct("<IHH")


class Outbox:
    """Messages for the driver, in order. Loop thread."""

    def __init__(self) -> None:
        #: (port, event) -> values still to be told. Only PORT_OPEN may have two: gone, and there again
        self._waiting: dict[tuple[int, int], list[int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, port: int, event: Event, value: int = 1) -> None:
        """Queue a message; one that says nothing new is left out."""
        values = self._waiting.setdefault((port, event), [])
        if not values or values[-1] != value:
            values.append(value)
            del values[:-2]  # open, closed, open: the last two tell as much

    def first(self) -> tuple[int, int, int] | None:
        """(port, event, value) of the next message."""
        for (port, event), values in self._waiting.items():
            return port, event, values[0]
        return None

    def drop_first(self) -> None:
        key = next(iter(self._waiting))
        del self._waiting[key][0]
        if not self._waiting[key]:
            del self._waiting[key]

    def remove_port(self, port: int) -> None:
        """The port is gone: say so, unless the driver has not heard of it yet."""
        unheard = self._waiting.pop((port, Event.DEVICE_ADD), None) is not None
        for event in (Event.CONSOLE_PORT, Event.PORT_OPEN, Event.PORT_NAME):
            self._waiting.pop((port, event), None)
        if not unheard:
            self.add(port, Event.DEVICE_REMOVE)

    def clear(self) -> None:
        self._waiting.clear()

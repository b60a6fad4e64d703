# SPDX-License-Identifier: Apache-2.0
"""The header in front of each frame (virtio 1.2 §5.1.6.1), between a driver and a netdev that may want it longer,
shorter or not at all.

The netdev takes the driver's header as it is where it can; nothing is copied then but ``num_buffers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.virtio.device import F_VERSION_1
from vmmd.devices.virtio.net.features import F_MRG_RXBUF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.backend import NetBackend

#: without and with ``num_buffers``
SHORT_BYTES, LONG_BYTES = 10, 12
#: the longest frame: an IPv6 or IPv4 packet of a large segment, Ethernet header, two VLAN tags
FRAME_BYTES_MAX = 65575 + 14 + 8
ONE_BUFFER = (1).to_bytes(2, "little")


def driver_header_bytes(features: int) -> int:
    """Length of the header that the driver uses."""
    return LONG_BYTES if features & (F_VERSION_1 | F_MRG_RXBUF) else SHORT_BYTES


def netdev_header_bytes(backend: NetBackend, driver_bytes: int) -> int:
    """What the netdev is to use: the driver's length, or none at all."""
    return driver_bytes if driver_bytes in backend.header_lengths else 0


def cut_front(views: Sequence[memoryview], count: int) -> tuple[list[memoryview], list[memoryview]]:
    """The views of the first ``count`` bytes, and of the rest. There are at least so many."""
    front: list[memoryview] = []
    for position, view in enumerate(views):
        if len(view) > count:
            if count:
                front.append(view[:count])
            return front, [view[count:], *views[position + 1 :]]
        front.append(view)
        count -= len(view)
    return front, []


def fill(views: Sequence[memoryview], data: bytes | memoryview) -> None:
    """Copy ``data`` into ``views``, which have room for it."""
    at = 0
    for view in views:
        part = data[at : at + len(view)]
        view[: len(part)] = part
        at += len(part)
        if at == len(data):
            return


def gather(views: Sequence[memoryview], count: int) -> bytes:
    """A copy of the first ``count`` bytes, fewer where there are no more."""
    data = b""
    for view in views:
        data += view[: count - len(data)]
        if len(data) == count:
            break
    return data

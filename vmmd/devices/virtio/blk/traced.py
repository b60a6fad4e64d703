# SPDX-License-Identifier: Apache-2.0
"""virtio-blk's worker while requests are reported. The plain one knows nothing of it: workers change their class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.core.trace_events import (
    VIRTIO_BLK_HANDLE_OTHER,
    VIRTIO_BLK_HANDLE_READ,
    VIRTIO_BLK_HANDLE_WRITE,
    VIRTIO_BLK_REQ_COMPLETE,
)
from vmmd.devices.virtio.blk.request import Kind, parse
from vmmd.devices.virtio.blk.worker import BlkWorker
from vmmd.devices.virtio.chain import total
from vmmd.devices.virtio.queue import RingError
from vmmd.units import SECTOR_BYTES

if TYPE_CHECKING:
    from vmmd.devices.virtio.blk.worker import Slot
    from vmmd.devices.virtio.chain import Chain

EVENTS = (VIRTIO_BLK_HANDLE_READ, VIRTIO_BLK_HANDLE_WRITE, VIRTIO_BLK_HANDLE_OTHER, VIRTIO_BLK_REQ_COMPLETE)
_STARTS = {int(Kind.IN): VIRTIO_BLK_HANDLE_READ, int(Kind.OUT): VIRTIO_BLK_HANDLE_WRITE}


class TracedBlkWorker(BlkWorker):
    """Reports requests as they are taken from the ring and as they are given back. Loop thread."""

    __slots__ = ()  # it must have the layout of its base

    def _submit(self, chains: list[Chain]) -> None:
        for chain in chains:
            self._report_start(chain)
        super()._submit(chains)

    def _report_start(self, chain: Chain) -> None:
        """The request is read a second time: a guest that changes it meanwhile deceives its own trace only."""
        name = self._blk.transport.name
        try:
            request = parse(chain, self._memory)
        except (RingError, GuestAddressError):
            return  # ``_submit`` meets it, too, and reports what is wrong
        event = _STARTS.get(request.kind)
        if event is None:
            if VIRTIO_BLK_HANDLE_OTHER.on:
                VIRTIO_BLK_HANDLE_OTHER(name, self._index, chain[0], request.kind)
        elif event.on:
            buffers = request.writable if request.kind == Kind.IN else request.readable
            event(name, self._index, chain[0], request.sector, total(buffers) // SECTOR_BYTES)

    def _answer(self, completed: list[Slot]) -> None:
        super()._answer(completed)
        if VIRTIO_BLK_REQ_COMPLETE.on:
            name = self._blk.transport.name
            for slot in completed:
                VIRTIO_BLK_REQ_COMPLETE(name, self._index, slot[0], slot[3][slot[4]])

# SPDX-License-Identifier: Apache-2.0
"""Reports of guest accesses to registers: while they are wanted, ranges have handlers that report, otherwise their own.

So an access costs nothing more while nobody looks, and the vCPU's inner loop knows nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.affinity import current_vcpu
from vmmd.core.trace import GUEST_ERRORS
from vmmd.core.trace_events import (
    MEMORY_REGION_OPS_READ,
    MEMORY_REGION_OPS_WRITE,
    SERIAL_READ,
    SERIAL_WRITE,
    UNASSIGNED_READ,
    UNASSIGNED_WRITE,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vmmd.core.address_space import AddressSpace, IoRange
    from vmmd.core.trace import TraceEvent

    Read = Callable[[int, int], int]
    Write = Callable[[int, int, int], None]


_EVENTS = (MEMORY_REGION_OPS_READ, MEMORY_REGION_OPS_WRITE, SERIAL_READ, SERIAL_WRITE)


class AccessTrace:
    """Has the ranges of some address spaces report while one of the events about accesses is on. Loop thread."""

    def __init__(self, spaces: tuple[AddressSpace, ...], lock: threading.Lock) -> None:
        self._spaces = spaces
        self._lock = lock
        self._undo = [event.watch(self._ranges_switched) for event in _EVENTS]
        self._undo += [each.watch(self._holes_switched) for each in (UNASSIGNED_READ, UNASSIGNED_WRITE, GUEST_ERRORS)]
        for space in spaces:
            space.dress = dress
        self._ranges_switched()
        self._holes_switched()

    def close(self) -> None:
        """Watch no more."""
        for undo in self._undo:
            undo()

    def _ranges_switched(self) -> None:
        with self._lock:
            for space in self._spaces:
                for entry in space.ranges:
                    dress(entry)

    def _holes_switched(self) -> None:
        wanted = UNASSIGNED_READ.on or UNASSIGNED_WRITE.on or GUEST_ERRORS.on
        for space in self._spaces:
            space.on_unassigned = report_unassigned if wanted else None


def dress(entry: IoRange) -> None:
    """Give a range the handlers that the events which are on need: its own when none is. DeviceLock held."""
    read, write = entry.plain
    own_read, own_write, owner = entry.events or (None, None, "")
    if MEMORY_REGION_OPS_READ.on or (own_read is not None and own_read.on):
        entry.read = _reporting_read(entry, read, own_read, owner)
    else:
        entry.read = read
    if MEMORY_REGION_OPS_WRITE.on or (own_write is not None and own_write.on):
        entry.write = _reporting_write(entry, write, own_write, owner)
    else:
        entry.write = write


def _reporting_read(entry: IoRange, read: Read, own: TraceEvent | None, owner: str) -> Read:
    def reporting(offset: int, size: int) -> int:
        value = read(offset, size)
        if own is not None and own.on:
            own(offset, value, owner)
        if MEMORY_REGION_OPS_READ.on:
            MEMORY_REGION_OPS_READ(current_vcpu(), entry.base + offset, value, size, entry.name)
        return value

    return reporting


def _reporting_write(entry: IoRange, write: Write, own: TraceEvent | None, owner: str) -> Write:
    def reporting(offset: int, size: int, value: int) -> None:
        if own is not None and own.on:
            own(offset, value, owner)
        if MEMORY_REGION_OPS_WRITE.on:
            MEMORY_REGION_OPS_WRITE(current_vcpu(), entry.base + offset, value, size, entry.name)
        write(offset, size, value)

    return reporting


def report_unassigned(space: str, address: int, size: int, value: int | None) -> None:
    """An access that no range claims; a read when there is no value."""
    if value is None and UNASSIGNED_READ.on:
        UNASSIGNED_READ(current_vcpu(), space, address, size)
    elif value is not None and UNASSIGNED_WRITE.on:
        UNASSIGNED_WRITE(current_vcpu(), space, address, value, size)
    if GUEST_ERRORS.on and space == "memory":  # looking for ports is how guests find devices
        kind = "read" if value is None else "write"
        GUEST_ERRORS(f"Invalid {kind} at addr 0x{address:X}, size {size}: nothing is there")

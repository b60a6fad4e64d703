# SPDX-License-Identifier: Apache-2.0
"""MSI-X (PCI 3.0 §6.8.2): capability, vector table and pending bits of one function.

``notify`` may come from the loop without the DeviceLock while a vCPU reprograms the table; a private lock orders the
two (DeviceLock → this lock, never the other way round), so an interrupt that meets a mask is never lost.

Not implemented: nothing of the capability is left out. Messages outside 0xFEExxxxx are memory writes, as on a bus.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError
from vmmd.core.trace import GUEST_ERRORS
from vmmd.core.trace_events import MSIX_NOTIFY, MSIX_WRITE_CONFIG
from vmmd.devices.pci.bar import BarRegion
from vmmd.devices.pci.regs import CAP_MSIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.pci.device import PciDevice

CAPABILITY_BYTES = 12
ENTRY_BYTES = 16
MAX_VECTORS = 2048

# offsets in the capability (§6.8.2)
CAP_CONTROL = 2
CAP_TABLE = 4
CAP_PBA = 8
CONTROL_ENABLE = 0x8000
CONTROL_FUNCTION_MASK = 0x4000

# offsets in a table entry (§6.8.2)
ENTRY_DATA = 8
ENTRY_CONTROL = 12
VECTOR_MASKED = 0x01

#: the local APICs' window, by its upper bits
APIC_WINDOW = 0xFEE


class Msix:
    """MSI-X of one device. Made in ``realize``; table and PBA are laid over BAR ``bar_index``, which exists already."""

    def __init__(self, device: PciDevice, bar_index: int, vectors: int, table_offset: int, pba_offset: int) -> None:
        if not 1 <= vectors <= MAX_VECTORS:
            raise ValueError(f"MSI-X has 1 to {MAX_VECTORS} vectors, not {vectors}")
        if table_offset & 7 or pba_offset & 7:
            raise ValueError("MSI-X table and PBA lie on multiples of 8")
        self._device = device
        self.vectors = vectors
        self._lock = threading.Lock()
        self._table = bytearray(ENTRY_BYTES * vectors)
        self._pending = bytearray((vectors + 63) // 64 * 8)
        self._send = device.ctx.interrupts.signal_msi
        #: per vector the message for the APIC when it may be sent at once, else None: the fast path of ``notify``
        self._ready: list[tuple[int, int] | None] = [None] * vectors
        self.enabled = False
        self._function_masked = False
        #: told when messages or masks may have changed, with the DeviceLock held and this object's lock free
        self.on_change: Callable[[], None] | None = None
        self.capability = device.add_capability(CAP_MSIX, CAPABILITY_BYTES)
        config = device.config
        config.define(self.capability + CAP_CONTROL, 2, vectors - 1, CONTROL_ENABLE | CONTROL_FUNCTION_MASK)
        config.define(self.capability + CAP_TABLE, 4, table_offset | bar_index)
        config.define(self.capability + CAP_PBA, 4, pba_offset | bar_index)
        device.watch_config(self.capability + CAP_CONTROL, 2, self._control_written)
        name, table, pba = device.type_name, len(self._table), len(self._pending)
        for region in (
            BarRegion(table_offset, table, self._table_read, self._table_write, f"{name} msix-table", 8),
            BarRegion(pba_offset, pba, self._pba_read, self._pba_write, f"{name} msix-pba", 8),
        ):
            device.add_bar_region(bar_index, region)
        self.reset()
        device.on_reset(self.reset)

    # -- the device's side ---------------------------------------------------------------------------------

    def notify(self, vector: int) -> bool:
        """Interrupt the guest, or remember it while masked; nothing when there is no such vector. False when MSI-X is
        off: then the interrupt is the pin's.

        Any thread, no lock needed. ORDERING: ``_ready`` holds whole messages, so a reader sees the old or the new
        one; a message may be sent just after the guest's mask write began, as on a real bus.
        """
        message = self._ready[vector] if 0 <= vector < self.vectors else None
        if message is None:
            with self._lock:
                if not self.enabled:
                    return False
                if not 0 <= vector < self.vectors:
                    return True
                if self._masked(vector):
                    self._pending[vector >> 3] |= 1 << (vector & 7)
                    return True
                message = self._message(vector)
        self._deliver(message)
        return True

    def _deliver(self, message: tuple[int, int]) -> None:
        address, data = message
        device = self._device
        if MSIX_NOTIFY.on:
            MSIX_NOTIFY(device.name, address, data)
        if not device.bus_master:
            return  # a message is a memory write of the device (§6.2.2 bit 2)
        if address >> 20 == APIC_WINDOW:
            self._send(address, data)
            return
        try:
            device.dma.store_u32(address & ~3, data)
        except GuestAddressError:
            if GUEST_ERRORS.on:
                GUEST_ERRORS(f"{device.name}: MSI-X message to {address:#x} hits nothing")

    def is_pending(self, vector: int) -> bool:
        return bool(self._pending[vector >> 3] >> (vector & 7) & 1)

    def ready(self, vector: int) -> tuple[int, int] | None:
        """(address, data) of a vector that may interrupt now, for an irqfd: to a local APIC, not masked. Else None.
        DeviceLock held."""
        message = self._ready[vector] if 0 <= vector < self.vectors else None
        return message if message is not None and message[0] >> 20 == APIC_WINDOW else None

    def reset(self) -> None:
        """Off, every vector masked, nothing pending. The configuration space is reset by the device."""
        with self._lock:
            self._table[:] = bytes(len(self._table))
            for vector in range(self.vectors):
                self._table[vector * ENTRY_BYTES + ENTRY_CONTROL] = VECTOR_MASKED
            self._pending[:] = bytes(len(self._pending))
            self.enabled = False
            self._function_masked = False
            self._ready = [None] * self.vectors
        self._changed([])

    # -- the guest's side ----------------------------------------------------------------------------------

    def _masked(self, vector: int) -> bool:
        return self._function_masked or bool(self._table[vector * ENTRY_BYTES + ENTRY_CONTROL] & VECTOR_MASKED)

    def _message(self, vector: int) -> tuple[int, int]:
        start = vector * ENTRY_BYTES
        table = self._table
        return (
            int.from_bytes(table[start : start + 8], "little"),
            int.from_bytes(table[start + ENTRY_DATA : start + ENTRY_DATA + 4], "little"),
        )

    def _refresh(self, first: int, last: int) -> list[tuple[int, int]]:
        """Recompute vectors ``first..last`` after a change; returns messages that were pending and may go now."""
        due: list[tuple[int, int]] = []
        for vector in range(first, last + 1):
            if not self.enabled or self._masked(vector):
                self._ready[vector] = None
                continue
            message = self._message(vector)
            self._ready[vector] = message
            if self.is_pending(vector):
                self._pending[vector >> 3] &= ~(1 << (vector & 7)) & 0xFF
                due.append(message)
        return due

    def _control_written(self, offset: int, size: int) -> None:
        control = self._device.config.get(self.capability + CAP_CONTROL, 2)
        with self._lock:
            self.enabled = bool(control & CONTROL_ENABLE)
            self._function_masked = bool(control & CONTROL_FUNCTION_MASK)
            due = self._refresh(0, self.vectors - 1)
        if MSIX_WRITE_CONFIG.on:
            MSIX_WRITE_CONFIG(self._device.name, self.enabled, self._function_masked)
        if self.enabled:
            self._device.intx.lower()  # §6.8.3.3: not both
        self._changed(due)

    def _changed(self, due: list[tuple[int, int]]) -> None:
        """After a change: messages that were held back go, and who follows the vectors is told."""
        for message in due:
            self._deliver(message)
        if self.on_change is not None:
            self.on_change()

    def _table_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._table[offset : offset + size], "little")

    def _table_write(self, offset: int, size: int, value: int) -> None:
        first, last = offset // ENTRY_BYTES, (offset + size - 1) // ENTRY_BYTES
        with self._lock:
            self._table[offset : offset + size] = value.to_bytes(size, "little")
            for vector in range(first, last + 1):  # the upper bits of Vector Control are reserved: zero
                control = vector * ENTRY_BYTES + ENTRY_CONTROL
                self._table[control : control + 4] = bytes((self._table[control] & VECTOR_MASKED, 0, 0, 0))
            due = self._refresh(first, last)
        self._changed(due)

    def _pba_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._pending[offset : offset + size], "little")

    def _pba_write(self, offset: int, size: int, value: int) -> None:
        """The pending bits are read-only (§6.8.2)."""

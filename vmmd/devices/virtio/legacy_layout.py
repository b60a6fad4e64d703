# SPDX-License-Identifier: Apache-2.0
"""The legacy interface of a transitional device: registers in I/O BAR 0 (virtio 1.2 §4.1.4.10; virtio 0.9.5 §2.3).

Queue addresses are one page frame number (4 KiB pages), the three rings lie behind each other (§2.7.2), there is
no FEATURES_OK, and the queue size is the device's choice.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from vmmd.devices.virtio.device import NO_VECTOR, QUEUES_MAX, Status

if TYPE_CHECKING:
    from vmmd.devices.virtio.pci_transport import VirtioPciDevice


class Reg(enum.IntEnum):
    """Offsets in BAR 0."""

    DEVICE_FEATURES = 0x00
    DRIVER_FEATURES = 0x04
    QUEUE_ADDRESS = 0x08
    QUEUE_SIZE = 0x0C
    QUEUE_SELECT = 0x0E
    QUEUE_NOTIFY = 0x10
    STATUS = 0x12
    ISR = 0x13
    CONFIG_VECTOR = 0x14  # only while MSI-X is enabled
    QUEUE_VECTOR = 0x16


#: Where device configuration starts, without and with MSI-X enabled
CONFIG_OFFSET = 0x14
CONFIG_OFFSET_MSIX = 0x18

#: QEMU-COMPAT: offered by QEMU's legacy interface; a driver that takes it gets no features at all (virtio 0.9.5
#: drivers that acknowledge every bit)
F_BAD_FEATURE = 1 << 30

PAGE_SHIFT = 12
PAGE_MASK = (1 << PAGE_SHIFT) - 1

WIDTHS = {
    Reg.DEVICE_FEATURES: 4,
    Reg.DRIVER_FEATURES: 4,
    Reg.QUEUE_ADDRESS: 4,
    Reg.QUEUE_SIZE: 2,
    Reg.QUEUE_SELECT: 2,
    Reg.QUEUE_NOTIFY: 2,
    Reg.STATUS: 1,
    Reg.ISR: 1,
    Reg.CONFIG_VECTOR: 2,
    Reg.QUEUE_VECTOR: 2,
}


def ring_addresses(pfn: int, size: int) -> tuple[int, int, int]:
    """Guest addresses of the three rings of a legacy queue of ``size`` entries (§2.7.2)."""
    desc_gpa = pfn << PAGE_SHIFT
    avail_gpa = desc_gpa + 16 * size
    used_gpa = (avail_gpa + 6 + 2 * size + PAGE_MASK) & ~PAGE_MASK
    return desc_gpa, avail_gpa, used_gpa


class LegacyRegisters:
    """Handlers of BAR 0. vCPU, DeviceLock held."""

    def __init__(self, function: VirtioPciDevice) -> None:
        self._function = function
        self._virtio = function.virtio
        self._readers = {
            Reg.DEVICE_FEATURES: lambda: self._virtio.offered_legacy | F_BAD_FEATURE,
            Reg.DRIVER_FEATURES: lambda: self._virtio.driver_features & 0xFFFF_FFFF,
            Reg.QUEUE_ADDRESS: self._read_pfn,
            Reg.QUEUE_SIZE: lambda: queue.size if (queue := function.selected_queue) else 0,
            Reg.QUEUE_SELECT: lambda: function.queue_select,
            Reg.QUEUE_NOTIFY: lambda: 0xFFFF,
            Reg.STATUS: lambda: self._virtio.status,
            Reg.ISR: function.read_isr,
            Reg.CONFIG_VECTOR: lambda: function.config_vector,
            Reg.QUEUE_VECTOR: lambda: queue.vector if (queue := function.selected_queue) else NO_VECTOR,
        }
        self._writers = {
            Reg.DRIVER_FEATURES: self._write_features,
            Reg.QUEUE_ADDRESS: self._write_pfn,
            Reg.QUEUE_SELECT: self._write_select,
            Reg.QUEUE_NOTIFY: self.notify,
            Reg.STATUS: self._write_status,
            Reg.CONFIG_VECTOR: function.set_config_vector,
            Reg.QUEUE_VECTOR: function.set_queue_vector,
        }

    def _config_offset(self) -> int:
        return CONFIG_OFFSET_MSIX if self._function.msix_enabled else CONFIG_OFFSET

    def read(self, offset: int, size: int) -> int:
        """An access of any shape: registers in their own width, anything else all-ones."""
        start = self._config_offset()
        if offset >= start:
            return self._virtio.read_config(offset - start, size)
        reader = self._readers.get(offset)  # type: ignore[call-overload]  # an IntEnum key is its int
        if reader is None:
            return (1 << (8 * size)) - 1
        value: int = reader()
        return value & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """A register in its own width; other shapes are dropped."""
        virtio = self._virtio
        if virtio.busy:
            return
        start = self._config_offset()
        if offset >= start:
            virtio.write_config(offset - start, size, value)
            return
        writer = self._writers.get(offset)  # type: ignore[call-overload]
        if writer is not None and size >= WIDTHS[Reg(offset)]:
            writer(value & ((1 << (8 * WIDTHS[Reg(offset)])) - 1))

    def _read_pfn(self) -> int:
        queue = self._function.selected_queue
        return queue.desc_gpa >> PAGE_SHIFT & 0xFFFF_FFFF if queue else 0

    def _write_features(self, value: int) -> None:
        if value & F_BAD_FEATURE:
            value = 0
        self._virtio.driver_features = value & self._virtio.offered_legacy
        if not self._virtio.workers:
            self._virtio.features_written()

    def _write_pfn(self, pfn: int) -> None:
        virtio, queue = self._virtio, self._function.selected_queue
        if not pfn:
            virtio.reset_by_driver()  # QEMU-COMPAT: old drivers take a queue down by PFN 0, which resets all
        elif queue is not None and not queue.enabled:
            queue.desc_gpa, queue.avail_gpa, queue.used_gpa = ring_addresses(pfn, queue.size)
            queue.enabled = True
            self._function.uses_legacy = True
            if virtio.status & Status.DRIVER_OK:
                virtio.activate()

    def _write_select(self, index: int) -> None:
        if index < QUEUES_MAX:
            self._function.queue_select = index

    def _write_status(self, value: int) -> None:
        self._function.uses_legacy = True
        self._function.write_status(value & ~int(Status.FEATURES_OK))

    def notify(self, index: int) -> None:
        """A kick that came by an exit. QEMU-COMPAT: drivers that ring before DRIVER_OK are served."""
        virtio = self._virtio
        if index < len(virtio.queues) and virtio.queues[index].enabled and index not in virtio.workers:
            virtio.driver_ready()
            virtio.activate()
        virtio.kick_queue(index)

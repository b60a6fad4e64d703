# SPDX-License-Identifier: Apache-2.0
"""The common configuration structure of the modern interface (virtio 1.2 §4.1.4.3).

Each register is found by its offset in one dictionary; an access in its own width is one look-up. Other shapes
(drivers may split 64-bit registers; anything else is the guest's mistake) are put together from the registers.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from vmmd.devices.virtio.device import F_RING_RESET, NO_VECTOR, QUEUES_MAX, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.virtio.device import QueueState
    from vmmd.devices.virtio.pci_transport import VirtioPciDevice


class Reg(enum.IntEnum):
    """Offsets in the structure."""

    DEVICE_FEATURE_SELECT = 0x00
    DEVICE_FEATURE = 0x04
    DRIVER_FEATURE_SELECT = 0x08
    DRIVER_FEATURE = 0x0C
    CONFIG_VECTOR = 0x10
    NUM_QUEUES = 0x12
    STATUS = 0x14
    CONFIG_GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFF = 0x1E
    QUEUE_DESC = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30
    QUEUE_NOTIFY_DATA = 0x38
    QUEUE_RESET = 0x3A


#: Widths in bytes
WIDTHS = {
    **dict.fromkeys(Reg, 2),
    Reg.DEVICE_FEATURE_SELECT: 4,
    Reg.DEVICE_FEATURE: 4,
    Reg.DRIVER_FEATURE_SELECT: 4,
    Reg.DRIVER_FEATURE: 4,
    Reg.STATUS: 1,
    Reg.CONFIG_GENERATION: 1,
    Reg.QUEUE_DESC: 8,
    Reg.QUEUE_DRIVER: 8,
    Reg.QUEUE_DEVICE: 8,
}

_QUEUE_ADDRESSES = {Reg.QUEUE_DESC: "desc_gpa", Reg.QUEUE_DRIVER: "avail_gpa", Reg.QUEUE_DEVICE: "used_gpa"}


def _half(value: int, select: int) -> int:
    return value >> (32 * select) & 0xFFFF_FFFF if select < 2 else 0


class CommonRegisters:
    """Handlers of the common configuration. vCPU, DeviceLock held."""

    def __init__(self, function: VirtioPciDevice) -> None:
        self._function = function
        virtio = self._virtio = function.virtio
        self.device_select = 0
        self.driver_select = 0
        queue = self._queue_field
        readers: dict[Reg, Callable[[], int]] = {
            Reg.DEVICE_FEATURE_SELECT: lambda: self.device_select,
            Reg.DEVICE_FEATURE: lambda: _half(virtio.offered, self.device_select),
            Reg.DRIVER_FEATURE_SELECT: lambda: self.driver_select,
            Reg.DRIVER_FEATURE: lambda: _half(virtio.driver_features, self.driver_select),
            Reg.CONFIG_VECTOR: lambda: function.config_vector,
            Reg.NUM_QUEUES: lambda: len(virtio.queues),
            Reg.STATUS: lambda: virtio.status,
            Reg.CONFIG_GENERATION: lambda: virtio.config_generation,
            Reg.QUEUE_SELECT: lambda: function.queue_select,
            Reg.QUEUE_SIZE: lambda: queue("size"),
            Reg.QUEUE_VECTOR: lambda: queue("vector", NO_VECTOR),
            Reg.QUEUE_ENABLE: lambda: int(queue("enabled")),
            Reg.QUEUE_NOTIFY_OFF: lambda: function.queue_select,
            Reg.QUEUE_DESC: lambda: queue("desc_gpa"),
            Reg.QUEUE_DRIVER: lambda: queue("avail_gpa"),
            Reg.QUEUE_DEVICE: lambda: queue("used_gpa"),
            Reg.QUEUE_NOTIFY_DATA: lambda: 0,
            Reg.QUEUE_RESET: lambda: int(virtio.busy),
        }
        self._readers = {int(reg): reader for reg, reader in readers.items()}
        #: the hot look-up: (offset, width) packed
        self._exact = {int(reg) << 4 | WIDTHS[reg]: reader for reg, reader in readers.items()}
        self._writers = {
            Reg.DEVICE_FEATURE_SELECT: self._write_device_select,
            Reg.DRIVER_FEATURE_SELECT: self._write_driver_select,
            Reg.DRIVER_FEATURE: self._write_driver_feature,
            Reg.CONFIG_VECTOR: function.set_config_vector,
            Reg.STATUS: function.write_status,
            Reg.QUEUE_SELECT: self._write_queue_select,
            Reg.QUEUE_SIZE: self._write_queue_size,
            Reg.QUEUE_VECTOR: function.set_queue_vector,
            Reg.QUEUE_ENABLE: self._write_enable,
            Reg.QUEUE_RESET: self._write_reset,
        }

    def _queue_field(self, name: str, default: int = 0) -> int:
        queue = self._function.selected_queue
        return default if queue is None else int(getattr(queue, name))

    # -- dispatch ------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A read of any shape; bytes behind the structure are zero."""
        reader = self._exact.get(offset << 4 | size)
        if reader is not None:
            return reader()
        end = offset + size
        image = 0
        for start, each in self._readers.items():
            if start < end and start + WIDTHS[Reg(start)] > offset:
                image |= each() << (8 * start)
        return image >> (8 * offset) & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """A write of a register in its width, or of an aligned half of a 64-bit one; other shapes are dropped."""
        base = offset & ~7
        if base in (Reg.QUEUE_DESC, Reg.QUEUE_DRIVER, Reg.QUEUE_DEVICE):
            self._write_address(_QUEUE_ADDRESSES[Reg(base)], offset - base, size, value)
            return
        writer = self._writers.get(offset)  # type: ignore[call-overload]  # an IntEnum key is its int
        if writer is not None and size == WIDTHS[Reg(offset)]:
            writer(value)

    # -- registers -----------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.device_select = self.driver_select = 0

    def _write_device_select(self, value: int) -> None:
        self.device_select = value

    def _write_driver_select(self, value: int) -> None:
        self.driver_select = value

    def _write_driver_feature(self, value: int) -> None:
        """Taken until FEATURES_OK (§3.1.1)."""
        virtio, select = self._virtio, self.driver_select
        if select < 2 and not virtio.status & Status.FEATURES_OK:
            shift = 32 * select
            virtio.driver_features = virtio.driver_features & ~(0xFFFF_FFFF << shift) | value << shift
            if not virtio.workers:
                virtio.features_written()

    def _write_queue_select(self, value: int) -> None:
        if value < QUEUES_MAX:
            self._function.queue_select = value

    def _idle_queue(self) -> QueueState | None:
        """The selected queue while its registers may still change: until it is enabled."""
        queue = self._function.selected_queue
        return queue if queue is not None and not queue.enabled else None

    def _write_queue_size(self, value: int) -> None:
        """Smaller than offered; that it is a power of two is checked on activation."""
        queue = self._idle_queue()
        if queue is not None and 0 < value <= queue.size_max:
            queue.size = value

    def _write_address(self, name: str, offset: int, size: int, value: int) -> None:
        queue = self._idle_queue()
        if queue is None or (offset, size) not in ((0, 8), (0, 4), (4, 4)):
            return
        mask = ((1 << (8 * size)) - 1) << (8 * offset)
        setattr(queue, name, getattr(queue, name) & ~mask | value << (8 * offset))

    def _write_enable(self, value: int) -> None:
        """1 enables once; a driver must not write 0 (§4.1.4.3.2)."""
        queue = self._idle_queue()
        if queue is None or value != 1:
            return
        queue.enabled = True
        self._function.uses_legacy = False
        if self._virtio.status & Status.DRIVER_OK:
            self._virtio.activate()

    def _write_reset(self, value: int) -> None:
        """Reset of one queue (§2.6.1): reads 1 until done, which is before this write ends, or busy."""
        virtio = self._virtio
        if value == 1 and virtio.driver_features & F_RING_RESET and self._function.selected_queue is not None:
            virtio.reset_queue(self._function.queue_select)

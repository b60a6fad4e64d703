# SPDX-License-Identifier: Apache-2.0
"""One PCI function's registers as a driver reaches them: in this process on fakes, or over the qtest wire.

``FunctionRegisters`` has what is the same for both: BARs, capabilities, MSI-X, and where virtio's structures are
(virtio 1.2 §4.1.4). In this process accesses take the DeviceLock, as a vCPU does, and doorbells are tried first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import threading

    from vmmd.core.address_space import AddressSpace

LEGACY_BASE, MSIX_BASE, MODERN_BASE = 0xC000, 0xE000_0000, 0xE100_0000
MSI_ADDRESS, MSI_DATA = 0xFEE0_0000, 0x40

CAP_MSIX, CAP_VENDOR = 0x11, 0x09
REG_COMMAND, REG_BAR0, REG_CAPABILITIES = 0x04, 0x10, 0x34
COMMAND_DECODE_AND_MASTER = 7
MSIX_ENABLE, MSIX_MASK_ALL = 0x8000, 0x4000
#: cfg_type of the vendor capabilities
COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4


class Structure(NamedTuple):
    """Where one of virtio's structures is."""

    address: int
    length: int
    multiplier: int  # of notifications


class Doorbells(Protocol):
    """What may take a write before the device sees it."""

    def ring(self, space: str, address: int, value: int) -> bool: ...


class FunctionRegisters:
    """Base: subclasses reach the registers."""

    pio: Any  # how ``read`` and ``write`` are told the space of a BAR
    mmio: Any

    def config_read(self, offset: int, size: int) -> int:
        raise NotImplementedError

    def config_write(self, offset: int, size: int, value: int) -> None:
        raise NotImplementedError

    def read(self, space: Any, address: int, size: int) -> int:
        raise NotImplementedError

    def write(self, space: Any, address: int, size: int, value: int) -> None:
        raise NotImplementedError

    # -- what firmware and the PCI core of an operating system do ----------------------------------------------

    def map_bars(self, io_base: int = LEGACY_BASE, memory_base: int = MSIX_BASE) -> None:
        """Give each BAR an address, 4 MiB of memory apart, and switch decoding and bus mastering on."""
        self.config_write(REG_COMMAND, 2, 0)
        index = 0
        while index < 6:
            register = REG_BAR0 + 4 * index
            self.config_write(register, 4, 0xFFFF_FFFF)
            probed = self.config_read(register, 4)
            is_64 = probed & 7 == 4
            if probed:
                self.config_write(register, 4, io_base if probed & 1 else memory_base + index * 0x40_0000)
                io_base += (~(probed & ~3) & 0xFFFF) + 1 if probed & 1 else 0
            if is_64:
                self.config_write(register + 4, 4, 0)
            index += 2 if is_64 else 1
        self.config_write(REG_COMMAND, 2, COMMAND_DECODE_AND_MASTER)

    def bar(self, index: int) -> int:
        """The address in a BAR."""
        value = self.config_read(REG_BAR0 + 4 * index, 4)
        return value & ~3 if value & 1 else value & ~15

    def capabilities(self) -> list[tuple[int, int]]:
        """(id, offset) along the list."""
        found: list[tuple[int, int]] = []
        at = self.config_read(REG_CAPABILITIES, 1)
        while at and len(found) < 48:
            found.append((self.config_read(at, 1), at))
            at = self.config_read(at + 1, 1)
        return found

    def structures(self) -> dict[int, Structure]:
        """virtio's structures by cfg_type; empty without the modern interface."""
        found: dict[int, Structure] = {}
        for id_, at in self.capabilities():
            kind = self.config_read(at + 3, 1)
            if id_ == CAP_VENDOR and kind in (COMMON, NOTIFY, ISR, DEVICE) and kind not in found:
                address = self.bar(self.config_read(at + 4, 1)) + self.config_read(at + 8, 4)
                multiplier = self.config_read(at + 16, 4) if kind == NOTIFY else 0
                found[kind] = Structure(address, self.config_read(at + 12, 4), multiplier)
        return found

    def _msix(self) -> int | None:
        return next((offset for id_, offset in self.capabilities() if id_ == CAP_MSIX), None)

    @property
    def msix_enabled(self) -> bool:
        at = self._msix()
        return at is not None and bool(self.config_read(at + 2, 2) & MSIX_ENABLE)

    def enable_msix(self, vectors: int, address: int = MSI_ADDRESS) -> None:
        """Unmask ``vectors`` vectors; vector n sends data ``MSI_DATA`` + n. ``address`` may be one in RAM: of vector 0,
        4 bytes more for each."""
        at = self._msix()
        assert at is not None, "no MSI-X"
        self.config_write(at + 2, 2, MSIX_ENABLE)
        table = self.config_read(at + 4, 4)
        first = self.bar(table & 7) + (table & ~7)
        for vector in range(vectors):
            target = address if address == MSI_ADDRESS else address + 4 * vector
            for offset, value in ((0, target), (4, 0), (8, MSI_DATA + vector), (12, 0)):
                self.write(self.mmio, first + 16 * vector + offset, 4, value)


class Registers(FunctionRegisters):
    """A device object in this process."""

    def __init__(
        self, function: Any, pio: AddressSpace, mmio: AddressSpace, doorbells: Doorbells, lock: threading.Lock
    ) -> None:
        self.function, self.pio, self.mmio, self.doorbells, self.lock = function, pio, mmio, doorbells, lock

    def config_read(self, offset: int, size: int) -> int:
        with self.lock:
            return int(self.function.config_read(offset, size))

    def config_write(self, offset: int, size: int, value: int) -> None:
        with self.lock:
            self.function.config_write(offset, size, value)

    def read(self, space: AddressSpace, address: int, size: int) -> int:
        with self.lock:
            return space.read(address, size)

    def write(self, space: AddressSpace, address: int, size: int, value: int) -> None:
        if self.doorbells.ring("pio" if space is self.pio else "mmio", address, value):
            return
        with self.lock:
            space.write(address, size, value)

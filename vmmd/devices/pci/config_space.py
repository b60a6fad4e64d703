# SPDX-License-Identifier: Apache-2.0
"""The 256 bytes of one function's configuration space, with a write mask and a write-1-to-clear mask per byte.

Sides: the device uses ``get``/``set`` and declares masks while it is realized; ``seal`` then remembers the values
as those of a reset. The guest comes in through ``read``/``write``, where any offset and width is fine.
"""

from __future__ import annotations

from vmmd.devices.pci.regs import CONFIG_SPACE_BYTES


class ConfigSpace:
    """Registers of one PCI function. DeviceLock held."""

    __slots__ = ("_initial", "data", "w1c_mask", "write_mask")

    def __init__(self) -> None:
        self.data = bytearray(CONFIG_SPACE_BYTES)
        self.write_mask = bytearray(CONFIG_SPACE_BYTES)  # 1: the guest's write is taken
        self.w1c_mask = bytearray(CONFIG_SPACE_BYTES)  # 1: the guest's 1 clears
        self._initial = bytes(CONFIG_SPACE_BYTES)

    def get(self, offset: int, size: int) -> int:
        """The register's value, for the device."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def set(self, offset: int, size: int, value: int) -> None:
        """Store a register's value, for the device: masks do not count."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def define(self, offset: int, size: int, value: int, write_mask: int = 0) -> None:
        """A register with its reset value and the bits that the guest may write."""
        self.set(offset, size, value)
        self.set_write_mask(offset, size, write_mask)

    def set_write_mask(self, offset: int, size: int, mask: int) -> None:
        self.write_mask[offset : offset + size] = mask.to_bytes(size, "little")

    def set_w1c_mask(self, offset: int, size: int, mask: int) -> None:
        self.w1c_mask[offset : offset + size] = mask.to_bytes(size, "little")

    def seal(self) -> None:
        """The present values are those after a reset."""
        self._initial = bytes(self.data)

    def reset(self) -> None:
        """Back to the sealed values."""
        self.data[:] = self._initial

    def initial(self, offset: int, size: int) -> int:
        """The value of a register after a reset."""
        return int.from_bytes(self._initial[offset : offset + size], "little")

    def read(self, offset: int, size: int) -> int:
        """A guest's read; bytes behind the end are zero (QEMU-COMPAT)."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A guest's write through the masks; bytes behind the end are dropped."""
        data, writable, clearable = self.data, self.write_mask, self.w1c_mask
        for index in range(offset, min(offset + size, CONFIG_SPACE_BYTES)):
            byte = value & 0xFF
            value >>= 8
            mask = writable[index]
            data[index] = (data[index] & ~mask | byte & mask) & ~(byte & clearable[index]) & 0xFF

# SPDX-License-Identifier: Apache-2.0
"""SMBus host controller of the PIIX4 (Intel 290562 "82371AB PIIX4", SMBus host registers), with an empty bus.

Every transaction ends at once with a device error, because no slave acknowledges. LIMIT: QEMU's pc has eight SPD
EEPROMs on its bus (addresses 50h-57h); they describe memory modules that nobody uses, so the bus is left empty here.
The slave half of the controller holds its registers and never sees a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SMBUS_BYTES = 16

REG_HOST_STATUS = 0x00
REG_SLAVE_STATUS = 0x01
REG_HOST_CONTROL = 0x02
REG_HOST_COMMAND = 0x03
REG_HOST_ADDRESS = 0x04
REG_HOST_DATA0 = 0x05
REG_HOST_DATA1 = 0x06
REG_BLOCK_DATA = 0x07
REG_SLAVE_CONTROL = 0x08

STATUS_INTERRUPT = 0x02
STATUS_DEVICE_ERROR = 0x04  # no acknowledge from the addressed device
STATUS_BUS_ERROR = 0x08
STATUS_FAILED = 0x10  # killed
STATUS_CLEARABLE = STATUS_INTERRUPT | STATUS_DEVICE_ERROR | STATUS_BUS_ERROR | STATUS_FAILED

CONTROL_INTERRUPT_ENABLE = 0x01
CONTROL_KILL = 0x02
CONTROL_START = 0x40

_STORED = frozenset({REG_HOST_COMMAND, REG_HOST_ADDRESS, REG_HOST_DATA0, REG_HOST_DATA1, REG_SLAVE_CONTROL})
_BLOCK_BYTES = 32


class SmbusHost:
    """Host registers. ``set_interrupt(level)`` drives the interrupt that the function's configuration selects."""

    def __init__(self, set_interrupt: Callable[[int], None]) -> None:
        self._set_interrupt = set_interrupt
        self._registers = bytearray(SMBUS_BYTES)
        self._block = bytearray(_BLOCK_BYTES)
        self._block_index = 0

    def reset(self) -> None:
        self._registers[:] = bytes(SMBUS_BYTES)
        self._block[:] = bytes(_BLOCK_BYTES)
        self._block_index = 0
        self.update_interrupt()

    def update_interrupt(self) -> None:
        """Drive the interrupt from status and enable bit."""
        pending = self._registers[REG_HOST_STATUS] & STATUS_CLEARABLE
        enabled = self._registers[REG_HOST_CONTROL] & CONTROL_INTERRUPT_ENABLE
        self._set_interrupt(1 if pending and enabled else 0)

    def read(self, offset: int, size: int) -> int:
        """One register (``size`` is 1)."""
        if offset == REG_HOST_CONTROL:
            self._block_index = 0
        elif offset == REG_BLOCK_DATA:
            value = self._block[self._block_index]
            self._block_index = (self._block_index + 1) % _BLOCK_BYTES
            return value
        return self._registers[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        """One register (``size`` is 1)."""
        if offset == REG_HOST_STATUS:
            self._registers[REG_HOST_STATUS] &= ~(value & STATUS_CLEARABLE)
            self.update_interrupt()
        elif offset == REG_HOST_CONTROL:
            self._control(value)
        elif offset == REG_BLOCK_DATA:
            self._block[self._block_index] = value
            self._block_index = (self._block_index + 1) % _BLOCK_BYTES
        elif offset in _STORED:
            self._registers[offset] = value

    def _control(self, value: int) -> None:
        self._registers[REG_HOST_CONTROL] = value & ~CONTROL_START & 0xFF
        if value & CONTROL_KILL:
            self._registers[REG_HOST_STATUS] |= STATUS_FAILED
        elif value & CONTROL_START:
            self._registers[REG_HOST_STATUS] |= STATUS_DEVICE_ERROR
        self.update_interrupt()

# SPDX-License-Identifier: Apache-2.0
"""INTx: a function's level-triggered interrupt, and how the bus gathers the pins onto four PIRQ lines.

The swizzle is the one that SeaBIOS and the ``_PRT`` of the firmware assume: PIRQ = (slot - 1 + pin) & 3, INTA# = 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.irq import IrqLine
from vmmd.devices.pci.regs import CMD_INTX_DISABLE, REG_COMMAND, REG_STATUS, STATUS_INTERRUPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.pci.config_space import ConfigSpace

PIRQ_COUNT = 4


def pirq_of(slot: int, pin: int) -> int:
    """Which PIRQ (0..3) the pin (0..3 = A..D) of a slot is wired to."""
    return (slot - 1 + pin) & 3


class Intx:
    """One function's INTx: the level the device wants, gated by the command register, shown in the status register."""

    __slots__ = ("_config", "_drive", "_driven", "line")

    def __init__(self, config: ConfigSpace) -> None:
        self._config = config
        self._drive: Callable[[int], None] | None = None
        self._driven = 0
        self.line = IrqLine(self._changed)

    def connect(self, drive: Callable[[int], None] | None) -> None:
        """``drive(level)`` is the wire on the bus; None cuts it (after driving it low)."""
        if self._drive is not None and self._driven:
            self._drive(0)
        self._driven = 0
        self._drive = drive
        self.update()

    def _changed(self, level: int) -> None:
        status = self._config.get(REG_STATUS, 2)
        self._config.set(REG_STATUS, 2, status | STATUS_INTERRUPT if level else status & ~STATUS_INTERRUPT)
        self.update()

    def update(self) -> None:
        """Drive the wire anew after the level or the disable bit changed."""
        masked = self._config.get(REG_COMMAND, 2) & CMD_INTX_DISABLE
        level = 1 if self.line.level and not masked else 0
        if level != self._driven and self._drive is not None:
            self._driven = level
            self._drive(level)


class PirqFanIn:
    """ORs the INTx wires of a bus onto PIRQ 0..3. ``output(pirq, level)`` is the interrupt router (PIIX3)."""

    __slots__ = ("_asserted", "output")

    def __init__(self) -> None:
        self._asserted = [0] * PIRQ_COUNT
        self.output: Callable[[int, int], None] | None = None

    def set(self, slot: int, function: int, pin: int, level: int) -> None:
        """The wire of one function changed."""
        pirq = pirq_of(slot, pin)
        bit = 1 << (slot << 3 | function)
        before = self._asserted[pirq]
        after = before | bit if level else before & ~bit
        self._asserted[pirq] = after
        if bool(before) != bool(after) and self.output is not None:
            self.output(pirq, 1 if after else 0)

    def level(self, pirq: int) -> int:
        return 1 if self._asserted[pirq] else 0

# SPDX-License-Identifier: Apache-2.0
"""pc-testdev: what kvm-unit-tests expect of a PC besides its hardware (its README and x86 tests use it).

Ports E0h-E3h and E8h-EBh   four bytes of storage, the same at both places; the second takes bytes one by one
Ports E4h-E7h               a write asks to flush a page from the tables of the MMU: nothing to do here
Ports 2000h-2017h           a write drives the ISA interrupt of that number: 0 lowers, anything else raises
FF000000h, 64 KiB           storage behind the memory bus

Numbers from 16 on have no ISA interrupt: writes there are ignored (QEMU 7.2 ends itself). Storage survives a reset of
the machine, raised interrupts do not. The run state does not matter. DeviceLock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.irq import IrqLine
    from vmmd.core.props import PropSet

STORAGE_PORT, FLUSH_PORT, BYTE_STORAGE_PORT = 0xE0, 0xE4, 0xE8
STORAGE_BYTES = 4
IRQ_PORT, IRQ_PORTS = 0x2000, 24
ISA_INTERRUPTS = 16
MEMORY_BASE, MEMORY_BYTES = 0xFF00_0000, 64 * 1024


class PcTestdev(Device):
    """The test device."""

    type_name = "pc-testdev"
    description = "test device of kvm-unit-tests"
    category = "misc"
    bus_type = "ISA"
    user_creatable = True
    KEPT_AT_RESET = ("_storage", "_memory")

    class Props(Device.Props):
        """None."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._storage = bytearray(STORAGE_BYTES)
        self._memory = bytearray(MEMORY_BYTES)
        self._lines: list[IrqLine] = []

    def realize(self) -> None:
        for number in range(ISA_INTERRUPTS):
            line = self.ctx.irqs.line(number)
            self.on_undo(line.lower)
            self._lines.append(line)
        for port, width in ((STORAGE_PORT, 4), (BYTE_STORAGE_PORT, 1)):
            self.claim_pio(
                IoRange(port, STORAGE_BYTES, self._load, self._store, name="pc-testdev-ioport", max_width=width)
            )
        self.claim_pio(IoRange(FLUSH_PORT, 4, lambda *_: 0, lambda *_: None, name="pc-testdev-flush-page"))
        self.claim_pio(IoRange(IRQ_PORT, IRQ_PORTS, lambda *_: 0, self._drive, name="pc-testdev-irq-line", max_width=1))
        memory = IoRange(
            MEMORY_BASE, MEMORY_BYTES, self._load_memory, self._store_memory, name="pc-testdev-iomem", max_width=8
        )
        self.ctx.mmio.add(memory)
        self.on_undo(lambda: self.ctx.mmio.remove(memory))

    def reset(self, kind: ResetKind) -> None:
        for line in self._lines:
            line.lower()

    def _load(self, offset: int, size: int) -> int:
        return int.from_bytes(self._storage[offset : offset + size], "little")

    def _store(self, offset: int, size: int, value: int) -> None:
        self._storage[offset : offset + size] = value.to_bytes(size, "little")

    def _load_memory(self, offset: int, size: int) -> int:
        return int.from_bytes(self._memory[offset : offset + size], "little")

    def _store_memory(self, offset: int, size: int, value: int) -> None:
        self._memory[offset : offset + size] = value.to_bytes(size, "little")

    def _drive(self, offset: int, size: int, value: int) -> None:
        if offset < len(self._lines):
            self._lines[offset].set(int(bool(value)))

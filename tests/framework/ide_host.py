# SPDX-License-Identifier: Apache-2.0
"""The host's side of the IDE channels of a machine under qtest: task file, PIO, bus master. For vmmd and QEMU alike.

host = IdeHost(vm)                       # the primary channel; IdeHost(vm, secondary=True)
host.command(0x20, lba=5, count=1)       # returns the task file when BSY has gone
data = host.pio_in(256)
host.dma(0xC8, lba=0, count=1, regions=[(0x200000, 512)])
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.framework.qtest import Qtest

BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
ABRT = 0x04
BM_ACTIVE, BM_ERROR, BM_INTERRUPT = 1, 2, 4
BM_START, BM_TO_MEMORY = 1, 8
TABLE_GPA = 0x10_0000
LAST = 1 << 31
DEADLINE_S = 10.0
#: commands that bring data into memory
READS = frozenset({0xC8, 0xC9, 0x25})
IDENTIFY, FLUSH = 0xEC, 0xE7


class TaskFile(NamedTuple):
    """What the host reads: error, sector count, LBA low, mid, high, device, alternate status."""

    error: int
    sectors: int
    low: int
    mid: int
    high: int
    device: int
    status: int


class IdeHost:
    """One channel."""

    def __init__(self, vm: Qtest, *, secondary: bool = False) -> None:
        self.vm = vm
        self.base = 0x170 if secondary else 0x1F0
        self.irq = 15 if secondary else 14
        self.function = vm.pci(1, 1)
        self.bus_master = self.function.place_bar(4)
        self.function.enable()
        self._bm = 8 if secondary else 0

    # -- task file -------------------------------------------------------------------------------------------

    def task_file(self) -> TaskFile:
        read = self.vm.inb
        values = [read(self.base + each) for each in range(1, 7)]
        return TaskFile._make([*values, read(self.base + 0x206)])

    @property
    def status(self) -> int:
        return self.vm.inb(self.base + 0x206)

    def wait(self) -> TaskFile:
        """The task file when the drive is no longer busy."""
        deadline = time.monotonic() + DEADLINE_S
        while self.status & BSY:
            assert time.monotonic() < deadline, "the drive stays busy"
        return self.task_file()

    def set_registers(  # the registers, by name
        self, *, lba: int = 0, count: int = 1, features: int = 0, unit: int = 0, wide: bool = False, chs: bool = False
    ) -> None:
        """Select a drive and write the command block. ``wide``: 48-bit address and 16-bit count; ``chs``: ``lba`` is
        what the registers get."""
        write, base = self.vm.outb, self.base
        device = 0xA0 | unit << 4 | (0 if chs else 0x40)
        if not wide:
            device |= lba >> 24 & 0xF
        write(base + 6, device)
        write(base + 1, features)
        for shift in (8, 0) if wide else (0,):
            write(base + 2, count >> shift & 0xFF)
            for index in range(3):
                write(base + 3 + index, lba >> 8 * index + (24 if shift else 0) & 0xFF)

    def command(self, code: int, **registers: Any) -> TaskFile:
        """Write the registers, then the command; the task file when BSY has gone."""
        self.set_registers(**registers)
        self.vm.outb(self.base + 7, code)
        return self.wait()

    def soft_reset(self) -> TaskFile:
        self.vm.outb(self.base + 0x206, 4)
        self.vm.outb(self.base + 0x206, 0)
        return self.wait()

    # -- PIO -------------------------------------------------------------------------------------------------

    def pio_in(self, words: int = 256) -> bytes:
        return b"".join(self.vm.inw(self.base).to_bytes(2, "little") for _ in range(words))

    def pio_out(self, data: bytes) -> None:
        for at in range(0, len(data), 2):
            self.vm.outw(self.base, int.from_bytes(data[at : at + 2], "little"))

    def identify(self, unit: int = 0) -> bytes:
        self.command(IDENTIFY, unit=unit)
        data = self.pio_in()
        self.vm.inb(self.base + 7)
        return data

    # -- bus master ------------------------------------------------------------------------------------------

    def prepare(self, regions: Sequence[tuple[int, int]], *, last: bool = True) -> None:
        """Stop the bus master and give it a descriptor table of (address, length)."""
        bm = self.bus_master
        bm.write(self._bm, 1, 0)
        bm.write(self._bm + 2, 1, BM_INTERRUPT | BM_ERROR)
        table = b"".join(
            gpa.to_bytes(4, "little")
            + (length & 0xFFFF | (LAST if last and index == len(regions) - 1 else 0)).to_bytes(4, "little")
            for index, (gpa, length) in enumerate(regions)
        )
        self.vm.write(TABLE_GPA, table)
        bm.write(self._bm + 4, 4, TABLE_GPA)

    def start(self, *, to_memory: bool) -> None:
        self.bus_master.write(self._bm, 1, BM_START | (BM_TO_MEMORY if to_memory else 0))

    def stop(self) -> None:
        self.bus_master.write(self._bm, 1, 0)

    @property
    def bm_status(self) -> int:
        return self.bus_master.read(self._bm + 2, 1)

    def dma(
        self, code: int, regions: Sequence[tuple[int, int]], *, last: bool = True, abort: bool = False, **registers: Any
    ) -> tuple[int, TaskFile]:
        """A whole command by the bus master: its status when it is done or waits no more, and the task file."""
        self.prepare(regions, last=last)
        self.set_registers(**registers)
        self.vm.outb(self.base + 7, code)
        self.start(to_memory=code in READS)
        if abort:
            self.stop()
        deadline = time.monotonic() + DEADLINE_S
        while (status := self.bm_status) & (BM_ACTIVE | BM_INTERRUPT) == BM_ACTIVE:
            assert time.monotonic() < deadline, "the bus master stays active"
        file = self.wait()
        self.vm.inb(self.base + 7)
        self.stop()
        return status, file

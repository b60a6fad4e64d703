# SPDX-License-Identifier: Apache-2.0
"""The host's side of a floppy disk controller, as a driver or a BIOS has it: ports 3F2h to 3F7h and DMA channel 2.

    host = FloppyHost(vm)               # anything with inb, outb, read, write
    host.reset()
    host.seek(5)
    host.dma(0x10000, 512)
    status = host.run(READ, 0, 5, 0, 1, 2, 18, 0x1B, 0xFF)   # seven result bytes

Values are those of the 82078 and 8237A data sheets, on purpose not taken from the devices' code.
"""

from __future__ import annotations

import struct
import time
from typing import Protocol

SRB, DOR, TDR, MSR, FIFO, DIR = 0x3F1, 0x3F2, 0x3F3, 0x3F4, 0x3F5, 0x3F7
DSR, CCR = MSR, DIR
RQM, DIO, NONDMA, BUSY = 0x80, 0x40, 0x20, 0x10
DOR_RESET, DOR_DMA, MOTOR_A = 0x04, 0x08, 0x10

READ, WRITE, VERIFY, FORMAT, READ_ID = 0xE6, 0xC5, 0x16, 0x4D, 0x4A
RECALIBRATE, SENSE_INTERRUPT, SENSE_DRIVE, SPECIFY, SEEK = 0x07, 0x08, 0x04, 0x03, 0x0F
SEEK_OUT, SEEK_IN = 0x8F, 0xCF
CONFIGURE, DUMP, LOCK, UNLOCK, VERSION, PART_ID = 0x13, 0x0E, 0x94, 0x14, 0x10, 0x18
PERPENDICULAR, SAVE, RESTORE, DRIVE_SPECIFICATION = 0x12, 0x2E, 0x4E, 0x8E
TO_MEMORY, FROM_MEMORY, VERIFYING, AUTO_INIT, DECREMENT = 0x44, 0x48, 0x40, 0x10, 0x20

SECTOR = 512
DEADLINE_S = 10.0


class Ports(Protocol):
    """What a machine must be able to do."""

    def inb(self, port: int) -> int: ...
    def outb(self, port: int, value: int) -> None: ...


def diskette(sectors: int = 2880) -> bytes:
    """An image whose sectors tell their number."""
    return b"".join(struct.pack("<I", 0xABC0_0000 + number) * (SECTOR // 4) for number in range(sectors))


def sector(number: int) -> bytes:
    """What ``diskette`` has there."""
    return struct.pack("<I", 0xABC0_0000 + number) * (SECTOR // 4)


class FloppyHost:
    """Talks to the controller at 3F0h."""

    def __init__(self, vm: Ports) -> None:
        self.vm = vm

    # -- phases ----------------------------------------------------------------------------------------------

    def send(self, *values: int) -> None:
        """Command bytes, each when the controller asks for it."""
        for value in values:
            status = self.vm.inb(MSR)
            assert status & (RQM | DIO) == RQM, f"not ready for {value:#x}: {status:#x}"
            self.vm.outb(FIFO, value)

    def results(self) -> list[int]:
        """Result bytes, as many as there are."""
        values: list[int] = []
        while self.vm.inb(MSR) & (RQM | DIO | NONDMA) == RQM | DIO:
            values.append(self.vm.inb(FIFO))
            assert len(values) <= 16, "results without end"
        return values

    def wait(self, bits: int = RQM) -> int:
        """Until the main status register has ``bits``; its value."""
        deadline = time.monotonic() + DEADLINE_S
        while (status := self.vm.inb(MSR)) & bits != bits:
            assert time.monotonic() < deadline, f"the main status register stays at {status:#x}"
        return status

    def run(self, *values: int) -> list[int]:
        """A command and its results."""
        self.send(*values)
        self.wait()
        return self.results()

    # -- what drivers do -------------------------------------------------------------------------------------

    def reset(self, dor: int = MOTOR_A | DOR_DMA | DOR_RESET) -> list[list[int]]:
        """By DOR; what sensing the interrupt gives, four times."""
        self.vm.outb(DOR, 0)
        self.vm.outb(DOR, dor)
        return [self.run(SENSE_INTERRUPT) for _ in range(4)]

    def seek(self, cylinder: int, drive: int = 0) -> list[int]:
        self.send(SEEK, drive, cylinder)
        return self.run(SENSE_INTERRUPT)

    def recalibrate(self, drive: int = 0) -> list[int]:
        self.send(RECALIBRATE, drive)
        return self.run(SENSE_INTERRUPT)

    def use_dma(self, on: bool) -> None:
        self.send(SPECIFY, 0xA0, 0x02 | (not on))

    def dma(self, address: int, count: int, mode: int = TO_MEMORY) -> None:
        """Program channel 2: ``count`` bytes at ``address``."""
        out = self.vm.outb
        out(0x0A, 0x06)
        out(0x0C, 0)
        for value in (address & 0xFF, address >> 8 & 0xFF):
            out(0x04, value)
        out(0x81, address >> 16 & 0xFF)
        for value in (count - 1 & 0xFF, count - 1 >> 8 & 0xFF):
            out(0x05, value)
        out(0x0B, mode | 2)
        out(0x0A, 0x02)

    def dma_left(self) -> tuple[int, int, int]:
        """Address and count of channel 2 now, and the status register."""
        self.vm.outb(0x0C, 0)
        low, high, low_count, high_count = (self.vm.inb(port) for port in (4, 4, 5, 5))
        return low | high << 8, low_count | high_count << 8, self.vm.inb(0x08)

    def read_bytes(self, most: int, look_every: int = 1) -> bytes:
        """Data of a read without DMA; not a single time may the controller make wait. A driver that is in a hurry looks
        at the status only every so many bytes."""
        data = bytearray()
        while len(data) < most:
            if len(data) % look_every == 0 and self.vm.inb(MSR) & ~BUSY != RQM | DIO | NONDMA:
                break
            data.append(self.vm.inb(FIFO))
        return bytes(data)

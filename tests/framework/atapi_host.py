# SPDX-License-Identifier: Apache-2.0
"""A host's side of the packet protocol over ``Qtest``: commands to an ATAPI drive by PIO and by the bus master.

host = AtapiHost(vm)                       # the master of the secondary channel
answer = host.packet(0x12, 0, 0, 0, 36)    # data, pieces, registers
answer = host.dma_packet(..., regions=[(0x200000, 0x8000)])
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.framework.qtest import Qtest

PRIMARY, SECONDARY = 0x1F0, 0x170
CONTROL = 0x206  # from the command block
DATA, FEATURES, COUNT, LOW, MID, HIGH, DEVICE, STATUS = range(8)
ERR, DRQ, BSY = 0x01, 0x08, 0x80
PACKET, IDENTIFY_PACKET, DEVICE_RESET = 0xA0, 0xA1, 0x08
WAIT_S = 10.0
PIECES_MAX = 2000
TABLE = 0x100000
BM_START, BM_TO_MEMORY = 0x01, 0x08


class Answer(NamedTuple):
    """Everything that the host sees of one command."""

    data: bytes
    #: byte count and interrupt reason of each piece
    pieces: list[tuple[int, int]]
    #: alternate status, error, count, low, mid, high, device
    registers: list[int]

    @property
    def failed(self) -> bool:
        return bool(self.registers[0] & ERR)


class AtapiHost:
    def __init__(self, vm: Qtest, base: int = SECONDARY, unit: int = 0) -> None:
        self.vm = vm
        self.base = base
        self.device = 0xA0 | unit << 4

    def read(self, register: int) -> int:
        return self.vm.inb(self.base + register)

    def write(self, register: int, value: int) -> None:
        self.vm.outb(self.base + register, value)

    @property
    def status(self) -> int:
        """The alternate one."""
        return self.vm.inb(self.base + CONTROL)

    def registers(self) -> list[int]:
        return [self.status, *(self.read(each) for each in range(FEATURES, STATUS))]

    def wait(self) -> int:
        """The status when the drive is no longer busy."""
        deadline = time.monotonic() + WAIT_S
        while (status := self.status) & BSY and time.monotonic() < deadline:
            pass
        assert not status & BSY, f"busy: {status:#x}"
        return status

    def data(self, count: int) -> bytes:
        """``count`` bytes from the data port, in words; whole blocks, which come faster so, in double words."""
        doubles = 0 if count % 2048 else count // 4
        parts = [self.vm.inl(self.base).to_bytes(4, "little") for _ in range(doubles)]
        parts += [self.vm.inw(self.base).to_bytes(2, "little") for _ in range(-(-(count - 4 * doubles) // 2))]
        return b"".join(parts)[:count]

    def command(self, code: int, *, features: int = 0, limit: int = 0xFFFE) -> None:
        for register, value in ((DEVICE, self.device), (FEATURES, features), (MID, limit & 0xFF), (HIGH, limit >> 8)):
            self.write(register, value)
        self.write(STATUS, code)

    def identify(self) -> bytes:
        self.command(IDENTIFY_PACKET)
        self.wait()
        return self.data(512)

    def send(self, packet: tuple[int, ...], *, features: int, limit: int) -> bool:
        """PACKET and the packet itself; False when none is wanted."""
        self.command(PACKET, features=features, limit=limit)
        if not self.status & DRQ:
            return False
        padded = bytes(packet).ljust(12, b"\0")
        for at in range(0, 12, 2):
            self.vm.outw(self.base, int.from_bytes(padded[at : at + 2], "little"))
        return True

    def packet(self, *packet: int, limit: int = 0xFFFE, features: int = 0) -> Answer:
        """One command by PIO."""
        data = b""
        pieces: list[tuple[int, int]] = []
        if self.send(packet, features=features, limit=limit):
            while self.wait() & DRQ and len(pieces) < PIECES_MAX:
                self.read(STATUS)  # takes the interrupt back
                size = self.read(MID) | self.read(HIGH) << 8
                pieces.append((size, self.read(COUNT)))
                data += self.data(size)
        answer = Answer(data, pieces, self.registers())
        self.read(STATUS)
        return answer

    def sense(self) -> tuple[int, int]:
        """Key and additional code."""
        data = self.packet(0x03, 0, 0, 0, 18).data
        return data[2] & 0xF, data[12]

    def enable_bus_master(self) -> None:
        """Place the controller's BAR."""
        function = self.vm.pci(1, 1)
        function.enable()
        self.bar = function.place_bar(4)

    def dma_packet(self, *packet: int, regions: list[tuple[int, int]]) -> tuple[list[int], int]:
        """One command by DMA; the registers and the bus master's status at the end."""
        table = b"".join(gpa.to_bytes(4, "little") + (length & 0xFFFF).to_bytes(4, "little") for gpa, length in regions)
        self.vm.write(TABLE, table[:-1] + b"\x80")
        at = 8 if self.base == SECONDARY else 0
        self.bar.write(at, 1, 0)
        self.bar.write(at + 4, 4, TABLE)
        self.bar.write(at + 2, 1, 6)
        assert self.send(packet, features=1, limit=0)
        self.bar.write(at, 1, BM_START | BM_TO_MEMORY)
        deadline = time.monotonic() + WAIT_S
        while self.bar.read(at + 2, 1) & 5 == 1 and time.monotonic() < deadline:
            pass
        registers, dma = self.registers(), self.bar.read(at + 2, 1)
        self.bar.write(at, 1, 0)
        self.read(STATUS)
        return registers, dma

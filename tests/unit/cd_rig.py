# SPDX-License-Identifier: Apache-2.0
"""An ide-cd on the secondary channel of a machine of fakes. The test's thread is vCPU and loop.

rig = CdRig(sectors=100)
data, pieces = rig.packet(READ_10, lba=5, blocks=2, limit=3000)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.unit.fakes import ImmediateLoop, make_context, props
from tests.unit.virtio_rig import FakeDrive, MemoryDisk
from vmmd.devices.ide.cd import IdeCd
from vmmd.devices.ide.channel import SECONDARY, Channel
from vmmd.devices.ide.dma import BusMaster
from vmmd.devices.ide.drive import ST_BSY, ST_DRQ

if TYPE_CHECKING:
    from vmmd.devices.ide.atapi import AtapiDrive

SECTOR = 2048
RAM_BYTES = 1 << 20
NO_MEDIUM = MemoryDisk(0)
DATA, FEATURES, COUNT, MID, HIGH, DEVICE, COMMAND = 0, 1, 2, 4, 5, 6, 7
PACKET = 0xA0


def image(sectors: int) -> MemoryDisk:
    """A medium whose sectors have their numbers in them."""
    disk = MemoryDisk(0)
    disk.data = bytearray(b"".join(number.to_bytes(4, "little") * (SECTOR // 4) for number in range(sectors)))
    return disk


class Registers(NamedTuple):
    """What the host reads when a command has ended."""

    status: int
    error: int
    reason: int
    mid: int
    high: int


class CdRig:
    def __init__(self, sectors: int | None = 100, **given: str) -> None:
        self.machine = make_context(RAM_BYTES)
        self.loop = ImmediateLoop()
        self.loop.hold = True
        loop: Any = self.loop
        self.machine.ctx.loop = loop
        self.drive = FakeDrive(NO_MEDIUM)
        self.drive.name = "d0"
        self.put_in(None if sectors is None else image(sectors))
        self.machine.backends.drives["d0"] = self.drive
        ctx = self.machine.ctx
        self.channel = Channel(SECONDARY, ctx.irqs.line(SECONDARY.gsi), BusMaster(lambda: ctx.memory))
        self.device = IdeCd(props(IdeCd, drive="d0", **given), ctx, "cd0")
        self.device.bus = self.channel
        with self.machine.lock:
            self.device.plug()
        assert self.device.drive is not None
        self.unit: AtapiDrive = self.device.drive  # type: ignore[assignment]
        self.max_pieces = 10_000

    def put_in(self, disk: MemoryDisk | None) -> None:
        """The host exchanges the medium; the tray is another matter."""
        self.drive.backend = disk or NO_MEDIUM
        self.drive.inserted = disk is not None

    def move_tray(self, *, load: bool) -> None:
        with self.machine.lock:
            self.unit.medium_changed(load)
        self.loop.run()

    @property
    def interrupts(self) -> int:
        return self.machine.interrupts.raised(SECONDARY.gsi)

    # -- registers -------------------------------------------------------------------------------------------

    def write(self, register: int, value: int, size: int = 1) -> None:
        with self.machine.lock:
            self.channel.write(register, size, value)
        self.loop.run()

    def read(self, register: int, size: int = 1) -> int:
        with self.machine.lock:
            value = self.channel.read(register, size)
        self.loop.run()
        return value

    @property
    def status(self) -> int:
        with self.machine.lock:
            return self.channel.read_alternate_status(0, 1)

    def registers(self) -> Registers:
        return Registers(self.status, *(self.read(each) for each in (FEATURES, COUNT, MID, HIGH)))

    # -- packets ---------------------------------------------------------------------------------------------

    def send_packet(self, packet: bytes, limit: int = 0xFFFE, features: int = 0) -> None:
        """PACKET, up to the packet's last word."""
        for register, value in ((DEVICE, 0xA0), (FEATURES, features), (MID, limit & 0xFF), (HIGH, limit >> 8)):
            self.write(register, value)
        self.write(COMMAND, PACKET)
        packet = packet.ljust(12, b"\0")
        for at in range(0, 12, 2):
            self.write(DATA, int.from_bytes(packet[at : at + 2], "little"), 2)

    def packet(self, *packet: int, limit: int = 0xFFFE) -> tuple[bytes, list[int], Registers]:
        """A whole command by PIO: the data, the sizes of the pieces, and the registers at the end."""
        self.send_packet(bytes(packet), limit)
        data, pieces = b"", []
        while self.status & ST_DRQ and len(pieces) < self.max_pieces:
            assert not self.read(COMMAND) & ST_BSY  # which takes the interrupt back
            size = self.read(MID) | self.read(HIGH) << 8
            pieces.append(size)
            words = b"".join(self.read(DATA, 2).to_bytes(2, "little") for _ in range(-(-size // 2)))
            data += words[:size]
        return data, pieces, self.registers()

    def sense(self) -> tuple[int, int]:
        """Key and additional code of REQUEST SENSE."""
        data, _, _ = self.packet(0x03, 0, 0, 0, 18)
        return data[2] & 0xF, data[12]

    # -- bus master ------------------------------------------------------------------------------------------

    def dma_packet(self, *packet: int, regions: list[tuple[int, int]]) -> Registers:
        """A whole command by DMA into ``regions`` (address, length)."""
        memory = self.machine.ctx.memory
        table = b"".join(
            address.to_bytes(4, "little") + (length & 0xFFFF).to_bytes(4, "little") for address, length in regions
        )
        memory.write(0x1000, table[:-1] + b"\x80")
        bus_master = self.channel.dma
        with self.machine.lock:
            bus_master.write(4, 4, 0x1000)
            bus_master.write(2, 1, 6)
        self.send_packet(bytes(packet), features=1)
        with self.machine.lock:
            bus_master.write(0, 1, 9)
        self.loop.run()
        registers = self.registers()
        self.dma_status = bus_master.read(2, 1)
        with self.machine.lock:
            bus_master.write(0, 1, 0)
        return registers

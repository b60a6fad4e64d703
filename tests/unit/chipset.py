# SPDX-License-Identifier: Apache-2.0
"""A board of the four chipset functions on fakes, and PCI functions to plug into it."""

from __future__ import annotations

import random

from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.device import ResetKind
from vmmd.devices.acpi.pm import Piix4Pm
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.pci.device import PciDevice
from vmmd.devices.pci.i440fx import I440fx
from vmmd.devices.pci.piix3 import Piix3

CONFADD = 0xCF8
CONFDATA = 0xCFC


class Board:
    """00:00.0 i440FX, 00:01.0 PIIX3, 00:01.3 PIIX4 PM, reached through the ports."""

    def __init__(self) -> None:
        self.machine: FakeMachine = make_context()
        self.bus = PciBus()
        self.pam: list[tuple[int, bool, bool]] = []
        self.smram: list[bool] = []
        self.host = I440fx(props(I440fx), self.machine.ctx)
        self.host.pam_changed = lambda segment, read, write: self.pam.append((segment, read, write))
        self.host.smram_changed = self.smram.append
        self.isa = Piix3(props(Piix3), self.machine.ctx)
        self.pm = Piix4Pm(props(Piix4Pm), self.machine.ctx)
        for device in (self.host, self.isa, self.pm):
            self.plug(device)

    def plug(self, device: PciDevice) -> None:
        device.bus = self.bus
        device.plug()

    def select(self, slot: int, function: int, offset: int) -> None:
        self.machine.pio.write(CONFADD, 4, 0x8000_0000 | slot << 11 | function << 8 | offset)

    def read(self, slot: int, function: int, offset: int, size: int) -> int:
        self.select(slot, function, offset & ~3)
        return self.machine.pio.read(CONFDATA + (offset & 3), size)

    def write(self, slot: int, function: int, offset: int, size: int, value: int) -> None:
        self.select(slot, function, offset & ~3)
        self.machine.pio.write(CONFDATA + (offset & 3), size, value)

    def reset(self) -> None:
        self.bus.reset(ResetKind.COLD)


class Card(PciDevice):
    """A function that remembers its accesses and hooks."""

    type_name = "card"
    vendor_id = 0x1AF4
    device_id = 0x1001
    revision = 7
    class_code = 0x010000
    subsystem_id = 2

    class Props(PciDevice.Props):
        pass

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.accesses: list[tuple[object, ...]] = []
        self.mapped: list[tuple[int, int | None]] = []
        self.commands: list[tuple[int, int]] = []

    def realize(self) -> None:
        super().realize()
        self.use_intx()
        self.add_bar(0, 0x20, "io", self._reader("io"), self._writer("io"), name="card io")
        self.add_bar(1, 0x1000, "mem32", name="card msix")
        self.add_bar(4, 0x4000, "mem64", self._reader("mem"), self._writer("mem"), name="card mem", prefetch=True)

    def _reader(self, name):
        def read(offset: int, size: int) -> int:
            self.accesses.append((name, "r", offset, size))
            return 0x1234_5678 >> (8 * (offset & 3))

        return read

    def _writer(self, name):
        return lambda offset, size, value: self.accesses.append((name, "w", offset, size, value))

    def bar_mapped(self, index: int, address: int | None) -> None:
        self.mapped.append((index, address))

    def command_changed(self, old: int, new: int) -> None:
        self.commands.append((old, new))


def add_card(board: Board, cls: type[PciDevice] = Card, id_: str | None = None, **given: str):
    card = cls(props(cls, **given), board.machine.ctx, id_)
    board.plug(card)
    return card


def pound(space, ports: list[int], seed: int, count: int = 10_000) -> None:
    """``count`` random accesses of every width to ``ports`` and a little beyond; every read must fit its width."""
    rng = random.Random(seed)
    for size in (1, 2, 4):
        for _ in range(count):
            port = rng.choice(ports) + rng.randrange(4)
            if rng.random() < 0.5:
                assert 0 <= space.read(port, size) < 1 << (8 * size)
            else:
                space.write(port, size, rng.getrandbits(8 * size))

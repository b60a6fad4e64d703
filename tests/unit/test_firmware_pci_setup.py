# SPDX-License-Identifier: Apache-2.0
"""PCI resources without firmware, and the MP table, against what SeaBIOS 1.16.2 left under QEMU 7.2."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.unit.fakes import make_context, props
from vmmd.core.props import PciAddress
from vmmd.devices.acpi.pm import Piix4Pm
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.pci.device import PciDevice
from vmmd.devices.pci.i440fx import I440fx
from vmmd.devices.pci.piix3 import Piix3
from vmmd.errors import VmmdError
from vmmd.firmware import mptable, pci_setup
from vmmd.firmware.mptable import MpConfig, PciInterrupt

if TYPE_CHECKING:
    from vmmd.core.device import Device

LOW = 128 << 20
#: (index, size, kind, prefetch) of a transitional virtio-blk and a modern-only virtio device
VIRTIO_BLK = ((0, 0x80, "io", False), (1, 0x1000, "mem32", False), (4, 0x4000, "mem64", True))
MODERN_ONLY = ((4, 0x4000, "mem64", True),)
UHCI = ((4, 0x20, "io", False),)


class Board:
    """A bus with the chip set on it, to which functions are added."""

    def __init__(self) -> None:
        self.machine = make_context()
        self.bus = PciBus()
        self.pam: dict[int, tuple[bool, bool]] = {}
        bridge = I440fx(props(I440fx), self.machine.ctx)
        bridge.pam_changed = lambda segment, read, write: self.pam.__setitem__(segment, (read, write))
        self.plug(bridge)
        self.piix3 = Piix3(props(Piix3), self.machine.ctx)
        self.plug(self.piix3)
        self.pm = Piix4Pm(props(Piix4Pm), self.machine.ctx)
        self.plug(self.pm)

    def plug(self, device: Device) -> None:
        device.bus = self.bus  # type: ignore[attr-defined]  # the machine does this
        device.plug()

    def add(self, slot: int, function: int, bars: tuple[tuple[int, int, str, bool], ...], pin: int = 0) -> PciDevice:
        class Made(PciDevice):
            type_name = "made-up"

            def realize(self) -> None:
                super().realize()
                self.use_intx(pin)
                for index, size_bytes, kind, prefetch in bars:
                    self.add_bar(index, size_bytes, kind, name=f"bar{index}", prefetch=prefetch)

        device = Made(props(Made), self.machine.ctx)
        device.props.values["addr"] = PciAddress(slot, function)
        self.plug(device)
        return device

    def assign(self, low: int = LOW, end: int = LOW) -> pci_setup.PciSetup:
        return pci_setup.assign(self.bus.devices, low, end)


def addresses(device: PciDevice) -> dict[int, int | None]:
    return {index: bar.address for index, bar in device.bars.items()}


def test_bars_of_qemu_example() -> None:
    """virtio-blk in slot 3, a modern virtio device in slot 4, UHCI in 1.2: as ``info pci`` showed them."""
    board = Board()
    blk, modern, uhci = board.add(3, 0, VIRTIO_BLK), board.add(4, 0, MODERN_ONLY), board.add(1, 2, UHCI, pin=3)
    setup = board.assign()
    assert addresses(blk) == {0: 0xC000, 1: 0xFEBF_F000, 4: 0xFEBF_4000}
    assert addresses(modern) == {4: 0xFEBF_8000}
    assert addresses(uhci) == {4: 0xC080}
    lines = [device.config_read(0x3C, 1) for device in (blk, modern, uhci, board.pm)]
    assert lines == [11, 11, 11, 9]
    assert set(setup.interrupts) == {
        PciInterrupt(1, 0, 9), PciInterrupt(1, 3, 11), PciInterrupt(3, 0, 11), PciInterrupt(4, 0, 11),
    }  # fmt: skip
    assert setup.elcr == 0x0C00


def test_chip_set_registers_equal_qemu() -> None:
    board = Board()
    board.assign()
    read = board.bus.config_read
    assert [read(0, 0, 0, offset, 4) for offset in (0x58, 0x5C)] == [0x11111000, 0x33111111]
    assert read(0, 1, 0, 0x60, 4) == 0x0B0B0A0A
    assert [board.piix3.route_of(pirq) for pirq in range(4)] == [10, 10, 11, 11]
    assert (read(0, 1, 3, 0x40, 4), read(0, 1, 3, 0x80, 1), read(0, 1, 3, 0x90, 4)) == (0x601, 1, 0x701)
    assert read(0, 1, 3, 0xD2, 1) == 0x09
    assert board.pm.pm_base == 0x600
    assert [read(0, slot, function, 4, 2) & 0x107 for slot, function in ((0, 0), (1, 0), (1, 3))] == [0x103] * 3


def test_pam_shows_ram_for_reads_everywhere() -> None:
    board = Board()
    board.assign()
    assert all(read for read, _ in board.pam.values())
    assert len(board.pam) == 13
    assert sorted(segment for segment, (_, write) in board.pam.items() if write) == [11, 12]  # e8000-effff


def test_bars_move_above_4_gib_when_the_window_is_full() -> None:
    board = Board()
    small, big = board.add(3, 0, VIRTIO_BLK), board.add(4, 0, ((2, 1 << 30, "mem64", True),))
    board.assign(low=0xC000_0000, end=6 << 30)
    assert addresses(big) == {2: 6 << 30}
    assert addresses(small)[1] == 0xFEBF_F000
    assert (addresses(small)[4] or 0) >= 7 << 30


def test_too_many_ports_are_refused() -> None:
    board = Board()
    for slot in range(3, 8):
        board.add(slot, 0, ((0, 0x1000, "io", False),))
    with pytest.raises(VmmdError, match="I/O BARs"):
        board.assign()


def test_32_bit_bars_that_do_not_fit_are_refused() -> None:
    board = Board()
    board.add(3, 0, ((0, 1 << 31, "mem32", False),))
    with pytest.raises(VmmdError, match="32-bit BARs"):
        board.assign()


def test_windows_equal_qemu() -> None:
    assert pci_setup.window_32(LOW) == (0x800_0000, 0xFEBF_FFFF)
    assert pci_setup.window_64(LOW) == (0x1_0000_0000, 0x1_7FFF_FFFF)
    assert pci_setup.window_64(7 << 30) == (0x1_C000_0000, 0x2_3FFF_FFFF)


def test_mp_table_equals_seabios() -> None:
    interrupts = [PciInterrupt(1, 3, 11), PciInterrupt(1, 0, 9), PciInterrupt(3, 0, 11), PciInterrupt(4, 0, 11)]
    made = mptable.build(MpConfig([0], 0x60FB1, 0x178B_FBFD, interrupts), 0xF_5B90)
    expected = (
        "5f4d505fa05b0f000104960000000000"
        "50434d50e00004eb424f434853435055302e3120202020202020202000000000000015000000e0fe00000000"
        "00001403b10f0600fdfb8b170000000000000000" "0100504349202020" "0101495341202020" "020011010000c0fe"
        "030001000007000b" "0300010000040009" "03000100000c000b" "030001000010000b"
        "0300000001000002" "0300000001010001" "0300000001030003" "0300000001040004" "0300000001060006"
        "0300000001070007" "0300000001080008" "03000000010c000c" "03000000010d000d" "03000000010e000e"
        "03000000010f000f" "0403000001000000" "040100000100ff01"
    )  # fmt: skip
    assert made.hex() == expected


def _entries(table: bytes) -> list[str]:
    entries, offset = [], 16 + 44
    while offset < len(table):
        length = 20 if table[offset] == 0 else 8
        entries.append(table[offset : offset + length].hex())
        offset += length
    return entries


def test_mp_table_checksums_length_and_count() -> None:
    made = mptable.build(MpConfig([0, 1, 300], pci_interrupts=[PciInterrupt(2, 0, 10)] * 2), 0xF_0000)
    pointer, table = made[:16], made[16:]
    assert (sum(pointer) & 0xFF, sum(table) & 0xFF) == (0, 0)
    assert struct.unpack_from("<I", pointer, 4) == (0xF_0010,)
    assert struct.unpack_from("<H", table, 4) == (len(table),)
    entries = _entries(made)
    assert struct.unpack_from("<H", table, 34) == (len(entries),)
    assert [entry[:8] for entry in entries if entry.startswith("00")] == [
        "00001403",
        "00011401",
    ]  # id 300 cannot be told
    assert entries.count("030001000008000a") == 1

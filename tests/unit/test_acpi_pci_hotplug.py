# SPDX-License-Identifier: Apache-2.0
"""The register block of ACPI PCI hot plug, by itself: what a guest reads, and what the machine is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vmmd.devices.acpi.pci_hotplug import BUS_NUMBERS, GuestSide, PciHotplug, Reg
from vmmd.devices.pci.bus import PciBus

SLOT = 4
NOTHING = 0


class Function:
    """As much of a PCI function as the block looks at."""

    def __init__(self, bus: PciBus, slot: int, number: int = 0, *, stays: bool = False, index: int = 0) -> None:
        self.slot = slot
        self.hotpluggable = not stays
        self.vanished = self.ended = False
        self.props = SimpleNamespace(acpi_index=index)
        bus.devices[slot, number] = self  # type: ignore[assignment]  # a stand-in

    def vanish(self) -> None:
        self.vanished = True

    def end_dma(self) -> None:
        assert self.vanished
        self.ended = True


class Block:
    def __init__(self, *, one_bus: bool = False) -> None:
        self.events = 0
        self.told: list[tuple[str, Any]] = []
        self.bus = PciBus()
        self.hotplug = PciHotplug(self._event, one_bus=one_bus)
        self.hotplug.bus = self.bus
        self.hotplug.guest = GuestSide(
            lambda slots: self.told.append(("seen", slots)),
            lambda devices: self.told.append(("let go", devices)),
            lambda slot: self.told.append(("refused", slot)),
        )

    def _event(self) -> None:
        self.events += 1

    def read(self, register: int) -> int:
        return self.hotplug.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.hotplug.write(register, 4, value)


def test_what_is_new_is_told_once_and_asked_for_until_it_is_let_go() -> None:
    block = Block()
    function = Function(block.bus, SLOT)
    block.hotplug.announce(SLOT)
    assert (block.events, block.read(Reg.PLUGGED), block.read(Reg.PLUGGED)) == (1, 1 << SLOT, NOTHING)
    block.hotplug.request(SLOT)
    assert block.events == 2
    assert [block.read(Reg.REQUESTED) for _ in range(3)] == [1 << SLOT] * 3
    assert block.told == [("seen", 1 << SLOT)]  # once: a guest may poll
    block.write(Reg.EJECT, 1 << SLOT)
    assert block.told[1:] == [("let go", [function])]
    assert function.vanished
    assert function.ended
    assert block.read(Reg.REQUESTED) == NOTHING
    block.write(Reg.EJECT, 1 << SLOT)
    assert len(block.told) == 2  # it went the first time


def test_the_newest_function_of_a_slot_goes_first_and_parts_of_the_board_stay() -> None:
    block = Block()
    functions = [Function(block.bus, SLOT, number) for number in (1, 2, 0)]
    board = Function(block.bus, 1, stays=True)
    Function(block.bus, 0, stays=True)
    assert block.read(Reg.REMOVABLE) == 0xFFFF_FFFC
    block.write(Reg.EJECT, 1 << SLOT | 1 << 1)  # the lowest counts
    assert block.told == []
    assert not board.vanished
    block.write(Reg.EJECT, 1 << SLOT)
    assert block.told == [("let go", functions[::-1])]


def test_what_is_let_go_before_the_guest_has_read_of_it_is_not_new_any_more() -> None:
    block = Block()
    Function(block.bus, SLOT)
    block.hotplug.announce(SLOT)
    block.write(Reg.EJECT, 1 << SLOT)
    assert block.read(Reg.PLUGGED) == NOTHING


@pytest.mark.parametrize("size", [1, 2])
def test_only_accesses_of_32_bits_count(size: int) -> None:
    block = Block()
    Function(block.bus, SLOT)
    block.hotplug.announce(SLOT)
    assert block.hotplug.read(Reg.PLUGGED, size) == 0
    block.hotplug.write(Reg.EJECT, size, 1 << SLOT)
    assert block.told == []
    assert block.read(Reg.PLUGGED) == 1 << SLOT


def test_other_buses_have_nothing_and_there_are_so_many() -> None:
    block = Block()
    Function(block.bus, SLOT)
    block.hotplug.announce(SLOT)
    block.write(Reg.BUS, BUS_NUMBERS - 1)
    assert (block.read(Reg.PLUGGED), block.read(Reg.REMOVABLE), block.read(Reg.BUS)) == (0, 0xFFFF_FFFF, 255)
    block.write(Reg.EJECT, 1 << SLOT)
    block.write(Reg.BUS, BUS_NUMBERS)
    assert {block.read(register) for register in Reg} == {0}
    block.write(Reg.BUS, 0)
    assert (block.told, block.read(Reg.PLUGGED)) == ([], 1 << SLOT)


def test_without_bridge_support_the_bus_is_fixed_and_what_is_new_stays() -> None:
    block = Block(one_bus=True)
    block.hotplug.announce(SLOT)
    block.write(Reg.BUS, 7)
    assert (block.read(Reg.BUS), block.read(Reg.PLUGGED), block.read(Reg.PLUGGED)) == (0, 1 << SLOT, 1 << SLOT)


def test_a_reset_forgets_requests_and_nothing_else() -> None:
    block = Block()
    block.hotplug.announce(SLOT)
    block.hotplug.request(SLOT)
    block.write(Reg.BUS, 1)
    block.hotplug.reset()
    assert block.read(Reg.BUS) == 1
    block.write(Reg.BUS, 0)
    assert (block.read(Reg.REQUESTED), block.read(Reg.PLUGGED)) == (NOTHING, 1 << SLOT)


def test_an_acpi_index_is_read_once_after_its_slot_was_written() -> None:
    block = Block()
    Function(block.bus, SLOT, index=77)
    Function(block.bus, SLOT + 1, index=88)
    assert block.read(Reg.ACPI_INDEX) == 0
    for slots, found in ((1 << SLOT, 77), (3 << SLOT, 77), (2 << SLOT, 88), (1 << 9, 0), (0, 0)):
        block.write(Reg.ACPI_INDEX, slots)
        assert (block.read(Reg.ACPI_INDEX), block.read(Reg.ACPI_INDEX)) == (found, 0)


def test_a_refusal_is_told_once_and_only_of_what_was_asked_for() -> None:
    block = Block()
    Function(block.bus, SLOT)
    success, in_progress, busy = 0x00, 0x84, 0x82
    block.write(Reg.REMOVABLE, busy << 8 | SLOT)
    block.hotplug.request(SLOT)
    for status in (success, in_progress):
        block.write(Reg.REMOVABLE, status << 8 | SLOT)
    assert block.told == []
    for _ in range(3):
        block.write(Reg.REMOVABLE, busy << 8 | SLOT)
    assert block.told == [("refused", SLOT)]
    assert block.read(Reg.REQUESTED) == NOTHING
    assert block.read(Reg.REMOVABLE) == 0xFFFF_FFFF


def test_a_bus_that_is_not_hot_pluggable_answers_and_does_nothing() -> None:
    block = Block()
    Function(block.bus, SLOT)
    block.hotplug.bus = None
    for register in Reg:
        block.write(register, 1 << SLOT)
    block.write(Reg.BUS, 0)
    assert block.told == []
    assert block.read(Reg.REMOVABLE) == 0xFFFF_FFFF

# SPDX-License-Identifier: Apache-2.0
"""MSI-X: masks, pending bits, delivery."""

from __future__ import annotations

import threading

import pytest

from tests.unit.chipset import Board, Card, add_card
from vmmd.core.device import ResetKind
from vmmd.devices.pci.msix import Msix

BASE = 0xE0000000
TABLE, PBA = 0, 0x800
ENABLE, FUNCTION_MASK = 0x8000, 0x4000
APIC = 0xFEE01000


class MsixCard(Card):
    type_name = "msix-card"

    class Props(Card.Props):
        pass

    def realize(self) -> None:
        super().realize()
        self.msix = Msix(self, 1, 3, TABLE, PBA)


class Rig:
    def __init__(self) -> None:
        self.board = Board()
        self.card = add_card(self.board, MsixCard)
        self.messages = self.board.machine.interrupts.messages
        self.board.write(2, 0, 0x14, 4, BASE)
        self.board.write(2, 0, 4, 2, 6)  # memory, bus master

    def control(self, value: int) -> None:
        self.board.write(2, 0, self.card.msix.capability + 2, 2, value)

    def program(self, vector: int, address: int, data: int, masked: int = 0) -> None:
        mmio = self.board.machine.mmio
        mmio.write(BASE + 16 * vector, 4, address & 0xFFFFFFFF)
        mmio.write(BASE + 16 * vector + 4, 4, address >> 32)
        mmio.write(BASE + 16 * vector + 8, 4, data)
        mmio.write(BASE + 16 * vector + 12, 4, masked)

    def mask(self, vector: int, masked: int) -> None:
        self.board.machine.mmio.write(BASE + 16 * vector + 12, 4, masked)

    def pba(self) -> int:
        return self.board.machine.mmio.read(BASE + PBA, 8)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_capability_describes_table_and_pba(rig: Rig) -> None:
    offset = rig.card.msix.capability
    assert rig.board.read(2, 0, offset, 1) == 0x11
    assert rig.board.read(2, 0, offset + 2, 2) == 2  # N - 1
    assert rig.board.read(2, 0, offset + 4, 4) == TABLE | 1
    assert rig.board.read(2, 0, offset + 8, 4) == PBA | 1
    rig.control(0xFFFF)
    assert rig.board.read(2, 0, offset + 2, 2) == 0xC002


def test_off_delivers_and_remembers_nothing(rig: Rig) -> None:
    rig.program(0, APIC, 0x41)
    rig.card.msix.notify(0)
    rig.control(ENABLE)
    assert rig.messages == []


def test_unmasked_vector_is_delivered(rig: Rig) -> None:
    rig.control(ENABLE)
    rig.program(1, APIC, 0x4041)
    rig.card.msix.notify(1)
    assert rig.messages == [(APIC, 0x4041)]
    assert rig.pba() == 0


def test_vectors_start_masked_and_pend(rig: Rig) -> None:
    rig.control(ENABLE)
    rig.card.msix.notify(2)
    rig.card.msix.notify(2)
    assert rig.pba() == 4
    rig.program(2, APIC, 0x42)
    assert rig.messages == [(APIC, 0x42)]  # once
    assert rig.pba() == 0


def test_function_mask_holds_back_everything(rig: Rig) -> None:
    rig.program(0, APIC, 0x40)
    rig.control(ENABLE | FUNCTION_MASK)
    rig.card.msix.notify(0)
    rig.program(0, APIC, 0x50)
    assert (rig.messages, rig.pba()) == ([], 1)
    rig.control(ENABLE)
    assert (rig.messages, rig.pba()) == ([(APIC, 0x50)], 0)


def test_table_write_while_enabled_takes_effect(rig: Rig) -> None:
    rig.control(ENABLE)
    rig.program(0, APIC, 0x40)
    rig.board.machine.mmio.write(BASE + 8, 1, 0x77)
    rig.card.msix.notify(0)
    rig.mask(0, 0xFFFFFFFF)
    assert rig.board.machine.mmio.read(BASE + 12, 4) == 1  # reserved bits stay zero
    rig.card.msix.notify(0)
    assert rig.messages == [(APIC, 0x77)]


def test_message_elsewhere_is_a_memory_write(rig: Rig) -> None:
    rig.control(ENABLE)
    rig.program(0, 0x8000, 0xAABBCCDD)
    rig.program(1, 0x1_0000_0000, 1)  # no RAM there: lost, nothing raised
    rig.card.msix.notify(0)
    rig.card.msix.notify(1)
    assert rig.board.machine.memory.u32(0x8000) == 0xAABBCCDD
    assert rig.messages == []


def test_without_bus_mastering_nothing_leaves(rig: Rig) -> None:
    rig.control(ENABLE)
    rig.program(0, APIC, 1)
    rig.board.write(2, 0, 4, 2, 2)
    rig.card.msix.notify(0)
    assert rig.messages == []


def test_pba_is_read_only_and_vectors_are_bounded(rig: Rig) -> None:
    rig.control(ENABLE)
    rig.board.machine.mmio.write(BASE + PBA, 8, 0xFF)
    assert rig.pba() == 0
    rig.card.msix.notify(3)
    rig.card.msix.notify(0xFFFF)
    rig.card.msix.notify(-1)
    assert rig.pba() == 0


def test_reset_turns_off_and_masks(rig: Rig) -> None:
    rig.control(ENABLE)
    rig.program(0, APIC, 1)
    rig.card.msix.notify(1)
    rig.card.reset(ResetKind.COLD)
    assert not rig.card.msix.enabled
    rig.board.write(2, 0, 0x14, 4, BASE)
    rig.board.write(2, 0, 4, 2, 6)
    assert rig.pba() == 0
    assert rig.board.machine.mmio.read(BASE + 12, 4) == 1
    rig.card.msix.notify(0)
    assert rig.messages == []


def test_notify_during_masking_is_never_lost(rig: Rig) -> None:
    """A thread notifies while another masks and unmasks: at the end every burst has led to a message."""
    rig.control(ENABLE)
    rig.program(0, APIC, 9)
    for _ in range(200):
        rig.messages.clear()
        thread = threading.Thread(target=rig.card.msix.notify, args=(0,))
        rig.mask(0, 1)
        thread.start()
        rig.mask(0, 0)
        thread.join()
        assert rig.messages == [(APIC, 9)]

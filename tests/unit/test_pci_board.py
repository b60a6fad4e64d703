# SPDX-License-Identifier: Apache-2.0
"""The host bridge, the ISA bridge and the configuration ports."""

from __future__ import annotations

import pytest

from tests.unit.chipset import Board, add_card, pound
from vmmd.core.device import ShutdownCause
from vmmd.devices.pci.i440fx import pam_range


@pytest.fixture
def board() -> Board:
    return Board()


def test_ids_of_the_board_functions(board: Board) -> None:
    def ids(slot: int, function: int) -> tuple[int, ...]:
        return tuple(board.read(slot, function, offset, 4) for offset in (0x00, 0x08, 0x2C))

    assert ids(0, 0) == (0x12378086, 0x06000002, 0x11001AF4)
    assert ids(1, 0) == (0x70008086, 0x06010000, 0x11001AF4)
    assert ids(1, 3) == (0x71138086, 0x06800003, 0x11001AF4)
    assert board.read(1, 0, 0x0E, 1) == 0x80


@pytest.mark.parametrize("size", [1, 2, 4])
def test_config_reads_agree_in_every_width(board: Board, size: int) -> None:
    image = [board.read(1, 3, offset, 1) for offset in range(256)]
    for offset in range(0, 256, size):
        assert board.read(1, 3, offset, size) == int.from_bytes(bytes(image[offset : offset + size]), "little")


def test_pam_registers_report_changed_segments(board: Board) -> None:
    board.write(0, 0, 0x59, 1, 0x30)  # F0000: reads and writes to DRAM
    board.write(0, 0, 0x5A, 1, 0x21)  # C0000 read, C4000 write
    board.write(0, 0, 0x5F, 1, 0x10)  # EC000 read
    board.write(0, 0, 0x5F, 1, 0x10)  # no change, no call
    assert board.pam == [(0, True, True), (1, True, False), (2, False, True), (12, True, False)]
    assert [pam_range(segment) for segment in (0, 1, 2, 12)] == [
        (0xF0000, 0x10000),
        (0xC0000, 0x4000),
        (0xC4000, 0x4000),
        (0xEC000, 0x4000),
    ]


def test_pam_as_one_double_word_and_back_by_reset(board: Board) -> None:
    board.write(0, 0, 0x58, 4, 0x3333_3000 | 0x00)
    assert [segment for segment, _, _ in board.pam] == [0, 1, 2, 3, 4]
    board.pam.clear()
    board.reset()
    assert board.pam == [(segment, False, False) for segment in range(5)]


def test_smram_open_lock_and_reset(board: Board) -> None:
    board.write(0, 0, 0x72, 1, 0x42)  # D_OPEN without G_SMRAME
    assert board.smram == []
    board.write(0, 0, 0x72, 1, 0x4A)
    assert board.smram == [True]
    board.write(0, 0, 0x72, 1, 0x0A)
    assert board.smram == [True, False]
    board.write(0, 0, 0x72, 1, 0x5A)  # open and lock at once: lock wins
    board.write(0, 0, 0x72, 1, 0x40)
    assert board.smram == [True, False]
    assert board.read(0, 0, 0x72, 1) == 0x1A
    board.reset()
    assert board.read(0, 0, 0x72, 1) == 0x02
    board.write(0, 0, 0x72, 1, 0x48)
    assert board.smram == [True, False, True]
    assert board.read(0, 0, 0x72, 1) == 0x4A  # C_BASE_SEG cannot be written


def test_pirq_route_moves_with_the_level(board: Board) -> None:
    card = add_card(board)  # slot 2 pin A: PIRQB
    card.intx.raise_()
    assert board.machine.interrupts.edges == []
    board.write(1, 0, 0x61, 1, 10)
    board.write(1, 0, 0x61, 1, 11)
    assert board.machine.interrupts.edges == [(10, 1), (10, 0), (11, 1)]
    board.write(1, 0, 0x60, 4, 0x80808080)
    assert board.machine.interrupts.edges[-1] == (11, 0)
    assert board.isa.route_of(1) is None


@pytest.mark.parametrize("irq", [0, 1, 2, 8, 13])
def test_reserved_interrupts_are_not_connected(board: Board, irq: int) -> None:
    card = add_card(board)
    board.write(1, 0, 0x61, 1, irq)
    card.intx.raise_()
    assert board.machine.interrupts.edges == []


def test_two_pirqs_on_one_interrupt_are_ored(board: Board) -> None:
    first, second = add_card(board, addr="2"), add_card(board, addr="3")
    board.write(1, 0, 0x60, 4, 0x0B0B0B0B)
    first.intx.raise_()
    second.intx.raise_()
    first.intx.lower()
    assert board.machine.interrupts.edges == [(11, 1)]
    second.intx.lower()
    assert board.machine.interrupts.edges == [(11, 1), (11, 0)]


def test_reset_control_port(board: Board) -> None:
    pio = board.machine.pio
    pio.write(0xCF9, 1, 0x02)
    assert pio.read(0xCF9, 1) == 0x02
    assert board.machine.requests.asked == []
    pio.write(0xCF9, 1, 0x06)
    assert board.machine.requests.asked == [("reset", ShutdownCause.GUEST_RESET)]
    board.reset()
    assert pio.read(0xCF9, 1) == 0


def test_reset_port_does_not_disturb_the_address_register(board: Board) -> None:
    board.host.unrealize()
    board.plug(board.host)  # whichever of the two came last
    board.machine.pio.write(0xCF8, 4, 0x80000800)
    board.machine.pio.write(0xCF9, 1, 0x02)
    assert board.machine.pio.read(0xCF9, 1) == 0x02
    assert board.machine.pio.read(0xCF8, 4) == 0x80000800
    assert board.machine.pio.read(0xCFC, 4) == 0x70008086


def test_random_config_accesses_never_raise() -> None:
    for seed, (slot, function) in enumerate([(0, 0), (1, 0), (1, 3), (2, 0)]):
        board = Board()
        add_card(board)
        for register in range(0, 256, 4):
            board.select(slot, function, register)
            pound(board.machine.pio, [0xCFC], seed * 64 + register, count=40)  # 64 x 40 x 3 widths
        board.reset()


def test_random_addresses_never_raise() -> None:
    board = Board()
    add_card(board)
    pound(board.machine.pio, [0xCF8, 0xCFC], 1)

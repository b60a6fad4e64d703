# SPDX-License-Identifier: Apache-2.0
"""The DMA controllers of a PC: registers, transfers, and what a guest may program that no device should do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.device_rig import isa_dma
from tests.unit.fakes import FakeMachine, make_context
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.devices.isa.i8257 import DmaChannel

RAM_BYTES = 1 << 20
MODE_TO_MEMORY, MODE_FROM_MEMORY, MODE_VERIFY, DECREMENT = 0x44, 0x48, 0x40, 0x20


@pytest.fixture
def machine() -> FakeMachine:
    return make_context(RAM_BYTES)


@pytest.fixture
def channel(machine: FakeMachine) -> DmaChannel:
    return isa_dma(machine).channel(2)


def program(machine: FakeMachine, address: int, count: int, mode: int = MODE_TO_MEMORY) -> None:
    out = machine.pio.write
    out(0x0C, 1, 0)
    for port, value in ((4, address), (4, address >> 8), (0x81, address >> 16), (5, count - 1), (5, count - 1 >> 8)):
        out(port, 1, value & 0xFF)
    out(0x0B, 1, mode | 2)
    out(0x0A, 1, 2)


def current(machine: FakeMachine) -> tuple[int, int, int]:
    machine.pio.write(0x0C, 1, 0)
    read = machine.pio.read
    return read(4, 2), read(5, 1) | read(5, 1) << 8, read(8, 1)


def test_device_to_memory_up_to_the_terminal_count(machine: FakeMachine, channel: DmaChannel) -> None:
    program(machine, 0x1_2345, 5)
    channel.begin()
    assert machine.pio.read(8, 1) == 0x40  # the request
    assert channel.store(b"abc") == 3
    assert channel.remaining_bytes == 2
    assert channel.store(b"defg") == 2
    assert channel.store(b"x") == 0
    assert bytes(machine.ram[0x1_2344:0x1_234B]) == b"\0abcde\0"
    channel.request(False)
    machine.pio.write(0x0C, 1, 0)
    assert [machine.pio.read(port, 1) for port in (4, 4, 5, 5)] == [0x4A, 0x23, 0xFF, 0xFF]
    assert [machine.pio.read(8, 1) for _ in range(2)] == [0x04, 0]  # reading clears it


def test_memory_to_device_and_backwards(machine: FakeMachine, channel: DmaChannel) -> None:
    machine.ram[0x100:0x108] = b"01234567"
    program(machine, 0x100, 8, MODE_FROM_MEMORY)
    channel.begin()
    assert channel.fetch(3) == b"012"
    assert channel.fetch(99) == b"34567"
    assert channel.fetch(99) == b""
    program(machine, 0x107, 4, MODE_FROM_MEMORY | DECREMENT)
    channel.begin()
    assert channel.fetch(4) == b"7654"
    program(machine, 0x203, 4, MODE_TO_MEMORY | DECREMENT)
    channel.begin()
    channel.store(b"abcd")
    assert bytes(machine.ram[0x200:0x204]) == b"dcba"


def test_verifying_moves_nothing_but_counts(machine: FakeMachine, channel: DmaChannel) -> None:
    program(machine, 0x100, 4, MODE_VERIFY)
    channel.begin()
    assert channel.store(b"abcd") == 4
    assert not any(machine.ram)
    assert channel.remaining_bytes == 0


@pytest.mark.parametrize("address", [RAM_BYTES - 2, 0xFF_FFFE, RAM_BYTES])
def test_what_is_not_ram_takes_nothing_and_gives_ones(machine: FakeMachine, channel: DmaChannel, address: int) -> None:
    program(machine, address, 8)
    channel.begin()
    assert channel.store(b"abcdefgh") == 8
    program(machine, address, 8, MODE_FROM_MEMORY)
    channel.begin()
    inside = max(0, RAM_BYTES - address)
    assert channel.fetch(8) == b"abcdefgh"[:inside] + b"\xff" * (8 - inside)


def test_below_address_0_nothing_happens(machine: FakeMachine, channel: DmaChannel) -> None:
    program(machine, 1, 16, MODE_TO_MEMORY | DECREMENT)
    channel.begin()
    assert channel.store(bytes(range(1, 17))) == 16
    assert channel.remaining_bytes == 0


def test_masks_hold_a_channel_and_unmasking_is_told(machine: FakeMachine, channel: DmaChannel) -> None:
    told = []
    undo = channel.on_ready(lambda: told.append(1))
    assert not channel.ready  # masked after a reset
    for port, value, ready in (
        (0x0A, 2, True), (0x0A, 6, False), (0x0E, 0, True), (0x0F, 0x0F, False), (0x0F, 0x0B, True),
        (0x08, 0x04, False), (0x08, 0, True), (0x0D, 0, False),
    ):  # fmt: skip
        machine.pio.write(port, 1, value)
        assert channel.ready is ready, (port, value)
    assert len(told) == 4
    undo()
    machine.pio.write(0x0E, 1, 0)
    assert len(told) == 4


def test_words_on_the_second_controller(machine: FakeMachine) -> None:
    channel = isa_dma(machine).channel(5)
    out = machine.pio.write
    out(0xD8, 1, 0)
    for port, value in ((0xC4, 0x34), (0xC4, 0x12), (0xC6, 1), (0xC6, 0), (0x8B, 0x03)):
        out(port, 1, value)
    out(0xD6, 1, MODE_TO_MEMORY | 1)
    channel.begin()
    assert channel.store(b"abcde") == 4  # two words; the page's lowest bit is not an address bit
    assert bytes(machine.ram[0x2_2468:0x2_246D]) == b"abcd\0"


def test_the_flip_flop_and_page_registers(machine: FakeMachine, channel: DmaChannel) -> None:
    machine.pio.write(4, 1, 0x11)
    machine.pio.write(4, 1, 0x22)
    assert [machine.pio.read(4, 1) for _ in range(4)] == [0x11, 0x22, 0x11, 0x22]
    machine.pio.read(4, 1)
    machine.pio.write(0x0C, 1, 0)
    assert machine.pio.read(4, 1) == 0x11
    for port in (0x81, 0x82, 0x83, 0x87, 0x89, 0x8A, 0x8B, 0x8F):
        machine.pio.write(port, 1, port ^ 0xFF)
        assert machine.pio.read(port, 1) == port ^ 0xFF


def test_channels_that_are_none(machine: FakeMachine) -> None:
    dma = isa_dma(machine)
    for number in (4, 8, 99):
        with pytest.raises(UsageError, match=f"there is no DMA channel {number}"):
            dma.channel(number)

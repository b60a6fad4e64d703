# SPDX-License-Identifier: Apache-2.0
"""Configuration space, BARs, INTx, capabilities and the bus."""

from __future__ import annotations

import pytest

from tests.unit.chipset import Board, Card, add_card
from tests.unit.fakes import ROM_IMAGE, props
from vmmd.core.address_space import IoRange
from vmmd.core.device import ResetKind
from vmmd.core.memory import GuestAddressError
from vmmd.devices.pci.bar import BarRegion
from vmmd.devices.pci.config_space import ConfigSpace
from vmmd.devices.pci.option_rom import adopt
from vmmd.errors import UsageError

IO, MEMORY, MASTER, INTX_OFF = 1, 2, 4, 0x400


@pytest.fixture
def board() -> Board:
    return Board()


def test_config_write_respects_write_and_w1c_masks() -> None:
    config = ConfigSpace()
    config.define(0x40, 4, 0xAABBCCDD, write_mask=0x00FF00F0)
    config.set_w1c_mask(0x43, 1, 0x0A)
    config.write(0x40, 4, 0xFF11FF22)
    assert config.get(0x40, 4) == 0xA011CC2D  # AA with 0A cleared; BB -> 11; CC kept; DD -> 2D


def test_config_access_over_the_end_reads_zeroes_and_drops() -> None:
    config = ConfigSpace()
    config.set_write_mask(0xFE, 2, 0xFFFF)
    config.write(0xFE, 4, 0x11223344)
    assert config.read(0xFE, 4) == 0x3344


def test_absent_function_and_other_buses_read_ones(board: Board) -> None:
    assert board.read(9, 0, 0, 4) == 0xFFFFFFFF
    assert board.read(9, 0, 2, 1) == 0xFF
    board.machine.pio.write(0xCF8, 4, 0x80010000)
    assert board.machine.pio.read(0xCFC, 4) == 0xFFFFFFFF
    board.machine.pio.write(0xCF8, 4, 0)  # mechanism off
    assert board.machine.pio.read(0xCFC, 4) == 0xFFFFFFFF


def test_address_low_bits_count_as_libqos_uses_them(board: Board) -> None:
    board.machine.pio.write(0xCF8, 4, 0x80000002)
    assert board.machine.pio.read(0xCFC, 2) == 0x1237
    board.machine.pio.write(0xCF8, 2, 0xFFFF)  # only double words reach the address register
    assert board.machine.pio.read(0xCF8, 4) == 0x80000002


def test_bar_sizing_tells_size_and_kind(board: Board) -> None:
    add_card(board)
    for offset in (0x10, 0x14, 0x18, 0x20, 0x24):
        board.write(2, 0, offset, 4, 0xFFFFFFFF)
    assert [board.read(2, 0, offset, 4) for offset in (0x10, 0x14, 0x18, 0x20, 0x24)] == [
        0xFFFFFFE1,
        0xFFFFF000,
        0,
        0xFFFFC00C,
        0xFFFFFFFF,
    ]


def test_bar_decodes_only_while_enabled_and_moves(board: Board) -> None:
    card = add_card(board)
    pio = board.machine.pio
    board.write(2, 0, 0x10, 4, 0xC001)
    assert pio.read(0xC004, 4) == 0xFFFFFFFF
    board.write(2, 0, 4, 2, IO)
    assert pio.read(0xC004, 4) == 0x12345678
    pio.write(0xC01F, 1, 0x5A)
    board.write(2, 0, 0x11, 1, 0xD0)  # byte-wise move to 0xD000
    assert pio.read(0xC004, 4) == 0xFFFFFFFF
    assert pio.read(0xD004, 1) == 0x78
    board.write(2, 0, 4, 2, 0)
    assert pio.read(0xD004, 1) == 0xFF
    assert card.accesses == [("io", "r", 4, 4), ("io", "w", 0x1F, 1, 0x5A), ("io", "r", 4, 1)]
    assert card.mapped == [(0, 0xC000), (0, 0xD000), (0, None)]


def test_bar_move_is_one_publication(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    card = add_card(board)
    card.add_bar_region(4, BarRegion(0x100, 0x10, lambda offset, size: 0x77, lambda *_: None, "page", 4))
    board.write(2, 0, 0x14, 4, 0xE0000000)
    board.write(2, 0, 0x20, 4, 0xE0004000)
    published: list[int] = []
    publish = board.machine.mmio._publish
    monkeypatch.setattr(board.machine.mmio, "_publish", lambda ranges: (published.append(1), publish(ranges)))
    board.write(2, 0, 4, 2, MEMORY)
    assert published == [1]  # three ranges of two BARs
    assert board.machine.mmio.read(0xE0004104, 4) == 0x77
    assert board.machine.mmio.read(0xE0004110, 4) == 0x12345678
    assert board.machine.mmio.read(0xE0000010, 4) == 0  # a BAR without handlers


def test_bar64_above_4g(board: Board) -> None:
    add_card(board)
    board.write(2, 0, 4, 2, MEMORY)
    board.write(2, 0, 0x20, 4, 0x0000C000)
    board.write(2, 0, 0x24, 4, 0x00000080)
    assert board.machine.mmio.read(0x80_0000_C000, 4) == 0x12345678
    assert board.machine.mmio.read(0xC000, 4) == 0xFFFFFFFF


def test_sizing_with_decoding_on_maps_nothing_over_the_top(board: Board) -> None:
    card = add_card(board)
    board.write(2, 0, 4, 2, IO | MEMORY)
    for offset in (0x10, 0x14, 0x20, 0x24):
        board.write(2, 0, offset, 4, 0xFFFFFFFF)
    low_half_alone = [(4, 0xFFFFC000), (4, None)]  # a 64-bit BAR between its two writes
    assert card.mapped == low_half_alone
    for offset in (0x10, 0x14, 0x20, 0x24):
        board.write(2, 0, offset, 4, 0)
    assert all(bar.address is None for bar in card.bars.values())


def test_overlap_is_tolerated_and_pci_ports_win(board: Board) -> None:
    first = add_card(board)
    second = add_card(board)
    for slot in (2, 3):
        board.write(slot, 0, 0x10, 4, 0xC000)
        board.write(slot, 0, 4, 2, IO)
    board.machine.pio.add(IoRange(0xC000, 4, lambda o, s: 0x11, lambda *_: None, name="board", max_width=4))
    assert board.machine.pio.read(0xC000, 1) == 0x78  # though the board's range came last
    assert (len(first.accesses), len(second.accesses)) == (0, 1)
    board.write(3, 0, 4, 2, 0)
    board.machine.pio.read(0xC000, 1)
    board.write(2, 0, 4, 2, 0)
    assert len(first.accesses) == 1
    assert board.machine.pio.read(0xC000, 1) == 0x11


def test_io_bar_beyond_the_ports_decodes_nothing(board: Board) -> None:
    card = add_card(board)
    board.write(2, 0, 4, 2, IO)
    board.write(2, 0, 0x10, 4, 0xFFFF0000)
    assert card.bars[0].address is None


@pytest.mark.parametrize(("slot", "pirq"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 0), (31, 2)])
def test_intx_swizzle_is_that_of_the_prt(board: Board, slot: int, pirq: int) -> None:
    card = add_card(board, addr=f"{slot:x}.4")
    board.write(1, 0, 0x60 + pirq, 1, 11)
    card.intx.raise_()
    assert board.machine.interrupts.levels == {11: 1}
    card.intx.lower()
    assert board.machine.interrupts.levels == {11: 0}


def test_intx_disable_masks_the_wire_but_not_the_status(board: Board) -> None:
    card = add_card(board)
    board.write(1, 0, 0x61, 1, 10)
    card.intx.raise_()
    board.write(2, 0, 4, 2, INTX_OFF)
    assert board.machine.interrupts.levels == {10: 0}
    assert board.read(2, 0, 6, 2) & 8
    board.write(2, 0, 4, 2, 0)
    assert board.machine.interrupts.levels == {10: 1}
    card.intx.lower()
    assert not board.read(2, 0, 6, 2) & 8


def test_two_functions_share_a_pirq(board: Board) -> None:
    first, second = add_card(board, addr="2"), add_card(board, addr="6")  # both on PIRQB
    board.write(1, 0, 0x61, 1, 10)
    first.intx.raise_()
    second.intx.raise_()
    first.intx.lower()
    assert board.machine.interrupts.levels == {10: 1}
    second.unrealize()
    assert board.machine.interrupts.levels == {10: 0}


def test_dma_needs_bus_mastering(board: Board) -> None:
    card = add_card(board)
    with pytest.raises(GuestAddressError):
        card.dma.u32(0)
    board.write(2, 0, 4, 2, MASTER)
    card.dma.store_u32(0, 5)
    assert board.machine.ram[0] == 5
    assert card.commands == [(0, MASTER)]


def test_capabilities_are_linked_in_order(board: Board) -> None:
    card = add_card(board)
    assert not board.read(2, 0, 6, 2) & 0x10
    first, second = card.add_capability(9, 16), card.add_capability(0x11, 12)
    assert board.read(2, 0, 6, 2) & 0x10
    assert (board.read(2, 0, 0x34, 1), board.read(2, 0, first + 1, 1), board.read(2, 0, second + 1, 1)) == (
        0x40,
        0x50,
        0,
    )
    assert (board.read(2, 0, first, 1), board.read(2, 0, second, 1)) == (9, 0x11)
    board.write(2, 0, first, 4, 0)
    assert board.read(2, 0, first, 1) == 9


def test_reset_restores_config_and_unmaps(board: Board) -> None:
    card = add_card(board)
    before = bytes(card.config.data)
    board.write(2, 0, 0x10, 4, 0xC000)
    board.write(2, 0, 0x3C, 1, 11)
    board.write(2, 0, 4, 2, IO | MASTER)
    board.write(1, 0, 0x61, 1, 10)
    card.intx.raise_()
    assert board.machine.interrupts.levels == {10: 1}
    for _ in range(2):
        card.reset(ResetKind.COLD)
        assert bytes(card.config.data) == before
        assert card.bars[0].address is None
        assert not card.bus_master
        assert board.machine.interrupts.levels == {10: 0}


def test_unrealize_leaves_no_trace(board: Board) -> None:
    ranges = (board.machine.pio.ranges, board.machine.mmio.ranges)
    card = add_card(board)
    board.write(2, 0, 0x10, 4, 0xC000)
    board.write(2, 0, 4, 2, IO)
    card.unrealize()
    card.unrealize()
    assert (board.machine.pio.ranges, board.machine.mmio.ranges) == ranges
    assert board.read(2, 0, 0, 4) == 0xFFFFFFFF


def test_attach_takes_first_free_slot_and_refuses_in_qemus_words(board: Board) -> None:
    assert (add_card(board, id_="a").slot, add_card(board, addr="3.1").slot, add_card(board).slot) == (2, 3, 4)
    cases = {
        "2": "PCI: slot 2 function 0 not available for card, in use by card,id=a",
        "1": "PCI: slot 1 function 0 not available for card, in use by PIIX3",
        "2.1": "PCI: single function device can't be populated in function 2.1",
        "3": "PCI: 3.0 indicates single function, but 3.1 is already populated.",
    }
    for addr, message in cases.items():
        with pytest.raises(UsageError) as caught:
            add_card(board, addr=addr)
        assert str(caught.value) == message
    for _ in range(5, 32):
        add_card(board)
    with pytest.raises(UsageError, match="PCI: no slot/function available for card, all in use or reserved"):
        add_card(board)


def test_multifunction_shows_in_header_type(board: Board) -> None:
    add_card(board, addr="5", multifunction="on")
    add_card(board, addr="5.1")
    assert (board.read(5, 0, 0x0E, 1), board.read(5, 1, 0x0E, 1)) == (0x80, 0)


# -- option ROM ------------------------------------------------------------------------------------------------------

ROM, ROM_AT = 0x30, 0xE000_0000


@pytest.fixture
def rom_board(board: Board) -> Board:
    board.machine.roms.images["x.rom"] = ROM_IMAGE + b"tail"
    return board


def test_rom_register_tells_its_size_and_can_be_switched_off(rom_board: Board) -> None:
    board = rom_board
    add_card(board, romfile="x.rom")
    assert board.read(2, 0, ROM, 4) == 0
    board.write(2, 0, ROM, 4, 0xFFFF_FFFF)
    assert board.read(2, 0, ROM, 4) == 0xFFFF_F001
    board.write(2, 0, ROM, 4, 0xFFFF_FFFE)
    assert board.read(2, 0, ROM, 4) == 0xFFFF_F000
    add_card(board, romfile="")
    add_card(board)
    for slot in (3, 4):
        board.write(slot, 0, ROM, 4, 0xFFFF_FFFF)
        assert board.read(slot, 0, ROM, 4) == 0


def test_rom_is_seen_while_its_bit_and_memory_decoding_are_on(rom_board: Board) -> None:
    board, roms, mmio = rom_board, rom_board.machine.roms, rom_board.machine.mmio
    add_card(board, romfile="x.rom")
    steps = [  # register, command; is it there
        (ROM_AT | 1, 0, False),
        (ROM_AT, MEMORY, False),
        (ROM_AT | 1, MEMORY, True),
        (ROM_AT | 1, IO, False),
        (ROM_AT + 0x1000 | 1, MEMORY, True),
        (1, MEMORY, False),
    ]
    for register, command, there in steps:
        board.write(2, 0, 4, 2, command)
        board.write(2, 0, ROM, 4, register)
        address = register & ~1
        assert mmio.read(address, 2) == (0xAA55 if there else 0xFFFF)
        assert list(roms.shown.values()) == ([address] if there else [])
    board.write(2, 0, ROM, 4, ROM_AT | 1)
    assert mmio.read(ROM_AT + 2048, 8) == int.from_bytes(b"tail", "little")
    mmio.write(ROM_AT, 4, 0)
    assert mmio.read(ROM_AT, 2) == 0xAA55
    board.bus.reset(ResetKind.COLD)
    assert (board.read(2, 0, ROM, 4), roms.shown) == (0, {})


def test_query_shows_the_rom_as_bar_6(rom_board: Board) -> None:
    add_card(rom_board, romfile="x.rom")
    rom_board.write(2, 0, 4, 2, MEMORY)
    rom_board.write(2, 0, ROM, 4, ROM_AT | 1)
    (card,) = (info for info in rom_board.bus.query() if info.slot == 2)
    assert card.regions[-1] == (6, "memory", 4096, ROM_AT, False, False)


def test_unplugged_rom_is_given_back_and_a_late_vcpu_reads_ones(rom_board: Board) -> None:
    board, roms = rom_board, rom_board.machine.roms
    card = add_card(board, romfile="x.rom")
    board.write(2, 0, 4, 2, MEMORY)
    board.write(2, 0, ROM, 4, ROM_AT | 1)
    late = board.machine.mmio.find(ROM_AT)
    assert late is not None
    with board.machine.lock:
        card.unrealize()
    assert (roms.loaded, roms.shown) == ([], {})
    assert late.read(0, 4) == 0xFFFF_FFFF


def test_rom_without_register_is_given_to_firmware(rom_board: Board) -> None:
    roms = rom_board.machine.roms
    card = add_card(rom_board, romfile="x.rom", rombar="0")
    assert (roms.loaded, roms.given) == ([], ["x.rom"])
    rom_board.write(2, 0, ROM, 4, 0xFFFF_FFFF)
    assert rom_board.read(2, 0, ROM, 4) == 0
    with rom_board.machine.lock:
        card.unrealize()
    assert roms.given == []


def test_plugged_later_it_needs_a_register_for_its_rom(rom_board: Board) -> None:
    card = Card(props(Card, romfile="x.rom", rombar="0"), rom_board.machine.ctx)
    card.bus = rom_board.bus
    card.hotplugged = True
    with (
        rom_board.machine.lock,
        pytest.raises(UsageError, match="Hot-plugged device without ROM bar can't have an option ROM"),
    ):
        card.plug()
    assert rom_board.machine.roms.given == []


def test_rom_that_is_not_there_leaves_no_trace(rom_board: Board) -> None:
    devices = dict(rom_board.bus.devices)
    with pytest.raises(UsageError, match=r'failed to find romfile "y\.rom"'):
        add_card(rom_board, romfile="y.rom")
    assert rom_board.bus.devices == devices


def ids_of(image: bytes) -> tuple[int, int]:
    return int.from_bytes(image[0x20:0x22], "little"), int.from_bytes(image[0x22:0x24], "little")


@pytest.mark.parametrize("given", [{}, {"romfile": "own.rom"}])
def test_the_types_own_rom_says_that_it_is_for_the_device(board: Board, given: dict[str, str]) -> None:
    """But not one that the user has named, though it be the same. QEMU-COMPAT."""
    roms = board.machine.roms
    roms.images["own.rom"] = ROM_IMAGE

    class WithRom(Card):
        default_romfile = "own.rom"

    card = WithRom(props(WithRom, **given), board.machine.ctx)
    card.bus = board.bus
    with board.machine.lock:
        card.plug()
    image = bytes(roms.loaded[0].view)
    assert ids_of(image) == (ids_of(ROM_IMAGE) if given else (0x1AF4, 0x1001))
    assert sum(image) & 0xFF == sum(ROM_IMAGE) & 0xFF
    assert card.resolved["romfile"] == "own.rom"
    assert card.resolved["romsize"] == 2048


@pytest.mark.parametrize(
    "image",
    [
        b"", b"\x55", b"\x55\xaa", b"hello" * 20, b"\x55\xaa" + bytes(0x15),
        b"\x55\xaa".ljust(0x18, b"\0") + b"\xff\xff" + bytes(100),
        b"\x55\xaa".ljust(0x18, b"\0") + b"\x1c\0\0\0" + b"PCIX\x01\0\x02\0",
        b"\x55\xaa".ljust(0x18, b"\0") + b"\x1d\0\0\0\0" + b"PCIR\x01\0\x02",
    ],
)  # fmt: skip
def test_what_is_no_option_rom_stays_as_it_is(image: bytes) -> None:
    data = bytearray(image)
    adopt(memoryview(data), 0x1AF4, 0x1000)
    assert data == image


def test_query_shows_what_query_pci_needs(board: Board) -> None:
    add_card(board, id_="disk0")
    board.write(2, 0, 0x10, 4, 0xC000)
    board.write(2, 0, 4, 2, IO)
    board.write(2, 0, 0x3C, 1, 11)
    infos = {(info.slot, info.function): info for info in board.bus.query()}
    assert [(key, info.class_desc, info.irq, info.irq_pin) for key, info in infos.items()] == [
        ((0, 0), "Host bridge", None, 0),
        ((1, 0), "ISA bridge", None, 0),
        ((1, 3), "Bridge", 0, 1),
        ((2, 0), "SCSI controller", 11, 1),
    ]
    info = infos[2, 0]
    assert (info.vendor, info.device, info.subsystem_vendor, info.subsystem) == (0x1AF4, 0x1001, 0x1AF4, 2)
    assert [tuple(region) for region in info.regions] == [
        (0, "io", 0x20, 0xC000, None, None),
        (1, "memory", 0x1000, -1, False, False),
        (4, "memory", 0x4000, -1, True, True),
    ]


def test_bar_declaration_is_checked(board: Board) -> None:
    card = Card(props(Card), board.machine.ctx)
    for index, size, kind in ((0, 48, "io"), (5, 4096, "mem64"), (6, 16, "io"), (0, 8, "mem32"), (0, 16, "rom")):
        with pytest.raises(ValueError, match="BAR"):
            card.add_bar(index, size, kind, name="x")

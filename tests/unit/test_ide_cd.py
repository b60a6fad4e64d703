# SPDX-License-Identifier: Apache-2.0
"""ide-cd, register by register: phases of the packet protocol, pieces, DMA, trays, and what a hostile guest does.

What the answers are byte by byte: ``tests/differential/test_qtest_cdrom.py``.
"""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cd_rig import COMMAND, COUNT, DATA, FEATURES, HIGH, MID, RAM_BYTES, SECTOR, CdRig, Registers, image
from tests.unit.virtio_rig import MemoryDisk
from vmmd.core.events import DeviceTrayMovedEvent
from vmmd.devices.ide.drive import ST_BSY, ST_DRQ

GOOD = 0x50
FAILED = 0x41
NOTHING = (0, 0)
NO_MEDIUM = (2, 0x3A)
CHANGED = (6, 0x28)


def read_10(lba: int, blocks: int) -> bytes:
    return bytes([0x28, 0, *lba.to_bytes(4, "big"), 0, *blocks.to_bytes(2, "big")])


def expected(lba: int, blocks: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") * (SECTOR // 4) for number in range(lba, lba + blocks))


# -- phases ------------------------------------------------------------------------------------------------------------


def test_the_phases_of_a_command_are_seen_in_status_and_interrupt_reason() -> None:
    rig = CdRig()
    rig.write(MID, 0xFE)
    rig.write(HIGH, 0xFF)
    rig.write(COMMAND, 0xA0)
    assert (rig.status, rig.read(COUNT)) == (0x58, 1)  # C/D: a packet is wanted, without interrupt
    assert rig.interrupts == 0
    rig.loop.hold = True
    for at in range(0, 10, 2):
        rig.write(DATA, int.from_bytes(read_10(5, 1).ljust(12, b"\0")[at : at + 2], "little"), 2)
    with rig.machine.lock:
        rig.channel.write(DATA, 2, 0)
    assert rig.status & ST_BSY  # the image is read
    rig.loop.run()
    assert rig.interrupts == 1
    assert (rig.status, rig.read(COUNT), rig.read(MID), rig.read(HIGH)) == (0x58, 2, 0, 8)  # I/O: to the host
    rig.read(COMMAND)  # takes the interrupt back
    assert b"".join(rig.read(DATA, 4).to_bytes(4, "little") for _ in range(512)) == expected(5, 1)
    assert (rig.status, rig.read(COUNT), rig.read(FEATURES)) == (GOOD, 3, 0)  # I/O and C/D: status
    assert rig.interrupts == 2


@pytest.mark.parametrize(
    ("limit", "pieces"),
    [
        (2048, [2048] * 4),
        (3000, [3000, 3000, 2192]),
        (3001, [3000, 3000, 2192]),
        (0xFFFE, [8192]),
        (0xFFFF, [8192]),
        (8192, [8192]),
        (8190, [8190, 2]),
    ],
)
def test_data_come_in_pieces_of_the_hosts_limit(limit: int, pieces: list[int]) -> None:
    rig = CdRig()
    before = rig.interrupts
    assert rig.packet(*read_10(3, 4), limit=limit)[:2] == (expected(3, 4), pieces)
    assert rig.interrupts == before + len(pieces) + 1
    assert rig.sense() == NOTHING


def test_long_reads_are_cut_at_64_kib() -> None:
    rig = CdRig(100)
    data, pieces, _ = rig.packet(*read_10(0, 100), limit=0xFFFF)
    assert data == expected(0, 100)
    assert pieces == [0xFFFE, 0xFFFE, 0xFFFE, 100 * SECTOR - 3 * 0xFFFE]
    assert max(length for _, _, length in rig.drive.backend.calls) <= 33 * SECTOR  # what one read may take


def test_the_smallest_limit_reads_no_block_twice() -> None:
    rig = CdRig()
    data, pieces, _ = rig.packet(*read_10(0, 2), limit=2)
    assert data == expected(0, 2)
    assert pieces == [2] * SECTOR
    assert len(rig.drive.backend.calls) == 1


def test_an_odd_answer_can_be_read_to_its_end() -> None:
    rig = CdRig()
    assert rig.packet(0x12, 0, 0, 0, 5)[:2] == (bytes([5, 0x80, 0, 0x21, 31]), [5])
    assert rig.packet(0x12, 0, 0, 0, 5, limit=1)[1] == [2, 2, 1]


@pytest.mark.parametrize(
    "packet", [read_10(0, 1), bytes([0x12, 0, 0, 0, 36]), bytes([0xBE, 0, 0, 0, 0, 0, 0, 0, 1, 0x10])]
)
def test_data_without_a_limit_are_aborted(packet: bytes) -> None:
    rig = CdRig()
    assert rig.packet(*packet, limit=0)[2] == Registers(FAILED, 4, 1, 0, 0)
    assert rig.packet(0, limit=0)[2].status == GOOD  # without data none is needed


def test_overlapping_is_refused() -> None:
    rig = CdRig()
    rig.write(FEATURES, 2)
    rig.write(COMMAND, 0xA0)
    assert (rig.status, rig.read(FEATURES)) == (FAILED, 4)


# -- DMA ---------------------------------------------------------------------------------------------------------------


def test_dma_scatters_a_read() -> None:
    rig = CdRig()
    registers = rig.dma_packet(*read_10(2, 40), regions=[(0x10000, 0x8000), (0x40000, 0x4000), (0x20000, 0x8000)])
    assert registers[:3] == (GOOD, 0, 3)
    assert rig.dma_status & 5 == 4  # at rest, with its interrupt
    memory = rig.machine.ctx.memory
    data = memory.read(0x10000, 0x8000) + memory.read(0x40000, 0x4000) + memory.read(0x20000, 0x8000)
    assert data == expected(2, 40)


def test_dma_takes_answers_too() -> None:
    rig = CdRig()
    assert rig.dma_packet(0x25, regions=[(0x10000, 512)]).status == GOOD
    assert rig.machine.ctx.memory.read(0x10000, 10) == bytes([0, 0, 0, 99, 0, 0, 8, 0, 0, 0])
    assert rig.dma_status & 5 == 4


def test_a_table_that_is_too_short_stops_the_engine() -> None:
    rig = CdRig()
    assert rig.dma_packet(*read_10(0, 3), regions=[(0x10000, 2048)]).status & ST_DRQ
    assert not rig.dma_status & 1
    rig.write(COMMAND, 8)  # device reset
    assert rig.packet(0)[2].status == GOOD


# -- media -------------------------------------------------------------------------------------------------------------


def test_a_change_of_the_medium_is_told_in_two_steps_and_as_an_event() -> None:
    rig = CdRig()
    rig.move_tray(load=False)
    assert rig.interrupts == 1
    assert rig.packet(0)[2][:2] == (FAILED, 0x20)
    assert rig.sense() == NO_MEDIUM
    rig.put_in(image(7))
    rig.move_tray(load=True)
    event, _, _ = rig.packet(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8)
    assert event[4:6] == bytes([2, 2])  # a new medium, present
    assert rig.packet(0)[2][:2] == (FAILED, 0x20)
    assert rig.sense() == NO_MEDIUM
    assert rig.packet(0)[2][:2] == (FAILED, 0x60)
    assert rig.packet(0)[2] == Registers(0x01, 0x60, 0, 0xFE, 0xFF)  # until it is asked for
    assert rig.packet(0x12, 0, 0, 0, 36)[2].status == GOOD  # what has to work works
    assert rig.sense() == CHANGED
    assert rig.sense() == (0, 0x28)
    assert rig.packet(0)[2].status == GOOD
    assert rig.packet(0x25)[0][:4] == (6).to_bytes(4, "big")


def test_the_guest_moves_and_locks_the_tray() -> None:
    rig = CdRig()
    moved = rig.machine.events
    rig.packet(0x1B, 0, 0, 0, 2)
    assert rig.unit.tray_open
    rig.packet(0x1B, 0, 0, 0, 2)  # it is open
    rig.packet(0x1B, 0, 0, 0, 3)
    assert [moved.of(DeviceTrayMovedEvent)] == [
        [DeviceTrayMovedEvent("d0", "cd0", True), DeviceTrayMovedEvent("d0", "cd0", False)]
    ]
    rig.packet(0x1E, 0, 0, 0, 1)
    assert rig.unit.medium_locked
    assert rig.packet(0x1B, 0, 0, 0, 2)[2][:2] == (FAILED, 0x20)
    assert rig.sense() == (2, 0x53)
    rig.put_in(None)
    rig.packet(0x1B, 0, 0, 0, 2)
    assert rig.sense() == (5, 0x53)
    assert len(moved.of(DeviceTrayMovedEvent)) == 2


def test_the_host_asks_for_a_locked_tray() -> None:
    rig = CdRig()
    rig.packet(0x1E, 0, 0, 0, 1)
    rig.read(COMMAND)
    with rig.machine.lock:
        rig.unit.eject_request(force=False)
    assert rig.interrupts == 2  # of the command, and of the request
    poll = (0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8)
    assert rig.packet(*poll)[0][4:6] == bytes([1, 2])  # the button was pressed
    assert rig.packet(*poll)[0][4:6] == bytes([0, 2])  # once
    assert rig.unit.medium_locked
    with rig.machine.lock:
        rig.unit.eject_request(force=True)
    assert not rig.unit.medium_locked


def test_a_tray_that_the_host_opens_ends_the_read() -> None:
    rig = CdRig()
    rig.send_packet(read_10(0, 50), limit=2048)
    rig.read(DATA, 2)
    rig.move_tray(load=False)
    assert rig.registers()[:3] == (FAILED, 0x20, 3)
    assert rig.sense() == NO_MEDIUM
    rig.put_in(image(10))
    rig.move_tray(load=True)
    for _ in range(2):
        rig.packet(0)
        rig.sense()
    assert rig.packet(*read_10(9, 1))[0] == expected(9, 1)


def test_a_read_that_was_given_up_spoils_no_later_command() -> None:
    rig = CdRig()
    disk = rig.drive.backend
    disk.hold = True
    rig.send_packet(read_10(0, 4))
    assert rig.status & ST_BSY
    rig.write(COMMAND, 8)
    disk.hold = False
    rig.send_packet(read_10(20, 1))  # waits for the old one, which writes into its buffer
    with rig.machine.lock:
        assert rig.channel.read_alternate_status(0, 1) & ST_BSY
    disk.complete()
    rig.loop.run()
    assert b"".join(rig.read(DATA, 2).to_bytes(2, "little") for _ in range(1024)) == expected(20, 1)


def test_an_unreadable_block_is_an_error() -> None:
    rig = CdRig()
    rig.drive.backend.fail["read"] = errno.EIO
    assert rig.packet(*read_10(0, 1))[2][:2] == (FAILED, 0x50)
    assert rig.sense() == (5, 0x21)


def test_an_image_that_ends_inside_a_block_is_filled_with_zeroes() -> None:
    rig = CdRig()
    rig.drive.backend.data = bytearray(b"\xaa" * (SECTOR + 1024 + 300))
    assert rig.packet(0x25)[0][:4] == bytes(4)  # 1.65 blocks, of which one is whole
    rig.drive.backend.data = bytearray(b"\xaa" * (2 * SECTOR - 100))
    assert rig.packet(0x25)[0][:4] == bytes([0, 0, 0, 1])
    assert rig.packet(*read_10(1, 1))[0] == b"\xaa" * (SECTOR - 100) + bytes(100)


def test_a_medium_beyond_8_tib_ends_where_commands_do() -> None:
    class Huge(MemoryDisk):
        size_bytes = 1 << 44

    rig = CdRig()
    rig.put_in(Huge())
    last = b"\xff\xff\xff\xff"
    assert rig.packet(0x43, 0, 0, 0, 0, 0, 0, 0, 20)[0][-4:] == last  # READ TOC
    assert rig.packet(0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0x80)[0][4 + 22 + 7 : 4 + 22 + 11] == last
    assert rig.packet(0xAD, 0, 0, 0, 0, 0, 0, 0, 0, 20)[0][12:16] == b"\xff\xff\xff\xfe"  # READ DVD STRUCTURE
    assert rig.packet(0x25)[0][:4] == b"\xff\xff\xff\xfe"


def test_resets_close_the_tray_and_forget() -> None:
    for reset in ("device", "software", "machine"):
        rig = CdRig()
        rig.packet(0x1B, 0, 0, 0, 2)
        rig.packet(0)
        if reset == "device":
            rig.write(COMMAND, 8)
        elif reset == "software":
            with rig.machine.lock:
                rig.channel.write_control(0, 1, 4)
        else:
            with rig.machine.lock:
                rig.channel.reset()
        assert (rig.read(COUNT), rig.read(MID), rig.read(HIGH)) == (1, 0x14, 0xEB)
        assert rig.status == (GOOD if reset == "machine" else 0)
        assert not rig.unit.tray_open
        assert rig.sense() == NOTHING


# -- hostile -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", range(256))
def test_every_opcode_ends_whatever_its_fields_are(opcode: int) -> None:
    rig = CdRig()
    rig.max_pieces = 40
    for fill in (0, 1, 0x55, 0xAA, 0xFF):
        for limit in (0, 1, 2, 0x7FF, 0xFFFF):
            data, pieces, registers = rig.packet(opcode, *[fill] * 11, limit=limit)
            assert len(data) <= 40 * 0x10000
            if len(pieces) < rig.max_pieces:
                assert not registers.status & (ST_DRQ | ST_BSY)
            rig.write(COMMAND, 8)
    assert rig.packet(0)[2].status == GOOD


KNOWN = (0x28, 0xA8, 0xBE, 0x43, 0xAD, 0x1B, 0x4A)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
        st.tuples(st.just("command"), st.sampled_from([0xA0, 0xA1, 8, 0x90, 0xEF]), st.just(0)),
        st.tuples(st.just("data"), st.sampled_from([1, 2, 4]), st.integers(0, 1 << 32)),
        st.tuples(st.just("read"), st.sampled_from([1, 2, 4]), st.integers(1, 600)),
        st.tuples(st.just("packet"), st.binary(min_size=12, max_size=12), st.integers(0, 0xFFFF)),
        st.tuples(
            st.just("known"), st.sampled_from([0x28, 0xA8, 0xBE, 0x43, 0xAD, 0x1B, 0x4A]), st.integers(0, 0xFFFF)
        ),
        st.tuples(st.just("medium"), st.sampled_from([None, 0, 1, 50]), st.booleans()),
        st.tuples(st.just("dma"), st.integers(0, 255), st.integers(0, RAM_BYTES)),
        st.tuples(st.just("reset"), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("hold"), st.booleans(), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=120, deadline=None)
@given(actions=ACTIONS)
def test_nothing_that_guest_and_host_do_breaks_the_drive(actions: list[Any]) -> None:
    rig = CdRig()
    for action, first, second in actions:
        HOSTILE[action](rig, first, second)
        assert rig.unit.end <= 0x10000
    rig.drive.backend.hold = False
    rig.drive.backend.complete()
    rig.loop.run()
    rig.put_in(image(3))
    with rig.machine.lock:
        rig.channel.reset()
        rig.unit.io.reset_by_machine()
    assert rig.packet(*read_10(2, 1))[0] == expected(2, 1)


def _medium(rig: CdRig, sectors: int | None, load: bool) -> None:
    """What the block layer does: the medium goes with nothing in flight."""
    rig.move_tray(load=False)
    rig.drive.backend.hold = False
    rig.drive.backend.complete()
    rig.loop.run()
    rig.put_in(None if sectors is None else image(sectors))
    if load:
        rig.move_tray(load=True)


def _dma(rig: CdRig, command: int, table: int) -> None:
    with rig.machine.lock:
        rig.channel.dma.write(4, 4, table)
        rig.channel.dma.write(0, 1, command)
    rig.loop.run()


def _reset(rig: CdRig, control: int, _: int) -> None:
    with rig.machine.lock:
        rig.channel.write_control(0, 1, control)
    rig.loop.run()


HOSTILE: dict[str, Any] = {
    "write": lambda rig, register, value: rig.write(register, value),
    "command": lambda rig, code, _: rig.write(COMMAND, code),
    "data": lambda rig, size, value: rig.write(DATA, value & (1 << 8 * size) - 1, size),
    "read": lambda rig, size, times: [rig.read(DATA, size) for _ in range(times)],
    "packet": lambda rig, packet, limit: rig.send_packet(packet, limit, limit & 3),
    "known": lambda rig, code, limit: rig.send_packet(
        bytes([code, 1, 0, 0, 0, limit & 31, 0, 0, limit & 63, 0x10 if code == 0xBE else limit & 0xFF]), limit
    ),
    "medium": _medium,
    "dma": _dma,
    "reset": _reset,
    "hold": lambda rig, hold, _: setattr(rig.drive.backend, "hold", hold),
}

# SPDX-License-Identifier: Apache-2.0
"""The floppy disk controller of a whole machine, as public qtest programs drive it: commands, media, hostile bytes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.framework.floppy_host import (
    BUSY,
    DIO,
    DIR,
    DOR,
    DRIVE_SPECIFICATION,
    DUMP,
    FIFO,
    FROM_MEMORY,
    MSR,
    NONDMA,
    PART_ID,
    READ,
    READ_ID,
    RQM,
    SECTOR,
    SEEK,
    SEEK_IN,
    SEEK_OUT,
    SENSE_INTERRUPT,
    VERIFY,
    VERSION,
    WRITE,
    FloppyHost,
    diskette,
    sector,
)
from tests.framework.qtest import Qtest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IRQ = 6
ID_NS = 20_000_000


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fdc") / "floppy.img"
    path.write_bytes(diskette())
    return path


@pytest.fixture(scope="module")
def empty_machine() -> Iterator[Qtest]:
    with Qtest("vmmd", "-machine", "pc") as vm:
        vm.irq_intercept_in()
        yield vm


@pytest.fixture(scope="module")
def loaded_machine(image: Path) -> Iterator[Qtest]:
    with Qtest("vmmd", "-drive", f"if=floppy,file={image},format=raw,index=0") as vm:
        vm.irq_intercept_in()
        yield vm


@pytest.fixture
def empty(empty_machine: Qtest) -> Qtest:
    """A machine with the default drive, nothing in it."""
    return _fresh(empty_machine)


@pytest.fixture
def loaded(loaded_machine: Qtest) -> Qtest:
    """A machine with a diskette."""
    return _fresh(loaded_machine)


def _fresh(vm: Qtest) -> Qtest:
    vm.qmp("system_reset")
    vm.wait_event("RESET")
    return vm


def insert(vm: Qtest, image: Path) -> None:
    vm.qmp("blockdev-change-medium", device="floppy0", filename=str(image), format="raw")


def test_an_empty_default_drive_and_what_cmos_says_of_it(empty: Qtest) -> None:
    empty.outb(0x70, 0x10)
    assert empty.inb(0x71) == 0x50
    empty.outb(0x70, 0x14)
    assert empty.inb(0x71) & 0xC1 == 0x01
    drive = next(each for each in empty.qmp("query-block") if each["device"] == "floppy0")
    assert "inserted" not in drive
    assert "tray_open" not in drive
    assert empty.inb(DIR) & 0x80
    assert empty.inb(0) == 0  # the DMA controller's first address register: test programs read it to wait


def test_read_without_media_ends_at_once(empty: Qtest) -> None:
    host = FloppyHost(empty)
    assert host.run(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF) == [0x40, 0, 0, 0, 0, 1, 2]
    assert host.run(VERIFY, 0, 5, 0, 1, 2, 18, 0x1B, 0xFF)[0] == 0x40
    assert host.run(DUMP)[0] == 5  # but the head has moved


def test_media_change_and_the_change_line(empty: Qtest, image: Path) -> None:
    host = FloppyHost(empty)
    host.seek(1)
    insert(empty, image)
    assert empty.inb(DIR) & 0x80
    assert empty.inb(DIR) & 0x80  # reading does not clear it
    host.seek(0)  # a step does
    assert not empty.inb(DIR) & 0x80
    host.seek(1)
    assert not empty.inb(DIR) & 0x80
    empty.qmp("eject", device="floppy0")
    assert empty.inb(DIR) & 0x80
    host.seek(0)
    host.seek(1)
    assert empty.inb(DIR) & 0x80  # nothing in it: no step clears it


def test_sense_interrupt(empty: Qtest) -> None:
    host = FloppyHost(empty)
    assert host.run(SENSE_INTERRUPT) == [0x80]
    host.send(0x07, 0)
    assert empty.inb(0) == 0
    assert empty.irq(IRQ)
    assert host.run(SENSE_INTERRUPT) == [0x20, 0]
    assert not empty.irq(IRQ)
    assert host.reset() == [[0xC0, 0], [0xC1, 0], [0xC2, 0], [0xC3, 0]]
    assert host.run(SENSE_INTERRUPT) == [0x80]
    assert host.run(VERSION) == [0x90]
    assert host.run(PART_ID) == [0x41]


def test_relative_seek(empty: Qtest) -> None:
    host = FloppyHost(empty)
    assert host.seek(10) == [0x20, 10]
    for command, steps, cylinder in ((SEEK_IN, 1, 11), (SEEK_OUT, 1, 10), (SEEK_IN, 5, 15), (SEEK_OUT, 20, 0)):
        host.send(command, 0, steps)
        assert host.run(SENSE_INTERRUPT) == [0x20, cylinder]


def test_read_id_comes_with_the_next_sector(empty: Qtest) -> None:
    host = FloppyHost(empty)
    for cylinder, head in ((0, 0), (8, 1)):
        host.seek(cylinder)
        host.send(READ_ID, head << 2)
        assert empty.inb(MSR) == BUSY
        empty.clock_step(ID_NS - 1)
        assert not empty.irq(IRQ)
        empty.clock_step(1)
        assert empty.irq(IRQ)
        assert empty.inb(MSR) == RQM | DIO | BUSY
        status, _, _, *place, size = host.results()
        assert (status, place[:2], size) == (head << 2, [cylinder, head], 2)
        assert not empty.irq(IRQ)


def test_a_sector_by_dma(loaded: Qtest) -> None:
    host = FloppyHost(loaded)
    host.reset()
    host.dma(0x1_0000, SECTOR)
    assert host.run(READ, 4, 7, 1, 3, 2, 18, 0x1B, 0xFF) == [0x24, 0, 0, 7, 1, 4, 2]
    assert loaded.read(0x1_0000, SECTOR) == sector((7 * 2 + 1) * 18 + 2)
    assert host.dma_left() == (SECTOR, 0xFFFF, 0x04)


def test_both_sides_of_a_cylinder_by_dma(loaded: Qtest) -> None:
    host = FloppyHost(loaded)
    host.dma(0x1_0000, 36 * SECTOR)
    host.run(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    assert loaded.read(0x1_0000, 36 * SECTOR) == diskette(36)


@pytest.mark.parametrize(("sectors", "status"), [(1, 0x04), (18, 0x04), (19, 0x20)])
def test_sectors_without_dma(loaded: Qtest, sectors: int, status: int) -> None:
    """Multi-track with the last sector given: that many of each side."""
    host = FloppyHost(loaded)
    host.use_dma(on=False)
    host.send(READ, 0, 0, 0, 1, 2, sectors, 0x1B, 0xFF)
    assert host.wait() == RQM | DIO | NONDMA | BUSY
    data = host.read_bytes(2 * sectors * SECTOR, look_every=1 if sectors == 1 else 64)
    per_side = min(sectors, 18)
    assert len(data) == 2 * sectors * SECTOR
    assert data[: per_side * SECTOR] == diskette(per_side)
    assert data[per_side * SECTOR : (per_side + 1) * SECTOR] == sector(18)
    assert loaded.irq(IRQ)
    assert host.results()[0] == status
    assert not loaded.irq(IRQ)
    assert loaded.inb(MSR) == RQM


def test_written_by_dma_and_without(loaded: Qtest, image: Path) -> None:
    host = FloppyHost(loaded)
    loaded.write(0x2_0000, b"\x5a" * SECTOR)
    host.dma(0x2_0000, SECTOR, FROM_MEMORY)
    assert host.run(WRITE, 0, 70, 0, 2, 2, 18, 0x1B, 0xFF)[:3] == [0x20, 0, 0]
    host.use_dma(on=False)
    host.send(WRITE & 0x7F, 0, 70, 0, 3, 2, 3, 0x1B, 0xFF)
    for number in range(SECTOR):
        assert loaded.inb(MSR) == RQM | NONDMA | BUSY, number
        loaded.outb(FIFO, 0xA5)
    host.wait(RQM | DIO)
    assert host.results() == [0, 0, 0, 70, 0, 3, 2]
    first = 70 * 36
    expected = bytearray(diskette())
    expected[(first + 1) * SECTOR : (first + 3) * SECTOR] = b"\x5a" * SECTOR + b"\xa5" * SECTOR
    assert image.read_bytes() == expected


def test_a_reset_while_a_command_runs(loaded: Qtest) -> None:
    host = FloppyHost(loaded)
    host.use_dma(on=False)
    host.send(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    assert len(host.reset()) == 4
    assert loaded.inb(MSR) == RQM
    host.send(READ_ID, 0)
    host.reset()
    loaded.clock_step(10 * ID_NS)
    assert loaded.inb(MSR) == RQM


def test_system_reset_and_a_stop_in_between(loaded: Qtest) -> None:
    host = FloppyHost(loaded)
    host.seek(40)
    loaded.qmp("system_reset")
    loaded.wait_event("RESET")
    assert host.run(SENSE_INTERRUPT) == [0x80]
    assert host.run(0x0E)[0] == 0
    loaded.qmp("stop")
    host.dma(0x1_0000, SECTOR)
    host.send(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    assert loaded.inb(MSR) == BUSY  # the machine stands still, and so does the disk
    loaded.qmp("cont")
    host.wait(RQM | DIO)
    assert host.results()[0] == 0


def test_the_cursor_is_never_trusted(empty: Qtest) -> None:
    """The sequences of CVE-2015-3456: commands whose handling forgot to count, then bytes without end."""
    for command in (READ_ID, DRIVE_SPECIFICATION, 0x8F, 0xCD, SEEK):
        host = FloppyHost(empty)
        host.reset()
        empty.outb(FIFO, command)
        for _ in range(600):
            empty.outb(FIFO, 0x7F)
        for _ in range(600):
            empty.inb(FIFO)
    assert FloppyHost(empty).reset()[0] == [0xC0, 0]


def test_random_registers(loaded: Qtest) -> None:
    rng = random.Random(4)
    for _ in range(1500):
        port = 0x3F0 + rng.randrange(8)
        if rng.random() < 0.5:
            loaded.inb(port)
        else:
            loaded.outb(port, rng.randrange(256))
    host = FloppyHost(loaded)
    loaded.outb(DOR, 0)
    assert host.reset()[0] == [0xC0, 0]

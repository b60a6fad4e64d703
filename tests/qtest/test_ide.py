# SPDX-License-Identifier: Apache-2.0
"""IDE disks of a whole machine without a guest: what programs that drive the bus master and the task file find."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.framework.ide_host import ABRT, BM_ACTIVE, BM_INTERRUPT, BSY, DF, DRDY, DRQ, ERR, FLUSH, IdeHost
from tests.framework.qtest import Qtest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTORS = 4096
BUFFER = 0x20_0000
READ_DMA, WRITE_DMA, READ_DMA_EXT, WRITE_DMA_EXT, TRIM = 0xC8, 0xCA, 0x25, 0x35, 0x06
READ_SECTORS, WRITE_SECTORS, READ_MULTIPLE, WRITE_MULTIPLE = 0x20, 0x30, 0xC4, 0xC5


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SECTORS * 512))
    return path


@pytest.fixture
def vm(image: Path) -> Iterator[Qtest]:
    drive = f"file={image},if=ide,format=raw,cache=writeback,rerror=report,werror=report"
    with Qtest("vmmd", "-machine", "pc", "-nodefaults", "-drive", drive, "-global", "ide-hd.serial=a1") as vm:
        vm.irq_intercept_in()
        yield vm


@pytest.fixture
def host(vm: Qtest) -> IdeHost:
    return IdeHost(vm)


def ended_well(host: IdeHost) -> None:
    status = host.status
    assert status & DRDY
    assert not status & (BSY | DRQ | DF | ERR)


def test_identify_says_what_the_command_line_says(host: IdeHost) -> None:
    data = host.identify()
    swapped = bytes(data[at ^ 1] for at in range(512))
    assert swapped[20:40] == b"a1".ljust(20)
    assert swapped[46:54] == b"2.5+    "
    assert int.from_bytes(data[120:124], "little") == SECTORS
    assert data[170] & 0x20  # write cache on
    ended_well(host)


def test_read_and_write_by_bus_master(host: IdeHost, image: Path) -> None:
    for unit_bytes, command in ((0x55, WRITE_DMA), (0xAA, WRITE_DMA_EXT)):
        host.vm.memset(BUFFER, 512, unit_bytes)
        status, _ = host.dma(command, [(BUFFER, 512)], lba=9, count=1, wide=command == WRITE_DMA_EXT)
        assert status == BM_INTERRUPT
        host.vm.memset(BUFFER, 512, 0)
        status, file = host.dma(READ_DMA, [(BUFFER, 512)], lba=9, count=1)
        assert (status, file.sectors, file.low) == (BM_INTERRUPT, 0, 10)
        assert host.vm.read(BUFFER, 512) == bytes([unit_bytes]) * 512
        ended_well(host)
    host.command(FLUSH)
    assert image.read_bytes()[9 * 512 : 10 * 512] == b"\xaa" * 512


def test_scattered_transfer_of_odd_pieces(host: IdeHost, image: Path) -> None:
    """600 sectors, in pieces that end inside sectors: larger than what is read at once."""
    regions, gpa, left = [], BUFFER, 600 * 512
    rng = random.Random(3)
    while left:
        length = min(left, 2 * rng.randrange(1, 0x4000))
        regions.append((gpa, length))
        gpa, left = gpa + 0x8000, left - length
    status, _ = host.dma(READ_DMA_EXT, regions, lba=1000, count=600, wide=True)
    assert status == BM_INTERRUPT
    data = b"".join(host.vm.read(gpa, length) for gpa, length in regions)
    assert data == image.read_bytes()[1000 * 512 : 1600 * 512]


def test_trim_takes_good_ranges_and_refuses_all_with_a_bad_one(host: IdeHost) -> None:
    good = [2 << 48, 8 << 48 | 6, 1 << 48 | 10]
    for ranges, error in ((good, 0), ([*good, 2 << 48 | SECTORS - 1], ABRT)):
        host.vm.write(BUFFER, b"".join(each.to_bytes(8, "little") for each in ranges).ljust(512, b"\0"))
        status, file = host.dma(TRIM, [(BUFFER, 512)], count=1, features=1)
        assert (status, file.error, bool(file.status & ERR)) == (BM_INTERRUPT, error, bool(error))
    assert host.command(TRIM, features=0).error == ABRT


@pytest.mark.parametrize("abort", [False, True])
def test_short_descriptors_move_nothing_and_tell_nobody(host: IdeHost, *, abort: bool) -> None:
    host.vm.memset(BUFFER, 1024, 0x77)
    for length, count in ((0x10, 1), (512, 2)):
        status, file = host.dma(READ_DMA, [(BUFFER, length)], count=count, abort=abort)
        assert (status, file.error) == (0, 0)
        ended_well(host)
    assert host.vm.read(BUFFER, 1024) == b"\x77" * 1024


@pytest.mark.parametrize("abort", [False, True])
def test_descriptors_that_are_too_long_leave_the_engine_active(host: IdeHost, *, abort: bool) -> None:
    status, _ = host.dma(READ_DMA, [(BUFFER, 1024)], count=1, abort=abort)
    assert status == BM_INTERRUPT | (0 if abort else BM_ACTIVE)
    ended_well(host)


@pytest.mark.parametrize("abort", [False, True])
def test_without_bus_mastering_nothing_moves_and_nothing_hangs(host: IdeHost, image: Path, *, abort: bool) -> None:
    command = host.function.config_read(4, 2)
    host.vm.memset(0, 4096, 0x66)
    host.function.config_write(4, 2, command & ~4)
    before = image.read_bytes()
    for code in (READ_DMA, WRITE_DMA):
        status, _ = host.dma(code, [(0, 0)] * 8, count=0, last=False, abort=abort)
        assert status == BM_INTERRUPT | (0 if abort else BM_ACTIVE)
    assert host.vm.read(0, 4096) == b"\x66" * 4096
    assert image.read_bytes()[256 * 512 :] == before[256 * 512 :]


def test_memory_that_is_no_ram_takes_no_data(host: IdeHost) -> None:
    rom = host.vm.read(0xFFFF_0000, 512)
    for gpa in (0xFFFF_0000, 0xF000_0000, 0xA_0000):
        status, _ = host.dma(READ_DMA, [(gpa, 512)], count=1)
        assert status == BM_INTERRUPT
    assert host.vm.read(0xFFFF_0000, 512) == rom


def test_pio_gives_an_interrupt_for_each_block(host: IdeHost, image: Path) -> None:
    vm = host.vm
    for code, blocks in ((READ_SECTORS, 5), (READ_MULTIPLE, 1)):
        host.set_registers(lba=20, count=5)
        vm.outb(host.base + 7, code)
        data = b""
        for block in range(blocks):
            assert host.wait().status & DRQ
            assert vm.irq(14)
            vm.inb(host.base + 7)
            assert not vm.irq(14)
            data += host.pio_in(256 * 5 // blocks)
            assert block < blocks - 1 or not host.status & DRQ
        assert data == image.read_bytes()[20 * 512 : 25 * 512]
        ended_well(host)


def test_written_by_pio_and_read_by_chs(host: IdeHost) -> None:
    data = random.Random(5).randbytes(3 * 512)
    host.command(WRITE_MULTIPLE, lba=(2 * 16 + 3) * 63 + 4, count=3)
    host.pio_out(data)
    file = host.wait()
    assert (file.status & (DRQ | ERR), file.sectors) == (0, 0)
    host.set_registers(count=3, lba=5 | 2 << 8, chs=True)  # cylinder 2, head 3, sector 5
    host.vm.outb(host.base + 6, 0xA3)
    host.vm.outb(host.base + 7, READ_MULTIPLE)
    host.wait()
    assert host.pio_in(3 * 256) == data
    assert host.task_file().low == 8  # sectors count from 1


def test_the_end_of_the_disk(host: IdeHost, image: Path) -> None:
    file = host.command(READ_SECTORS, lba=SECTORS - 1, count=2)
    assert host.pio_in() == image.read_bytes()[-512:]
    file = host.wait()
    assert (file.error, file.sectors, file.status) == (ABRT, 1, DRDY | ERR)
    assert host.command(READ_SECTORS, lba=SECTORS).error == ABRT
    status, file = host.dma(READ_DMA, [(BUFFER, 1024)], lba=SECTORS - 1, count=2)
    assert (status, file.error) == (BM_INTERRUPT, ABRT)


def test_a_count_of_zero_is_the_largest(host: IdeHost) -> None:
    status, file = host.dma(READ_DMA, [(BUFFER, 0), (BUFFER, 0)], count=0)
    assert (status, file.low, file.mid) == (BM_INTERRUPT, 0, 1)
    status, file = host.dma(READ_DMA_EXT, [(BUFFER, 0)] * 512, count=0, wide=True)
    assert file.error == ABRT  # 65536 sectors are more than there are


def test_flush_ends_with_an_interrupt(host: IdeHost) -> None:
    host.command(FLUSH)
    assert host.vm.irq(14)
    ended_well(host)


def test_without_drives_commands_are_survived() -> None:
    with Qtest("vmmd", "-nodefaults") as vm:
        host = IdeHost(vm)
        vm.outb(host.base + 6, 0)
        vm.outb(host.base + 7, FLUSH)
        assert host.wait() == (0, 0, 0, 0, 0, 0, 0)


def test_a_reset_in_the_middle_of_a_transfer(host: IdeHost) -> None:
    vm = host.vm
    host.command(READ_SECTORS, lba=1, count=8)
    host.pio_in(300)
    assert host.soft_reset() == (1, 1, 1, 0, 0, 0xA0, 0x50)
    host.prepare([(BUFFER, 0)] * 8)
    host.set_registers(lba=1, count=0)
    vm.outb(host.base + 7, READ_DMA)
    host.start(to_memory=True)
    host.soft_reset()
    assert not host.bm_status & BM_ACTIVE
    assert host.identify()[120:122] == SECTORS.to_bytes(2, "little")


def test_counters_of_the_disk(host: IdeHost) -> None:
    host.dma(READ_DMA, [(BUFFER, 0)], count=128)
    host.dma(WRITE_DMA, [(BUFFER, 512)], count=1)
    host.command(FLUSH)
    host.command(READ_SECTORS, lba=SECTORS)
    stats = host.vm.qmp("query-blockstats")[0]["stats"]
    wanted = {"rd_operations": 1, "rd_bytes": 65536, "wr_operations": 1, "wr_bytes": 512, "flush_operations": 1}
    assert {key: stats[key] for key in wanted} == wanted
    assert stats["invalid_rd_operations"] == 1

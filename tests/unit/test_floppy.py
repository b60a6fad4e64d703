# SPDX-License-Identifier: Apache-2.0
"""The floppy disk controller and its drives: chapters 5 and 6 of the 82078 data sheet, formats, errors, media."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.framework.device_rig import Loop, floppy_bus
from tests.framework.floppy_host import (
    CCR,
    CONFIGURE,
    DIR,
    DRIVE_SPECIFICATION,
    DUMP,
    FORMAT,
    FROM_MEMORY,
    LOCK,
    MSR,
    PERPENDICULAR,
    READ,
    RESTORE,
    SAVE,
    SECTOR,
    SENSE_DRIVE,
    UNLOCK,
    VERIFY,
    WRITE,
    FloppyHost,
    diskette,
    sector,
)
from tests.unit.fakes import make_context, props
from tests.unit.virtio_rig import FakeDrive, MemoryDisk
from vmmd.core.device import ResetKind
from vmmd.devices.floppy.device import Floppy
from vmmd.devices.floppy.formats import format_for, kind_for
from vmmd.errors import UsageError

BUFFER = 0x1_0000
KIB = 1024


class Bench:
    """A controller with one drive; ports by name as ``FloppyHost`` wants them."""

    def __init__(self, image: bytes | None = None, **given: str) -> None:
        self.machine = make_context(1 << 20)
        self.loop = Loop()
        self.machine.ctx.loop = self.loop  # what is posted waits until the access is over
        self.bus = floppy_bus(self.machine)
        self.disk = MemoryDisk(0)
        self.drive = FakeDrive(self.disk)
        self.load(image)
        self.machine.backends.drives["drive0"] = self.drive
        self.floppy = Floppy(props(Floppy, drive="drive0", **given), self.machine.ctx, "fd0")
        self.floppy.bus = self.bus
        self.floppy.plug()
        self.floppy.reset(ResetKind.COLD)
        self.host = FloppyHost(self)

    def load(self, image: bytes | None) -> None:
        self.disk.data[:] = image or b""
        self.drive.inserted = image is not None

    def inb(self, port: int) -> int:
        with self.machine.lock:
            value = self.machine.pio.read(port, 1)
        self.loop.run()
        return value

    def outb(self, port: int, value: int) -> None:
        with self.machine.lock:
            self.machine.pio.write(port, 1, value)
        self.loop.run()

    def ram(self, length: int) -> bytes:
        return bytes(self.machine.ram[BUFFER : BUFFER + length])

    def put(self, data: bytes) -> None:
        self.machine.ram[BUFFER : BUFFER + len(data)] = data

    def dma(self, *command: int, count: int = SECTOR, mode: int = 0x44) -> list[int]:
        self.host.dma(BUFFER, count, mode)
        return self.host.run(*command)


def rw(code: int, cylinder: int, head: int, number: int, *, size: int = 2, last: int = 18, short: int = 255) -> Any:
    return (code, head << 2, cylinder, head, number, size, last, 0x1B, short)


@pytest.fixture
def bench() -> Bench:
    return Bench(diskette())


# -- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kib", "kind", "form"),
    [
        (1440, "144", (18, 80, 2, 0)), (2880, "288", (36, 80, 2, 3)), (720, "144", (9, 80, 2, 2)),
        (1200, "120", (15, 80, 2, 0)), (360, "120", (9, 40, 2, 1)), (1680, "144", (21, 80, 2, 0)),
        (160, "120", (8, 40, 1, 2)), (1743, "144", (21, 83, 2, 0)),
    ],
)  # fmt: skip
def test_a_size_decides_for_format_and_kind(kib: int, kind: str, form: tuple[int, ...]) -> None:
    assert kind_for(kib * KIB) == kind
    assert format_for(kind, kib * KIB) == form


def test_any_other_size_is_the_usual_format_of_the_drive() -> None:
    assert kind_for(512) is None
    assert format_for("144", 512) == (18, 80, 2, 0)
    assert format_for("120", 1440 * KIB) == (18, 80, 2, 0)  # a 5.25 inch format of the same size
    assert format_for("144", 360 * KIB) == (9, 80, 1, 2)
    assert format_for("none", 1440 * KIB) is None


# -- data --------------------------------------------------------------------------------------------------------


def test_sectors_that_the_image_lacks_are_zero_and_cannot_be_written() -> None:
    bench = Bench(b"boot" * 128, drive_type="144")
    assert bench.dma(*rw(READ, 0, 0, 1), count=2 * SECTOR)[:2] == [0, 0]
    assert bench.ram(2 * SECTOR) == b"boot" * 128 + bytes(SECTOR)
    assert bench.dma(*rw(WRITE, 0, 0, 2), mode=FROM_MEMORY)[0] == 0x60


def test_a_track_ends_the_command_without_multi_track(bench: Bench) -> None:
    assert bench.dma(*rw(READ & 0x7F, 3, 0, 17), count=4 * SECTOR) == [0x20, 0, 0, 4, 0, 1, 2]
    assert bench.host.dma_left()[:2] == (2 * SECTOR, 2 * SECTOR - 1)


def test_a_part_of_a_sector_is_read_and_written(bench: Bench) -> None:
    assert bench.dma(*rw(READ, 0, 0, 5), count=100)[5] == 5
    assert bench.ram(101) == sector(4)[:100] + b"\0"
    bench.put(b"\xee" * 100)
    bench.dma(*rw(WRITE, 0, 0, 5), count=100, mode=FROM_MEMORY)
    assert bytes(bench.disk.data[4 * SECTOR : 5 * SECTOR]) == b"\xee" * 100 + sector(4)[100:]


def test_wrong_places(bench: Bench) -> None:
    assert bench.dma(*rw(READ, 0, 0, 19))[:2] == [0x40, 0x80]
    assert bench.dma(*rw(READ, 81, 0, 1))[:6] == [0x40, 0, 0, 81, 0, 1]
    assert bench.dma(*rw(READ & 0x7F, 0, 0, 5, last=3))[:2] == [0x40, 0x01]
    assert bench.dma(READ, 1, 0, 0, 1, 2, 18, 0x1B, 255)[:2] == [0x41, 0x80]  # no such drive
    bench.host.run(SENSE_DRIVE, 0)
    bench.outb(CCR, 2)
    assert bench.dma(*rw(READ, 0, 0, 1))[:2] == [0x40, 0x01]  # a diskette of another data rate


def test_write_protected() -> None:
    bench = Bench(diskette())
    bench.disk.read_only = True
    assert bench.host.run(SENSE_DRIVE, 0) == [0x78]
    assert bench.dma(*rw(WRITE, 0, 0, 1), mode=FROM_MEMORY)[:2] == [0x60, 0x02]
    assert bench.dma(FORMAT, 0, 2, 18, 0x1B, 0xF6, mode=FROM_MEMORY)[:2] == [0x60, 0x02]
    assert bytes(bench.disk.data) == diskette()


def test_errors_of_the_image(bench: Bench) -> None:
    bench.disk.fail = {"readv": 5, "writev": 5}
    bench.disk.fail |= {"read": 5, "write": 5}
    assert bench.dma(*rw(READ, 0, 0, 1))[:3] == [0x40, 0x20, 0x20]
    assert bench.dma(*rw(WRITE, 0, 0, 1), mode=FROM_MEMORY)[0] == 0x60
    bench.disk.fail = {}
    assert bench.dma(*rw(READ, 0, 0, 1))[0] == 0


def test_verify_reads_to_the_end_or_as_many_as_it_is_told(bench: Bench) -> None:
    assert bench.host.run(*rw(VERIFY, 0, 0, 1)) == [0x20, 0, 0, 1, 0, 1, 2]
    assert bench.host.run(VERIFY, 0x80, 1, 0, 1, 2, 18, 0x1B, 4)[:6] == [0, 0, 0, 1, 0, 5]


def test_format_fills_the_sectors_that_are_named(bench: Bench) -> None:
    bench.host.seek(2)
    bench.put(bytes(value for number in range(1, 19) for value in (2, 1, number, 2)))
    assert bench.dma(FORMAT, 4, 2, 18, 0x1B, 0xF6, count=72, mode=FROM_MEMORY)[:3] == [0x04, 0, 0]
    first = (2 * 2 + 1) * 18
    expected = bytearray(diskette())
    expected[first * SECTOR : (first + 18) * SECTOR] = b"\xf6" * (18 * SECTOR)
    assert bench.disk.data == expected


@pytest.mark.parametrize(
    ("command", "byte", "status"),
    [
        (0x51, 0x10, 0x08), (0x51, 0x11, 0x04), (0x59, 0x11, 0x00), (0x59, 0x0F, 0x04),
        (0x5D, 0x0F, 0x00), (0x5D, 0x11, 0x04), (0x51, 0xFF, 0x08),
    ],
)  # fmt: skip
def test_scan(command: int, byte: int, status: int) -> None:
    bench = Bench(b"\x10" * (1440 * KIB))
    bench.put(bytes((byte,)) * SECTOR)
    result = bench.dma(*rw(command, 0, 0, 1), mode=FROM_MEMORY)
    assert (result[0] & 0xC0, result[2]) == (0, status)


def test_a_scan_where_the_image_has_nothing_goes_sector_by_sector() -> None:
    """As deep in calls with 128 sectors as with one: word channels can do 256."""
    bench = Bench(b"", drive_type="288")
    bench.outb(CCR, 3)
    bench.put(b"\1" * (128 * SECTOR))
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(usual // 2)
    try:
        result = bench.dma(*rw(0x91, 0, 0, 1, last=36, size=7), count=128 * SECTOR, mode=FROM_MEMORY)
    finally:
        sys.setrecursionlimit(usual)
    assert (result[0] & 0xC0, result[2]) == (0, 0x04)
    assert not bench.disk.calls
    assert bench.drive.stats.unmap_ops == 0


def test_a_masked_channel_makes_the_controller_wait(bench: Bench) -> None:
    bench.host.dma(BUFFER, SECTOR)
    bench.outb(0x0A, 0x06)
    bench.host.send(*rw(READ, 0, 0, 1))
    assert bench.inb(MSR) == 0x10
    assert bench.inb(8) == 0x40  # the request
    bench.outb(0x0A, 0x02)
    assert bench.host.results()[0] == 0
    assert bench.ram(SECTOR) == sector(0)


def test_a_reset_forgets_what_the_disk_still_does(bench: Bench) -> None:
    bench.disk.hold = True
    bench.host.dma(BUFFER, SECTOR)
    bench.host.send(*rw(READ, 0, 0, 1))
    bench.host.reset()
    bench.disk.hold = False
    bench.disk.complete()
    assert bench.inb(MSR) == 0x80
    assert not any(bench.ram(SECTOR))
    assert bench.dma(*rw(READ, 0, 0, 1))[0] == 0


def test_a_diskette_that_goes_away_ends_the_command(bench: Bench) -> None:
    bench.outb(0x0A, 0x06)
    bench.host.send(*rw(READ, 0, 0, 1))
    bench.load(None)
    bench.drive.media.medium_changed(False)
    assert bench.host.results()[0] == 0x40
    assert bench.inb(DIR) & 0x80
    assert bench.floppy.tray_open


# -- settings ----------------------------------------------------------------------------------------------------


def test_dump_and_save_show_what_was_set(bench: Bench) -> None:
    host = bench.host
    host.seek(9)
    host.send(CONFIGURE, 0, 0x57, 0x0A)
    host.send(PERPENDICULAR, 0x87)
    host.use_dma(on=True)
    assert host.run(LOCK) == [0x10]
    assert host.run(DUMP) == [9, 0, 0, 0, 0xA, 0x03, 18, 0x9C, 0x57, 0x0A]
    assert host.run(SAVE) == [0, 0, 9, 0, 0, 0, 0xA, 1, 18, 0x9C, 0x57, 0x0A, 0, 0, 0]
    assert host.run(UNLOCK) == [0]
    host.send(RESTORE, *range(1, 18))
    assert host.run(DUMP) == [3, 4, 0, 0, 7, 0x11, 9, 0x08, 0x0B, 0x0C]


def test_drive_specification_ends_with_its_last_byte(bench: Bench) -> None:
    host = bench.host
    assert host.run(DRIVE_SPECIFICATION, 0x05, 0x26, 0x80) == [5, 6, 0, 0]
    assert host.run(DRIVE_SPECIFICATION, 0xC0) == []
    assert bench.inb(MSR) == 0x80


@pytest.mark.parametrize("command", [0x00, 0x01, 0x1F, 0x0B, 0xFF])
def test_invalid_commands(bench: Bench, command: int) -> None:
    assert bench.host.run(command) == [0x80]


# -- the device --------------------------------------------------------------------------------------------------


def test_places_and_kinds() -> None:
    bench = Bench(diskette())
    assert (bench.floppy.unit, bench.floppy.kind) == (0, "144")
    second = Floppy(props(Floppy, unit="0"), bench.machine.ctx)
    second.bus = bench.bus
    with pytest.raises(UsageError, match="Floppy unit 0 is in use"):
        second.plug()
    assert Bench().floppy.kind == "288"
    assert Bench(drive_type="120").floppy.kind == "120"


def test_no_error_policy_and_no_other_sectors() -> None:
    with pytest.raises(UsageError, match="must be 512"):
        Bench(diskette(), logical_block_size="1024", physical_block_size="1024")

# SPDX-License-Identifier: Apache-2.0
"""ide-hd by itself: errors and what the VM does about them, stop and cont, resets with requests in flight, geometry."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.framework.device_rig import Rig, ide_channel
from tests.unit.fakes import make_context
from vmmd.core.device import ResetKind
from vmmd.core.events import BlockIoErrorEvent
from vmmd.devices.ide.drive import ST_BSY, ST_DRDY, ST_DRQ, ST_ERR, ST_READY
from vmmd.devices.ide.geometry import Chs, Translation, automatic, default_chs, guess
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.devices.ide.dma import Scatter

COMMAND_BLOCK, CONTROL, BUS_MASTER = 0x1F0, 0x3F6, 0xC000
READ, WRITE, READ_DMA, WRITE_DMA, FLUSH = 0x20, 0x30, 0xC8, 0xCA, 0xE7
TABLE, BUFFER = 0x1000, 0x2000
ABRT = 4


class Disk(Rig):
    """The device with a host's verbs."""

    def __init__(self, **properties: str) -> None:
        self.given = properties
        super().__init__("ide-hd")
        for name, text in properties.items():
            self.device.props.set_text(name.replace("_", "-"), text, "ide-hd")
        self.plug()

    def out(self, port: int, value: int, size: int = 1) -> None:
        with self.machine.lock:
            self.machine.pio.write(port, size, value)
        self.loop.run()

    def take(self, port: int, size: int = 1) -> int:
        with self.machine.lock:
            return self.machine.pio.read(port, size)

    @property
    def status(self) -> int:
        return self.take(CONTROL)

    @property
    def error(self) -> int:
        return self.take(COMMAND_BLOCK + 1)

    def command(self, code: int, lba: int = 0, count: int = 1) -> int:
        for register, value in ((6, 0xE0), (2, count), (3, lba), (4, 0), (5, 0), (7, code)):
            self.out(COMMAND_BLOCK + register, value)
        return self.status

    def by_dma(self, code: int, lba: int = 0, count: int = 1) -> int:
        entry = BUFFER | ((count * 512 | 1 << 31) << 32)
        self.machine.memory.write(TABLE, entry.to_bytes(8, "little"))
        self.out(BUS_MASTER + 4, TABLE, 4)
        self.command(code, lba, count)
        self.out(BUS_MASTER, 0)
        self.out(BUS_MASTER, 1)
        return self.status

    def data_in(self, words: int = 256) -> bytes:
        data = b"".join(self.take(COMMAND_BLOCK, 2).to_bytes(2, "little") for _ in range(words))
        self.loop.run()
        return data

    def stop(self) -> bool:
        """As the VM stops; True when nothing is in flight."""
        done: list[bool] = []
        for begin in self.machine.requests.quiesce_callbacks:
            begin(lambda: done.append(True))
        return bool(done)

    def cont(self) -> None:
        for callback in self.machine.requests.resume_callbacks:
            callback()
        self.loop.run()


@pytest.fixture
def disk() -> Iterator[Disk]:
    rig = Disk()
    rig.disk.data[:] = bytes(at // 512 & 0xFF for at in range(len(rig.disk.data)))
    yield rig
    rig.unplug()


def test_everything_before_a_bad_sector_reaches_the_host(disk: Disk) -> None:
    """What is read ahead fails as a whole, and is then tried block by block."""
    readv, bad = disk.disk.readv, 3 * 512

    def failing(offset, buffers, done):
        if offset <= bad < offset + sum(map(len, buffers)):
            done(errno.EIO)
        else:
            readv(offset, buffers, done)

    disk.disk.readv = failing  # type: ignore[method-assign]
    disk.command(READ, count=8)
    for sector in range(3):
        assert disk.status & ST_DRQ
        assert disk.data_in() == bytes([sector]) * 512
    assert disk.status == ST_DRDY | ST_ERR
    assert disk.error == ABRT
    assert disk.take(COMMAND_BLOCK + 2) == 5
    assert disk.take(COMMAND_BLOCK + 3) == 3
    (event,) = disk.machine.events.of(BlockIoErrorEvent)
    assert (event.operation, event.action) == ("read", "report")
    assert disk.drive.stats.failed_rd == 1


def test_a_stopping_error_parks_the_request_and_cont_tries_again() -> None:
    disk = Disk(rerror="stop", werror="stop")
    disk.disk.fail["flush"] = errno.EIO
    disk.command(FLUSH)
    assert disk.status & ST_BSY
    assert disk.machine.requests.asked == [("io-error", None)]
    assert disk.drive.io_status == "failed"
    assert disk.stop()
    disk.disk.fail.clear()
    disk.cont()
    assert disk.status == ST_READY
    assert disk.drive.io_status == "ok"
    assert disk.machine.interrupts.levels[14]


def test_an_ignored_error_is_a_success() -> None:
    disk = Disk(werror="ignore")
    disk.disk.fail["write"] = errno.EIO
    assert disk.by_dma(WRITE_DMA) == ST_READY


def test_no_space_stops_only_with_enospc(disk: Disk) -> None:
    disk.disk.fail["write"] = errno.ENOSPC  # werror's default is enospc
    disk.by_dma(WRITE_DMA)
    assert disk.drive.io_status == "nospace"
    disk.disk.fail["write"] = errno.EIO
    disk.cont()
    assert disk.status == ST_DRDY | ST_ERR


def test_stopped_nothing_begins_until_cont(disk: Disk) -> None:
    assert disk.stop()
    disk.by_dma(READ_DMA, lba=5)
    assert not disk.disk.calls
    disk.cont()
    assert disk.status == ST_READY
    assert disk.machine.memory.read(BUFFER, 512) == b"\x05" * 512


def test_stop_waits_for_what_is_in_flight(disk: Disk) -> None:
    disk.disk.hold = True
    disk.by_dma(READ_DMA)
    assert not disk.stop()
    disk.disk.hold = False
    disk.disk.complete()
    assert disk.stop()


@pytest.mark.parametrize("how", ["machine", "software"])
def test_what_was_in_flight_at_a_reset_is_never_heard_of_again(disk: Disk, how: str) -> None:
    disk.disk.hold = True
    disk.by_dma(READ_DMA, lba=7)
    if how == "machine":
        with disk.machine.lock:
            disk.device.reset(ResetKind.COLD)
    else:
        disk.out(CONTROL, 4)
        disk.take(COMMAND_BLOCK + 7)
    disk.command(READ, lba=9)  # waits for the old one
    edges = len(disk.machine.interrupts.edges)
    disk.disk.complete()
    disk.loop.run()
    assert disk.machine.memory.read(BUFFER, 512) == bytes(512)
    assert len(disk.machine.interrupts.edges) == edges
    disk.disk.hold = False
    disk.disk.complete()
    disk.loop.run()
    assert disk.data_in() == b"\x09" * 512


def test_a_read_that_was_given_up_does_not_get_into_the_next_write(disk: Disk) -> None:
    readv = disk.disk.readv
    held = []
    disk.disk.readv = lambda *read: held.append(read)  # type: ignore[method-assign]
    disk.command(READ, lba=7, count=8)
    disk.out(CONTROL, 4)
    disk.out(CONTROL, 0)
    disk.command(WRITE, lba=100)
    for word in range(256):
        if word == 200:
            readv(*held.pop())
        disk.out(COMMAND_BLOCK, 0xEEEE, 2)
    assert disk.status == ST_READY
    assert disk.disk.data[100 * 512 : 101 * 512] == b"\xee" * 512


def test_a_write_that_was_given_up_keeps_its_data(disk: Disk) -> None:
    writev = disk.disk.writev
    held = []
    disk.disk.writev = lambda *write: held.append(write)  # type: ignore[method-assign]
    for lba in (5, 9):
        disk.out(CONTROL, 4)
        disk.out(CONTROL, 0)
        disk.command(WRITE, lba=lba)
        for _ in range(256):
            disk.out(COMMAND_BLOCK, 0x101 * lba, 2)
    while held:
        writev(*held.pop())
        disk.loop.run()
    assert disk.status == ST_READY
    for lba in (5, 9):
        assert disk.disk.data[lba * 512 : (lba + 1) * 512] == bytes([lba]) * 512


def test_a_drive_that_is_reset_lets_the_bus_master_go_for_the_other() -> None:
    channel = ide_channel(make_context())
    master, (first, second) = channel.dma, channel.units
    runs: list[tuple[str, Scatter]] = []
    master.write(0, 1, 1)
    master.request(first, lambda scatter: runs.append(("first", scatter)))
    master.request(second, lambda scatter: runs.append(("second", scatter)))
    master.cancel(first)
    assert not master.status & 1
    master.write(0, 1, 0)
    master.write(0, 1, 1)
    assert [name for name, _ in runs] == ["first", "second"]
    master.request(first, lambda scatter: runs.append(("first", scatter)))
    master.finish(runs[1][1], 0)  # descriptors are left: the engine stays active
    assert [name for name, _ in runs] == ["first", "second", "first"]


def test_without_write_cache_a_write_is_flushed_before_it_ends() -> None:
    disk = Disk(write_cache="off")
    assert disk.by_dma(WRITE_DMA) == ST_READY
    assert [call[0] for call in disk.disk.calls] == ["write", "flush"]


def test_a_medium_that_is_taken_away_fails_every_request(disk: Disk) -> None:
    disk.disk.data = bytearray()
    assert disk.drive.lost is not None
    disk.drive.lost()
    disk.command(READ)
    assert disk.status == ST_DRDY | ST_ERR


def test_rep_insw_takes_a_block_at_once(disk: Disk) -> None:
    """What the run loop asks for a string instruction."""
    disk.command(READ, lba=4, count=2)
    entry = disk.machine.pio.find(COMMAND_BLOCK)
    assert entry is not None
    assert entry.read_items is not None
    block = bytearray(1024)
    with disk.machine.lock:
        entry.read_items(0, 2, memoryview(block))
    assert block == b"\x04" * 512 + b"\x05" * 512


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ({"heads": "17", "cyls": "1", "secs": "1"}, "heads must be between 1 and 16"),
        ({"cyls": "100"}, "heads must be between 1 and 16"),
        ({"logical_block_size": "4096"}, "logical_block_size > physical_block_size not supported"),
        ({"discard_granularity": "4096"}, "discard_granularity must be 512 for ide"),
        ({"unit": "2"}, "Can't create IDE unit 2, bus supports only 2 units"),
    ],
)
def test_what_cannot_be_is_refused_in_qemus_words(properties: dict[str, str], sentence: str) -> None:
    rig = Rig("ide-hd")
    for name, text in properties.items():
        rig.device.props.set_text(name, text, "ide-hd")
    with pytest.raises(UsageError, match=sentence):
        rig.plug()


# -- geometry ----------------------------------------------------------------------------------------------------------


def table(end_head: int, end_sector: int, sectors: int = 2048) -> bytes:
    entry = (
        bytes((0x80, 0, 1, 0, 6, end_head, end_sector, 0)) + (1).to_bytes(4, "little") + sectors.to_bytes(4, "little")
    )
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


@pytest.mark.parametrize(
    ("head", "sectors", "chs", "translation"),
    [
        (bytes(512), 40960, (40, 16, 63), Translation.NONE),
        (bytes(512), 0, (2, 16, 63), Translation.NONE),
        (bytes(512), 1 << 32, (16383, 16, 63), Translation.LBA),
        (table(7, 17), 40960, (301, 8, 17), Translation.NONE),
        (table(254, 63), 1 << 21, (2080, 16, 63), Translation.LARGE),
        (table(254, 63), 1 << 24, (16383, 16, 63), Translation.LBA),
        (table(0, 17), 40960, (40, 16, 63), Translation.NONE),  # one head says nothing
        (table(7, 17)[:510] + b"\0\0", 40960, (40, 16, 63), Translation.NONE),
        (b"", 40960, (40, 16, 63), Translation.NONE),
    ],
)
def test_geometry_is_guessed_from_the_partition_table(
    head: bytes, sectors: int, chs: tuple[int, int, int], translation: Translation
) -> None:
    assert guess(head, sectors) == (Chs(*chs), translation)


def test_automatic_translation() -> None:
    assert automatic(Chs(1024, 16, 63)) is Translation.NONE
    assert automatic(Chs(1025, 16, 63)) is Translation.LBA
    assert default_chs(1 << 20) == (1040, 16, 63)

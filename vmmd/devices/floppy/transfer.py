# SPDX-License-Identifier: Apache-2.0
"""One command that moves data: from its last parameter to its result (82078 data sheet, §5.1).

    host ← chunk ← image     READ; VERIFY reads and gives nothing
    host → chunk → image     WRITE; FORMAT TRACK takes four bytes a sector and writes the fill byte
    host → chunk ↔ image     SCAN compares sector by sector

A chunk is a bounded run of sectors in a buffer of the transfer's own; requests to the drive are made for it as a whole,
so that in non-DMA mode the host reads one byte after the other without waiting in between. The host's side is the DMA
channel or the FIFO. ``cancel`` may come at any time: nothing is heard of the transfer after it.

Sectors that the format has and the image has not read as zeroes (QEMU-COMPAT: images are often not filled up), and
cannot be written. DeviceLock held.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from vmmd.devices.floppy.formats import SECTOR_BYTES
from vmmd.devices.floppy.registers import (
    SIZE_CODE_512,
    ST0_ABNORMAL,
    ST0_SEEK_END,
    ST1_DATA_ERROR,
    ST1_END_OF_CYLINDER,
    ST1_NO_ADDRESS_MARK,
    ST1_NOT_WRITABLE,
    ST2_DATA_ERROR,
    ST2_SCAN_EQUAL,
    ST2_SCAN_NOT_SATISFIED,
)
from vmmd.devices.ide.disk_io import Kind, Request, nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.devices.floppy.controller import Fdc
    from vmmd.devices.floppy.drive import FloppyDrive

#: sectors in the buffer at once; a DMA channel moves no more with one terminal count
CHUNK_SECTORS = 128
#: of one command, whatever size code it gives: both sides of the longest track that can be named
LENGTH_MAX = 2 * 255 * SECTOR_BYTES
ID_BYTES = 4  # of FORMAT TRACK: cylinder, head, sector, size code


class Job(enum.Enum):
    READ = enum.auto()
    WRITE = enum.auto()
    VERIFY = enum.auto()
    SCAN_EQUAL = enum.auto()
    SCAN_LOW = enum.auto()
    SCAN_HIGH = enum.auto()
    FORMAT = enum.auto()


_SCANS = (Job.SCAN_EQUAL, Job.SCAN_LOW, Job.SCAN_HIGH)
_WRITING = (Job.WRITE, Job.FORMAT)


class Place(NamedTuple):
    """A sector on a diskette; the guest's numbers."""

    track: int
    head: int
    sector: int


class Run(NamedTuple):
    """Neighbouring sectors of the image, and where in the buffer they belong."""

    first: int
    sectors: int
    at: int  # bytes


class Transfer:
    """``fill`` is FORMAT's byte."""

    def __init__(  # noqa: PLR0913  # a command is what it is
        self, fdc: Fdc, drive: FloppyDrive, job: Job, start: Place, length: int, *, last: int, multi: bool
    ) -> None:
        self.fdc = fdc
        self.drive = drive
        self.job = job
        self.by_dma = fdc.uses_dma
        self.fill = 0
        self._place = start
        self._last = last
        self._multi = multi
        self._left = min(length, LENGTH_MAX)  # bytes that the host is still to move
        self._seek_end = 0
        self._buffer = bytearray()
        self._position = 0  # the host's, in the buffer
        self._chunk_end = 0
        self._first = start  # of the chunk
        self._sectors: list[int] = []  # of the chunk, numbered from the image's beginning
        self._in_sector = 0  # bytes of the current sector that have gone by
        self._open = False  # the host may move
        self._ended = False  # no further chunk: terminal count, or the last sector
        self._signalled = False

    # -- begin -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check (§6) and begin."""
        drive, place, form = self.drive, self._place, self.drive.format
        if not drive.reaches(place.track, place.head):
            self.fail()
        elif place.sector > form.sectors:
            self.fail(ST0_ABNORMAL, ST1_END_OF_CYLINDER)
        elif not drive.inserted:
            self._stand_at(place)  # QEMU-COMPAT: the head moves all the same
            self.fail()
        else:
            self._begin_at(place)

    def _begin_at(self, place: Place) -> None:
        if place.track != self.drive.track:
            self._seek_end = ST0_SEEK_END
        self._stand_at(place)
        if self.drive.format.rate != self.fdc.rate or self._left < 0:
            self.fail(ST0_ABNORMAL | self._seek_end, ST1_NO_ADDRESS_MARK)
        elif self.job in _WRITING and self.drive.write_protected:
            self.fail(ST0_ABNORMAL | ST0_SEEK_END, ST1_NOT_WRITABLE)
        else:
            if self.by_dma and self.job is not Job.VERIFY:
                self.fdc.dma.begin()
            self._next_chunk()

    def _stand_at(self, place: Place) -> None:
        self.drive.step(place.track)
        self.drive.head, self.drive.sector = place.head, place.sector
        self._place = place

    # -- chunks ----------------------------------------------------------------------------------------------

    def _next_chunk(self) -> None:
        if not self._left:
            self._succeed()
            return
        most = CHUNK_SECTORS if self.job not in _SCANS else 1
        length = min(self._left, most * SECTOR_BYTES)
        if self.by_dma and self.job is Job.READ:
            length = min(length, self.fdc.dma.remaining_bytes)
        self._first = self._place
        self._sectors = self._walk(-(-length // SECTOR_BYTES))
        self._chunk_end = length if self.job is Job.FORMAT else min(length, len(self._sectors) * SECTOR_BYTES)
        self._buffer = bytearray(-(-length // SECTOR_BYTES) * SECTOR_BYTES)
        self._position = 0
        if self.job in (Job.READ, Job.VERIFY):
            self._read_runs(self._runs(len(self._buffer)), self._buffer, self._loaded)
        else:
            self._open_to_host()

    def _walk(self, most: int) -> list[int]:
        """Numbers of the sectors from here on, up to where the command ends by itself."""
        place, goes_on = self._place, True
        sectors: list[int] = []
        while goes_on and len(sectors) < most:
            sectors.append(self._number(place))
            place, goes_on = self._after(place)
        return sectors

    def _runs(self, length: int) -> list[Run]:
        """Where the buffer's first ``length`` bytes are in the image."""
        return _grouped(self._sectors[: -(-length // SECTOR_BYTES)], self.drive.image_sectors)

    def _number(self, place: Place) -> int:
        form = self.drive.format
        return (place.track * form.heads + place.head) * form.sectors + place.sector - 1

    def _after(self, place: Place) -> tuple[Place, bool]:
        """The next sector, and whether the command goes on there (table 5-3)."""
        track, head, sector = place
        if sector < self.drive.format.sectors and sector != self._last:
            return Place(track, head, sector + 1), True
        if not self._multi:
            return Place(track + 1, head, 1), False
        if head == 0 and self.drive.format.heads > 1:
            return Place(track, 1, 1), True
        after = Place(track + 1, 0, 1)
        return after, self.drive.reaches(*after[:2]) and self.drive.format.heads > 1

    def _read_runs(self, runs: list[Run], into: bytearray, then: Callable[[], None]) -> None:
        """Read one run after the other, then ``then()``."""
        if not runs:
            then()
            return
        run, *rest = runs

        def done(error: int) -> None:
            if error:
                self.fail(ST0_ABNORMAL, ST1_DATA_ERROR, ST2_DATA_ERROR)
            else:
                self._read_runs(rest, into, then)

        self._submit(Kind.READ, run, into, done)

    def _write_runs(self, runs: list[Run], then: Callable[[], None]) -> None:
        if not runs:
            then()
            return
        run, *rest = runs

        def done(error: int) -> None:
            if error:
                self.fail(ST0_ABNORMAL | ST0_SEEK_END)
            else:
                self._write_runs(rest, then)

        self._submit(Kind.WRITE, run, self._buffer, done)

    def _submit(self, kind: Kind, run: Run, data: bytearray, done: Callable[[int], None]) -> None:
        assert self.drive.io is not None  # a drive that is none has no format
        view = memoryview(data)[run.at : run.at + run.sectors * SECTOR_BYTES]
        self.drive.io.submit(Request(kind, run.first * SECTOR_BYTES, view, done))

    # -- from and to the host --------------------------------------------------------------------------------

    def _loaded(self) -> None:
        if self.job is Job.VERIFY:
            self._passed(self._chunk_end)
            self._chunk_done()
        else:
            self._open_to_host()

    def _open_to_host(self) -> None:
        self._open = True
        if self.by_dma:
            self.go_on()
        elif not self._signalled:
            self._signalled = True
            self.fdc.signal_data()

    def go_on(self) -> None:
        """The DMA channel may be ready: move what it takes."""
        channel = self.fdc.dma
        if not self._open or not channel.ready:
            return
        wanted = self._chunk_end - self._position
        view = memoryview(self._buffer)
        if self.job is Job.READ:
            moved = channel.store(view[self._position : self._chunk_end])
        else:
            data = channel.fetch(wanted)
            moved = len(data)
            view[self._position : self._position + moved] = data
        view.release()
        terminal = channel.remaining_bytes <= 0
        self._passed(moved)
        if terminal:
            self._ended = True
        if terminal or self._ended or self._position >= self._chunk_end:
            self._chunk_done()

    @property
    def gives_byte(self) -> bool:
        """Non-DMA mode: a byte can be read from the FIFO."""
        return self._open and self.job is Job.READ and not self.by_dma

    @property
    def takes_byte(self) -> bool:
        """Non-DMA mode: a byte can be written to the FIFO."""
        return self._open and self.job is not Job.READ and not self.by_dma

    def give_byte(self) -> int:
        value = self._buffer[self._position]
        self._byte_moved()
        return value

    def take_byte(self, value: int) -> None:
        self._buffer[self._position] = value
        self._byte_moved()

    def _byte_moved(self) -> None:
        self._passed(1)
        if self._ended or self._position >= self._chunk_end:
            self._chunk_done()

    def _passed(self, length: int) -> None:
        """So many bytes have gone by: the head follows. QEMU-COMPAT: without DMA it stays at the last sector."""
        self._position += length
        self._left -= length
        if self.job is Job.FORMAT:
            return
        self._in_sector += length
        while self._in_sector >= SECTOR_BYTES and not self._ended:
            if not self._left and not self.by_dma and self.job is not Job.VERIFY:
                return
            self._in_sector -= SECTOR_BYTES
            after, goes_on = self._after(self._place)
            self._ended = not goes_on
            if after.track != self._place.track:
                self._seek_end = ST0_SEEK_END
            self._stand_at(after)

    def _chunk_done(self) -> None:
        """The host has moved all of the chunk that it is going to."""
        self._open = False
        if self.job is Job.WRITE:
            self._write_back()
        elif self.job is Job.FORMAT:
            self._format_back()
        elif self.job in _SCANS:
            self._fetch_medium()
        else:
            self._after_chunk()

    def _after_chunk(self) -> None:
        if self._ended:
            self._succeed()
        else:
            self._next_chunk()

    # -- what is done with what the host gave ----------------------------------------------------------------

    def _write_back(self) -> None:
        """A sector that was not given completely keeps its rest."""
        whole, rest = divmod(self._position, SECTOR_BYTES)
        runs = self._runs(self._position)
        if sum(run.sectors for run in runs) < whole + bool(rest):
            self.fail(ST0_ABNORMAL | ST0_SEEK_END)  # beyond the image's end
        elif rest:
            old = bytearray(len(self._buffer))
            self._read_runs(runs[-1:], old, lambda: self._complete(runs, old))
        else:
            self._write_runs(runs, self._after_chunk)

    def _complete(self, runs: list[Run], old: bytearray) -> None:
        self._buffer[self._position :] = old[self._position :]
        self._write_runs(runs, self._after_chunk)

    def _format_back(self) -> None:
        """The sectors that were named, of this track (§5.1.7), get the fill byte."""
        place, form = self._first, self.drive.format
        ids = bytes(self._buffer[: self._position])
        numbers = {
            self._number(Place(place.track, place.head, sector))
            for track, head, sector, _ in zip(*(ids[at::ID_BYTES] for at in range(ID_BYTES)), strict=False)
            if (track, head) == place[:2] and 1 <= sector <= form.sectors
        }
        runs = _grouped(sorted(numbers), self.drive.image_sectors)
        self._buffer = bytearray((self.fill,)) * (len(numbers) * SECTOR_BYTES)
        self._write_runs(runs, self._after_chunk)

    def _fetch_medium(self) -> None:
        """The sector that the host's is compared with. One a turn of the loop, also where the image has none."""
        assert self.drive.io is not None  # a drive that is none has no format
        medium = bytearray(len(self._buffer))
        runs = self._runs(len(medium))
        if runs:
            self._read_runs(runs, medium, lambda: self._compare(bytes(medium)))
        else:
            self.drive.io.submit(nothing(lambda _: self._compare(bytes(medium))))

    def _compare(self, medium: bytes) -> None:
        """§5.1.6: by bytes, of which FFh from the host fits any."""
        host = bytes(self._buffer[: self._position])
        pairs = [(given, found) for given, found in zip(host, medium, strict=False) if given != 0xFF]
        low = all(found <= given for given, found in pairs)
        high = all(found >= given for given, found in pairs)
        fits = (self.job is Job.SCAN_LOW and low) or (self.job is Job.SCAN_HIGH and high)
        equal = all(given == found for given, found in pairs)
        if equal or fits:
            self._stand_at(self._first)
            self._succeed(ST2_SCAN_EQUAL if equal else 0)
        elif self._ended or not self._left:
            self._succeed(ST2_SCAN_NOT_SATISFIED)
        else:
            self._next_chunk()

    # -- end -------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Nothing more of it."""
        self._open = False
        if self.drive.io is not None:
            self.drive.io.cancel()

    def _succeed(self, status2: int = 0) -> None:
        self._open = False
        self._end(self._seek_end, 0, status2, (self.drive.track, self.drive.head, self.drive.sector))

    def fail(self, status0: int = ST0_ABNORMAL, status1: int = 0, status2: int = 0) -> None:
        self._open = False
        self._end(status0, status1, status2, self._place)

    def _end(self, status0: int, status1: int, status2: int, place: Iterable[int]) -> None:
        self.fdc.finish((self.fdc.status0(status0), status1, status2, *place, SIZE_CODE_512))


def _grouped(sectors: list[int], image_sectors: int) -> list[Run]:
    """Neighbours together; what the image does not have is left out."""
    runs: list[Run] = []
    for index, number in enumerate(sectors):
        if not 0 <= number < image_sectors:
            continue
        at = index * SECTOR_BYTES
        last = runs[-1] if runs else None
        if last is not None and (number - last.first) * SECTOR_BYTES == at - last.at == last.sectors * SECTOR_BYTES:
            runs[-1] = last._replace(sectors=last.sectors + 1)
        else:
            runs.append(Run(number, 1, at))
    return runs

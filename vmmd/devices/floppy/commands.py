# SPDX-License-Identifier: Apache-2.0
"""What the controller's commands do (82078 data sheet, chapter 5). Each handler gets the command's bytes, complete.

Those that move data make a ``Transfer``. DeviceLock held; parameters are the guest's and any byte.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmmd.devices.floppy.formats import SECTOR_BYTES
from vmmd.devices.floppy.registers import (
    COMMAND_MULTI_TRACK,
    LOCK_BIT,
    PARAMETER_HEAD,
    PART_82078,
    PERPENDICULAR_OVERWRITE,
    SIZE_CODE_512,
    SPECIFY_NON_DMA,
    ST0_ABNORMAL,
    ST0_INVALID,
    ST0_SEEK_END,
    ST1_NO_ADDRESS_MARK,
    ST3_FIXED,
    ST3_TRACK_0,
    ST3_WRITE_PROTECTED,
    VERIFY_COUNTS,
    VERSION_82077,
    Phase,
)
from vmmd.devices.floppy.transfer import Job, Place, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.floppy.controller import Fdc
    from vmmd.devices.floppy.registers import Command

NANOSECONDS = 1_000_000_000
ID_NS = NANOSECONDS // 50  # QEMU-COMPAT: until the next address mark passes

# DRIVE SPECIFICATION (§5.2.15)
SPECIFICATION_DONE = 0x80
SPECIFICATION_NO_RESULT = 0x40
SPECIFICATION_DRIVE_SHIFT = 5

#: of a size code above, bytes would be more than any sector has
SIZE_CODE_MAX = 7


def is_complete(command: Command, collected: bytearray) -> bool:
    """A command that ends before its last parameter."""
    return command.name == "drive_specification" and len(collected) > 1 and bool(collected[-1] & SPECIFICATION_DONE)


# -- data ------------------------------------------------------------------------------------------------------


def _length(data: bytes, multi_track: bool) -> int:
    """Bytes from the first sector to the end of the track, or of the cylinder (tables 5-4 to 5-6); below 0 when the
    last sector comes before the first."""
    _, _, _, _, sector, code, last, _, short = data
    if code == 0:
        return short
    sectors = last - sector + 1
    if sectors >= 0 and multi_track:
        sectors += last
    return sectors * (128 << min(code, SIZE_CODE_MAX))


def _move(fdc: Fdc, data: bytes, job: Job) -> None:
    """READ, WRITE, VERIFY and SCAN."""
    multi_track = bool(data[0] & COMMAND_MULTI_TRACK)
    drive = fdc.select(data[1])
    length = _length(data, multi_track)
    if job is Job.VERIFY and data[1] & VERIFY_COUNTS:
        length = data[8] * SECTOR_BYTES
    fdc.end_of_track = None
    fdc.start(Transfer(fdc, drive, job, Place(data[2], data[3], data[4]), length, last=data[6], multi=multi_track))


def _format(fdc: Fdc, data: bytes) -> None:
    """FORMAT TRACK (§5.1.7): four bytes from the host for each sector."""
    drive = fdc.select(data[1])
    head = int(bool(data[1] & PARAMETER_HEAD))
    fdc.end_of_track = data[3]
    transfer = Transfer(fdc, drive, Job.FORMAT, Place(drive.track, head, 1), 4 * data[3], last=data[3], multi=False)
    transfer.fill = data[5]
    fdc.start(transfer)


def _deleted(fdc: Fdc, data: bytes) -> None:
    """An image has no deleted data marks, so no such sector is found."""
    drive = fdc.select(data[1])
    status = fdc.status0(ST0_ABNORMAL | ST0_SEEK_END)
    fdc.finish((status, 0, 0, drive.track, drive.head, drive.sector, SIZE_CODE_512))


# -- the head --------------------------------------------------------------------------------------------------


def _recalibrate(fdc: Fdc, data: bytes) -> None:
    fdc.select(data[1]).recalibrate()
    fdc.interrupt(ST0_SEEK_END)


def _seek(fdc: Fdc, data: bytes) -> None:
    """QEMU-COMPAT: to where the head cannot go it does not, and nobody hears of it."""
    drive = fdc.select(data[1])
    if data[2] <= drive.format.tracks:
        drive.step(data[2])
    fdc.interrupt(ST0_SEEK_END)


def _relative_seek(direction: int, fdc: Fdc, data: bytes) -> None:
    drive = fdc.select(data[1])
    drive.step(max(0, min(drive.track + direction * data[2], drive.format.tracks - 1)))
    fdc.interrupt(ST0_SEEK_END)


def _read_id(fdc: Fdc, data: bytes) -> None:
    """QEMU-COMPAT: of the drive that is selected already, and also without a diskette."""
    fdc.drive.head = int(bool(data[1] & PARAMETER_HEAD))
    fdc.phase = Phase.EXECUTION
    fdc.id_timer.arm(fdc.clock.now_ns() + ID_NS)


def id_found(fdc: Fdc) -> None:
    """The next sector passes the head."""
    drive = fdc.drive
    if drive.format.sectors:
        drive.sector = drive.sector % drive.format.sectors + 1
    wrong_rate = drive.format.sectors and drive.inserted and drive.format.rate != fdc.rate
    status, error = (ST0_ABNORMAL, ST1_NO_ADDRESS_MARK) if wrong_rate else (0, 0)
    fdc.finish((fdc.status0(status), error, 0, drive.track, drive.head, drive.sector, SIZE_CODE_512))


# -- status ----------------------------------------------------------------------------------------------------


def _sense_interrupt(fdc: Fdc, data: bytes) -> None:
    status = fdc.take_interrupt()
    fdc.answer((ST0_INVALID,) if status is None else (status, fdc.drive.track))


def _sense_drive(fdc: Fdc, data: bytes) -> None:
    drive = fdc.select(data[1])
    drive.head = int(bool(data[1] & PARAMETER_HEAD))
    status = ST3_FIXED | (ST3_TRACK_0 if drive.track == 0 else 0)
    status |= ST3_WRITE_PROTECTED if drive.write_protected else 0
    fdc.answer((fdc.status0(status),))


def _version(fdc: Fdc, data: bytes) -> None:
    fdc.answer((VERSION_82077,))


def _part_id(fdc: Fdc, data: bytes) -> None:
    fdc.answer((PART_82078,))


def _lock_and_perpendicular(fdc: Fdc) -> int:
    return (LOCK_BIT if fdc.locked else 0) | fdc.drive.perpendicular << 2


def _end_of_track(fdc: Fdc) -> int:
    return fdc.drive.format.sectors if fdc.end_of_track is None else fdc.end_of_track


def _dump_registers(fdc: Fdc, data: bytes) -> None:
    tracks = [drive.track for drive in fdc.numbered]
    load = fdc.head_load << 1 | fdc.uses_dma
    tail = (_end_of_track(fdc), _lock_and_perpendicular(fdc), fdc.config, fdc.precompensation_track)
    fdc.answer((*tracks, 0, 0, fdc.step_rate, load, *tail))


def _invalid(fdc: Fdc, data: bytes) -> None:
    fdc.answer((ST0_INVALID,))


# -- settings --------------------------------------------------------------------------------------------------


def _specify(fdc: Fdc, data: bytes) -> None:
    fdc.step_rate = data[1] >> 4
    fdc.head_load = data[2] >> 1
    fdc.set_uses_dma(not data[2] & SPECIFY_NON_DMA)
    _no_result(fdc, data)


def _configure(fdc: Fdc, data: bytes) -> None:
    fdc.config = data[2]
    fdc.precompensation_track = data[3]


def _perpendicular(fdc: Fdc, data: bytes) -> None:
    """QEMU-COMPAT: with OW set, the three low bits are kept."""
    if data[1] & PERPENDICULAR_OVERWRITE:
        fdc.drive.perpendicular = data[1] & 7


def _lock(fdc: Fdc, data: bytes) -> None:
    fdc.locked = bool(data[0] & LOCK_BIT)
    fdc.answer((fdc.locked << 4,))


def _power_down(fdc: Fdc, data: bytes) -> None:
    fdc.power_mode = data[1]
    fdc.answer((fdc.power_mode,))


def _drive_specification(fdc: Fdc, data: bytes) -> None:
    """§5.2.15: up to four drives, then the byte that ends the command."""
    for each in data[1:]:
        if not each & SPECIFICATION_DONE:
            fdc.specifications[each >> SPECIFICATION_DRIVE_SHIFT & 3] = each & 0x1F
    if data[-1] & SPECIFICATION_DONE and not data[-1] & SPECIFICATION_NO_RESULT:
        fdc.answer(fdc.specifications)


def _save(fdc: Fdc, data: bytes) -> None:
    tracks = [drive.track for drive in fdc.numbered]
    tail = (_end_of_track(fdc), _lock_and_perpendicular(fdc), fdc.config, fdc.precompensation_track, fdc.power_mode)
    fdc.answer((0, 0, *tracks, 0, 0, fdc.step_rate, fdc.head_load, *tail, 0, 0))


def _restore(fdc: Fdc, data: bytes) -> None:
    for drive, track in zip(fdc.numbered, data[3:5], strict=True):
        drive.track = track
    fdc.step_rate, fdc.head_load, fdc.end_of_track = data[7:10]
    fdc.locked = bool(data[10] & LOCK_BIT)
    fdc.drive.perpendicular = data[10] >> 2 & 0xF
    fdc.config, fdc.precompensation_track, fdc.power_mode = data[11:14]


def _no_result(fdc: Fdc, data: bytes) -> None:
    """Nothing to do, nothing to say."""


HANDLERS: dict[str, Callable[[Fdc, bytes], None]] = {
    "read": partial(_move, job=Job.READ),
    "write": partial(_move, job=Job.WRITE),
    "verify": partial(_move, job=Job.VERIFY),
    "scan_equal": partial(_move, job=Job.SCAN_EQUAL),
    "scan_low": partial(_move, job=Job.SCAN_LOW),
    "scan_high": partial(_move, job=Job.SCAN_HIGH),
    "format": _format,
    "deleted": _deleted,
    "seek": _seek,
    "recalibrate": _recalibrate,
    "relative_seek_out": partial(_relative_seek, -1),
    "relative_seek_in": partial(_relative_seek, 1),
    "read_id": _read_id,
    "sense_interrupt": _sense_interrupt,
    "sense_drive": _sense_drive,
    "version": _version,
    "part_id": _part_id,
    "dump_registers": _dump_registers,
    "specify": _specify,
    "configure": _configure,
    "perpendicular": _perpendicular,
    "lock": _lock,
    "power_down": _power_down,
    "option": _no_result,
    "drive_specification": _drive_specification,
    "save": _save,
    "restore": _restore,
    "format_and_write": _invalid,
    "invalid": _invalid,
}

# SPDX-License-Identifier: Apache-2.0
"""Formats of diskettes and kinds of drives: an image tells its format by its size alone.

Sectors have 512 bytes. The formats are those that PC operating systems have used, as a table of what fits which drive;
QEMU-COMPAT: exactly those that QEMU 7.2 knows by size, found out by trying all sizes. A drive that gets an image of
any other size reads it as the drive's usual format.
"""

from __future__ import annotations

from typing import NamedTuple

SECTOR_BYTES = 512

#: data rates in the data rate select register (82078 data sheet, table 2-4)
RATE_500K, RATE_300K, RATE_250K, RATE_1M = range(4)


class Format(NamedTuple):
    """Geometry and data rate of a diskette."""

    sectors: int  # per track
    tracks: int
    heads: int
    rate: int

    @property
    def total_sectors(self) -> int:
        return self.sectors * self.tracks * self.heads


class DriveKind(NamedTuple):
    """A kind of drive. ``cmos`` is its number in CMOS RAM and for INT 13h."""

    cmos: int
    is_5_inch: bool
    usual: Format | None


_3_INCH_144 = tuple(
    Format(sectors, tracks, 2, RATE_500K)
    for sectors, tracks in ((18, 80), (20, 80), (21, 80), (21, 82), (21, 83), (22, 80), (23, 80), (24, 80))
)
_3_INCH_288 = tuple(Format(sectors, 80, 2, RATE_1M) for sectors in (36, 39, 40, 44, 48))
_3_INCH_720 = tuple(
    Format(sectors, tracks, 2, RATE_250K)
    for sectors, tracks in ((9, 80), (10, 80), (10, 82), (10, 83), (13, 80), (14, 80))
)
_3_INCH_360 = (Format(9, 80, 1, RATE_250K),)
_5_INCH = (
    *(Format(sectors, tracks, 2, RATE_500K) for sectors, tracks in ((15, 80), (18, 80), (18, 82), (18, 83), (20, 80))),
    *(Format(sectors, 80, 2, RATE_250K) for sectors in (9, 11)),
    *(
        Format(sectors, tracks, heads, RATE_300K)
        for sectors, tracks, heads in ((9, 40, 2), (9, 40, 1), (10, 41, 2), (10, 42, 2))
    ),
    Format(8, 40, 2, RATE_250K),
    Format(8, 40, 1, RATE_250K),
)

#: values of ``drive-type``; "auto" is decided when the drive is plugged
KINDS = {
    "144": DriveKind(4, False, _3_INCH_144[0]),
    "288": DriveKind(5, False, _3_INCH_288[0]),
    "120": DriveKind(2, True, _5_INCH[0]),
    "none": DriveKind(0, False, None),
}
#: a format decides for a kind, when the drive may choose; where a size is in two groups the first one counts
_BY_KIND = (("144", _3_INCH_144), ("288", _3_INCH_288), ("144", _3_INCH_720), ("120", _5_INCH))
_GROUPS = {False: (*_3_INCH_144, *_3_INCH_288, *_3_INCH_720, *_3_INCH_360), True: _5_INCH}


def largest(kind: str) -> Format:
    """The most tracks and sectors that diskettes for a kind of drive have: what firmware tells of the drive."""
    formats = [each for of_kind, group in _BY_KIND if of_kind == kind for each in group]
    return Format(max(each.sectors for each in formats), max(each.tracks for each in formats), 2, formats[0].rate)


def kind_for(size_bytes: int) -> str | None:
    """The kind of drive that an image of this size belongs into; None when no format has the size."""
    for kind, formats in _BY_KIND:
        if any(each.total_sectors * SECTOR_BYTES == size_bytes for each in formats):
            return kind
    return None


def format_for(kind: str, size_bytes: int) -> Format | None:
    """What a drive takes an image of this size for; None in a drive that is none."""
    drive = KINDS[kind]
    if drive.usual is None:
        return None
    for each in _GROUPS[drive.is_5_inch]:
        if each.total_sectors * SECTOR_BYTES == size_bytes:
            return each
    return drive.usual

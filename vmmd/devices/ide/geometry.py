# SPDX-License-Identifier: Apache-2.0
"""Cylinders, heads and sectors of a disk, and how PC firmware is to translate them.

A partition table says with which geometry it was made: its entries end on cylinder boundaries. A disk without one gets
16 heads and 63 sectors a track. Firmware reads the translation from CMOS (Ralf Brown's CMOS list, 39h).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

SECTORS_MAX, HEADS_MAX = 63, 16
CYLINDERS_MAX = 16383
_LARGE_UNTIL = 131072  # cylinders × heads: what bit shifting can translate to 1024 cylinders
_TABLE_OFFSET, _ENTRY_BYTES, _ENTRIES = 0x1BE, 16, 4
_SIGNATURE = b"\x55\xaa"


class Chs(NamedTuple):
    cylinders: int
    heads: int
    sectors: int


class Translation(enum.IntEnum):
    """What firmware does; the numbers are those of CMOS 39h, and AUTO leaves the choice to vmmd."""

    NONE = 0
    LBA = 1
    LARGE = 2
    RECHS = 3
    AUTO = 4


def default_chs(sectors: int) -> Chs:
    """16 heads, 63 sectors a track, and as many cylinders as fit."""
    cylinders = min(max(sectors // (HEADS_MAX * SECTORS_MAX), 2), CYLINDERS_MAX)
    return Chs(cylinders, HEADS_MAX, SECTORS_MAX)


def automatic(chs: Chs) -> Translation:
    """The translation for a disk that nobody says anything about."""
    fits = chs.cylinders <= 1024 and chs.heads <= HEADS_MAX and chs.sectors <= SECTORS_MAX
    return Translation.NONE if fits else Translation.LBA


def of_partitions(head: bytes, sectors: int) -> Chs | None:
    """The geometry that the partition table in the first sector was made with."""
    if len(head) < 512 or head[510:512] != _SIGNATURE:
        return None
    for index in range(_ENTRIES):
        entry = head[_TABLE_OFFSET + index * _ENTRY_BYTES :][:_ENTRY_BYTES]
        end_head, end_sector = entry[5], entry[6] & 0x3F
        if not (int.from_bytes(entry[12:16], "little") and end_head and end_sector):
            continue
        cylinders = sectors // ((end_head + 1) * end_sector)
        if 1 <= cylinders <= CYLINDERS_MAX:
            return Chs(cylinders, end_head + 1, end_sector)
    return None


def guess(head: bytes, sectors: int) -> tuple[Chs, Translation]:
    """Geometry and translation of a disk whose first sector is ``head``."""
    found = of_partitions(head, sectors)
    standard = default_chs(sectors)
    if found is None:
        return standard, automatic(standard)
    if found.heads > HEADS_MAX:  # what was used is a translated geometry
        whole = standard.cylinders * standard.heads
        return standard, Translation.LARGE if whole <= _LARGE_UNTIL else Translation.LBA
    return found, Translation.NONE

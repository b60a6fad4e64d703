# SPDX-License-Identifier: Apache-2.0
"""A small writer of CD images: ISO 9660 (ECMA-119) with files in the root directory, bootable by El Torito 1.0.

The same bytes on every build. ``boot``: what firmware loads; 2048 bytes without emulation, or a floppy image.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTOR = 2048
SYSTEM_SECTORS = 16
PVD, BOOT_RECORD, TERMINATOR, CATALOG, PATH_TABLE, ROOT, FIRST_FREE = range(SYSTEM_SECTORS, SYSTEM_SECTORS + 7)
BOOT_SECTOR_BYTES = 512
EMULATIONS = {0: 0, 1_228_800: 1, 1_474_560: 2, 2_949_120: 3}  # size of a floppy image -> boot media type
LEVEL_2_DATE = bytes([100, 1, 1, 0, 0, 0, 0])  # 2000-01-01
NO_DATE = b"0" * 16 + b"\0"
DIRECTORY = 2


class Extent(NamedTuple):
    """Where something is."""

    sector: int
    size: int


def both16(value: int) -> bytes:
    """Both byte orders (ECMA-119 7.2.3)."""
    return struct.pack("<H", value) + struct.pack(">H", value)


def both32(value: int) -> bytes:
    """Both byte orders (7.3.3)."""
    return struct.pack("<I", value) + struct.pack(">I", value)


def image(files: Mapping[str, bytes], boot: bytes = b"", *, sectors: int = 0) -> bytes:
    """A whole image of at least ``sectors``. Names are 8.3 in upper case."""
    body = bytearray(SECTOR * FIRST_FREE)
    places: dict[str, Extent] = {}
    for name, data in {"": boot, **files}.items():
        places[name] = Extent(len(body) // SECTOR, len(data))
        body += data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
    body += bytes(max(0, sectors * SECTOR - len(body)))
    _put(body, PVD, _volume_descriptor(len(body) // SECTOR))
    if boot:
        _put(body, BOOT_RECORD, _boot_record())
        _put(body, CATALOG, _catalog(places[""]))
    else:
        _put(body, BOOT_RECORD, _terminator())
    _put(body, TERMINATOR, _terminator())
    _put(body, PATH_TABLE, struct.pack("<BBIH", 1, 0, ROOT, 1) + b"\0\0")
    del places[""]
    _put(body, ROOT, _directory(places))
    return bytes(body)


def _put(body: bytearray, sector: int, data: bytes) -> None:
    assert len(data) <= SECTOR
    body[sector * SECTOR : sector * SECTOR + len(data)] = data


def _record(name: bytes, extent: Extent, flags: int) -> bytes:
    """A directory record (9.1)."""
    padding = b"\0" if len(name) % 2 == 0 else b""
    rest = both32(extent.sector) + both32(extent.size) + LEVEL_2_DATE + bytes([flags, 0, 0]) + both16(1)
    rest += bytes([len(name)]) + name + padding
    return bytes([len(rest) + 2, 0]) + rest


def _directory(places: Mapping[str, Extent]) -> bytes:
    here = Extent(ROOT, SECTOR)
    records = [_record(b"\0", here, DIRECTORY), _record(b"\1", here, DIRECTORY)]
    records += [_record(f"{name};1".encode("ascii"), extent, 0) for name, extent in sorted(places.items())]
    return b"".join(records)


def _volume_descriptor(sectors: int) -> bytes:
    """The primary one (8.4)."""
    fields = [
        b"\1CD001\1\0", b" " * 32, b"VMMD_TEST".ljust(32), bytes(8), both32(sectors), bytes(32), both16(1), both16(1),
        both16(SECTOR), both32(10), struct.pack("<II", PATH_TABLE, 0), struct.pack(">II", 0, 0),
        _record(b"\0", Extent(ROOT, SECTOR), DIRECTORY), b" " * 128, b" " * 128 * 3, b" " * 37 * 3, NO_DATE * 4, b"\1",
    ]  # fmt: skip
    return b"".join(fields)


def _terminator() -> bytes:
    return b"\xffCD001\1"


def _boot_record() -> bytes:
    """El Torito 2.0."""
    return b"\0CD001\1" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", CATALOG)


def _catalog(boot: Extent) -> bytes:
    """El Torito 2.1, 2.2: validation and the default entry."""
    entry = bytearray(struct.pack("<BBH24sHBB", 1, 0, 0, b"vmmd", 0, 0x55, 0xAA))
    words = struct.unpack("<16H", entry)
    struct.pack_into("<H", entry, 28, -sum(words) & 0xFFFF)
    emulation = EMULATIONS.get(boot.size, 0)
    count = 1 if emulation else -(-boot.size // BOOT_SECTOR_BYTES)
    return bytes(entry) + struct.pack("<BBHBBHI20s", 0x88, emulation, 0, 0, 0, count, boot.sector, b"")

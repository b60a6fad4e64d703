# SPDX-License-Identifier: Apache-2.0
"""IDENTIFY DEVICE: the words by which an ATA disk says what it is (ATA/ATAPI-6 §8.15.8, later ones ATA8-ACS §7.12).

Words that have no line here are zero. What a word says is what the disk does; numbers that are free to choose are
QEMU's, so that a guest sees the same disk.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmmd.devices.ide.geometry import Chs

MULTIPLE_MAX = 16  # sectors of a block of READ/WRITE MULTIPLE
LBA28_SECTORS_MAX = 0x0FFF_FFFF
_CYCLES_NS = 120  # shortest cycle of PIO and multiword DMA

#: transfer modes: the word of IDENTIFY that says which is chosen, by SET FEATURES' upper five bits
MODE_WORDS = {2: 62, 4: 63, 8: 88}


class DiskIdentity(NamedTuple):
    """What does not change about a disk."""

    serial: str
    version: str
    model: str
    geometry: Chs
    physical_exponent: int  # physical block = 2**n logical ones
    wwn: int
    rotation_rate: int


class DiskState(NamedTuple):
    """What may change: the size, and what the host has set."""

    sectors: int
    geometry: Chs  # the translation in use
    multiple: int  # sectors of a block; 0: off
    write_cache: bool
    smart: bool
    modes: dict[int, int]  # by word: bit of the chosen transfer mode, in the upper byte


def identify(disk: DiskIdentity, state: DiskState) -> bytes:
    """The data of IDENTIFY DEVICE."""
    words = [0] * 256
    _put_geometry(words, disk, state)
    _put_text(words, 10, 10, disk.serial)
    _put_text(words, 23, 4, disk.version)
    _put_text(words, 27, 20, disk.model)
    words[20], words[21], words[22] = 3, 512, 4  # dual-ported cache of 512 sectors; bytes of READ LONG: obsolete
    words[47] = 0x8000 | MULTIPLE_MAX
    words[48] = 1  # 32-bit accesses to the data port
    words[49] = 0x0B00  # IORDY, LBA, DMA
    words[51] = words[52] = 0x0200  # PIO and DMA timing modes: obsolete
    words[53] = 0x0007  # words 54-58, 64-70 and 88 are valid
    words[59] = 0x0100 | state.multiple
    words[62] = words[63] = 0x0007  # single-word and multiword DMA 0-2
    words[64] = 0x0003  # PIO 3, 4
    words[65:69] = [_CYCLES_NS] * 4
    words[69] = 0x4000  # reads of trimmed sectors always give the same
    words[80], words[81] = 0x00F0, 0x0016  # ATA/ATAPI-4 to -7; revision
    _put_features(words, disk, state)
    words[88] = 0x003F  # Ultra DMA 0-5
    for word, bit in state.modes.items():
        words[word] |= bit
    words[93] = 0x6001  # hardware reset: passed
    words[106] = 0x6000 | disk.physical_exponent
    words[108:112] = struct.unpack(">4H", disk.wwn.to_bytes(8, "big"))
    words[169] = 1  # TRIM
    words[217] = disk.rotation_rate
    return struct.pack("<256H", *words)


def _put_geometry(words: list[int], disk: DiskIdentity, state: DiskState) -> None:
    cylinders, heads, sectors = disk.geometry
    words[0] = 0x0040  # a fixed disk
    words[1], words[3] = cylinders & 0xFFFF, heads
    words[4], words[5], words[6] = 512 * sectors & 0xFFFF, 512, sectors  # bytes of a track, of a sector
    now = state.geometry
    words[54], words[55], words[56] = now.cylinders & 0xFFFF, now.heads, now.sectors
    _put_number(words, 57, 2, now.cylinders * now.heads * now.sectors & 0xFFFF_FFFF)
    _put_number(words, 60, 2, min(state.sectors, LBA28_SECTORS_MAX))
    _put_number(words, 100, 4, state.sectors)


def _put_features(words: list[int], disk: DiskIdentity, state: DiskState) -> None:
    named = 0x0100 if disk.wwn else 0
    words[82] = 0x4021  # NOP, write cache, SMART
    words[83] = 0x7400  # FLUSH CACHE, FLUSH CACHE EXT, LBA48
    words[84] = words[87] = 0x4000 | named
    words[85] = 0x4000 | (0x20 if state.write_cache else 0) | (1 if state.smart else 0)
    words[86] = 0x3400


def _put_number(words: list[int], first: int, count: int, value: int) -> None:
    for index in range(count):
        words[first + index] = value >> 16 * index & 0xFFFF


def _put_text(words: list[int], first: int, count: int, text: str) -> None:
    """ATA strings: two characters a word, the first in the upper byte, filled up with blanks."""
    raw = text.encode("utf-8", "surrogateescape")[: 2 * count].ljust(2 * count)
    words[first : first + count] = struct.unpack(f">{count}H", raw)

# SPDX-License-Identifier: Apache-2.0
"""The guest's memory map as firmware hands it on: E820 ranges (ACPI 6.4 §15).

Two forms exist. ``etc/e820`` of fw_cfg lists RAM only (SeaBIOS adds what it reserves itself); ``direct_boot_map``
is the complete map that a kernel started without firmware gets. All addresses and sizes are bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

RAM = 1
RESERVED = 2
ACPI_RECLAIMABLE = 3
ACPI_NVS = 4

_ENTRY = struct.Struct("<QQI")
ENTRY_BYTES = _ENTRY.size

GIB4 = 1 << 32
BIOS_BYTES = 256 << 10  # what SeaBIOS says of itself
EBDA_BASE = 0x9FC00
BIOS_AREA_BASE = 0xF0000
MIB1 = 0x10_0000
#: AMD processors with an address width of 40 bits and more keep this range for HyperTransport; QEMU reports it
#: from machine 7.1 on when the guest's CPU calls itself AMD
HYPERTRANSPORT = (0xFD_0000_0000, 0x3_0000_0000)
#: four pages that KVM uses itself on some hosts (identity map, task state segment), as kvm.vm places them
KVM_PRIVATE = (0xFEFF_C000, 0x4000)


class Range(NamedTuple):
    """One entry of the map."""

    base: int
    size_bytes: int
    kind: int


def encode(ranges: Iterable[Range]) -> bytes:
    """20 bytes per entry: address, length (64 bit), type (32 bit), little-endian."""
    return b"".join(_ENTRY.pack(*each) for each in ranges)


def firmware_table(ram_below_4g: int, ram_above_4g: int, *, hypertransport: bool = False, kvm: bool = True) -> bytes:
    """Content of ``etc/e820``. ``hypertransport`` adds the range that AMD processors keep, ``kvm`` KVM's own pages."""
    ranges = [Range(*KVM_PRIVATE, RESERVED)] if kvm else []
    if hypertransport:
        ranges.append(Range(*HYPERTRANSPORT, RESERVED))
    ranges.append(Range(0, ram_below_4g, RAM))
    if ram_above_4g:
        ranges.append(Range(GIB4, ram_above_4g, RAM))
    return encode(ranges)


def direct_boot_map(
    ram_below_4g: int, ram_above_4g: int, *, tables_base: int, hypertransport: bool = False
) -> list[Range]:
    """The map for a kernel started directly, the way SeaBIOS would report it; sorted.

    The last kilobyte below 640 KiB (EBDA), 0xf0000-0xfffff (tables), RAM from ``tables_base`` to its end below 4 GiB
    (ACPI tables), KVM's own pages and the firmware at the end of 4 GiB are reserved.
    """
    ranges = [
        Range(0, EBDA_BASE, RAM),
        Range(EBDA_BASE, 0xA_0000 - EBDA_BASE, RESERVED),
        Range(BIOS_AREA_BASE, MIB1 - BIOS_AREA_BASE, RESERVED),
    ]
    if tables_base > MIB1:
        ranges.append(Range(MIB1, tables_base - MIB1, RAM))
    if ram_below_4g > tables_base:
        ranges.append(Range(tables_base, ram_below_4g - tables_base, RESERVED))
    ranges.append(Range(*KVM_PRIVATE, RESERVED))
    ranges.append(Range(GIB4 - BIOS_BYTES, BIOS_BYTES, RESERVED))
    if ram_above_4g:
        ranges.append(Range(GIB4, ram_above_4g, RAM))
    if hypertransport:
        ranges.append(Range(*HYPERTRANSPORT, RESERVED))
    return ranges

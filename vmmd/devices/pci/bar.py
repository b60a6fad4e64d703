# SPDX-License-Identifier: Apache-2.0
"""Base address registers (PCI 3.0 §6.2.5), that of the option ROM (§6.2.5.2) included: what one decodes, where it is
mapped now, and mapping several at once.

A BAR is made of regions: the whole of it, and any number laid over it (an MSI-X table, a doorbell page). Every
(re)mapping makes new IoRanges, so that a vCPU that has just looked up an old one finishes on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.address_space import IoRange
from vmmd.devices.pci.regs import BAR_IO, BAR_MEM64, BAR_PREFETCH, REG_BAR0, REG_ROM_BAR, ROM_ENABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.address_space import AddressSpace
    from vmmd.devices.pci.config_space import ConfigSpace

# QEMU-COMPAT: a port BAR is above the board's fixed ports; a memory BAR is below RAM and the board's registers
PRIORITY_IO = 1
PRIORITY_MEMORY = -1

#: smallest size by kind
KINDS = {"io": 4, "mem32": 16, "mem64": 16, "rom": 2048}
ROM_INDEX = 6  # how everybody counts it


def reads_zero(offset: int, size: int) -> int:
    """Handler of a part of a BAR where nothing is."""
    return 0


def drops_writes(offset: int, size: int, value: int) -> None:
    """Handler of a part of a BAR where nothing is."""


class BarRegion(NamedTuple):
    """Handlers for a part of a BAR; their offsets count from ``offset``."""

    offset: int
    size_bytes: int
    read: Callable[[int, int], int]
    write: Callable[[int, int, int], None]
    name: str
    max_width: int


class Bar:
    """One base address register (two, when 64 bits wide). DeviceLock held."""

    __slots__ = ("address", "index", "kind", "prefetch", "ranges", "regions", "register", "size_bytes")

    def __init__(self, index: int, size_bytes: int, kind: str, prefetch: bool) -> None:
        if kind not in KINDS or size_bytes < KINDS[kind] or size_bytes & (size_bytes - 1):
            raise ValueError(f"BAR {index}: {kind} of {size_bytes} bytes is not possible")
        if (index != ROM_INDEX) if kind == "rom" else not 0 <= index <= (4 if kind == "mem64" else 5):
            raise ValueError(f"there is no BAR {index} for {kind}")
        self.index = index
        self.size_bytes = size_bytes
        self.kind = kind
        self.prefetch = prefetch
        self.register = REG_ROM_BAR if kind == "rom" else REG_BAR0 + 4 * index
        self.regions: list[BarRegion] = []
        self.address: int | None = None  # where it is mapped now
        self.ranges: list[IoRange] = []  # of the present mapping

    @property
    def is_io(self) -> bool:
        return self.kind == "io"

    @property
    def width_bytes(self) -> int:
        """Bytes of configuration space it takes."""
        return 8 if self.kind == "mem64" else 4

    @property
    def flags(self) -> int:
        """The read-only low bits of the register."""
        if self.kind == "io":
            return BAR_IO
        return (BAR_MEM64 if self.kind == "mem64" else 0) | (BAR_PREFETCH if self.prefetch else 0)

    def define(self, config: ConfigSpace) -> None:
        """Put the register into configuration space: address bits writable above the size."""
        width = self.width_bytes
        writable = ((1 << (8 * width)) - 1) & ~(self.size_bytes - 1)
        config.define(self.register, width, self.flags, writable | (ROM_ENABLE if self.kind == "rom" else 0))

    def decoded_address(self, config: ConfigSpace, space: AddressSpace) -> int | None:
        """Where the register points, or None when it decodes nothing.

        QEMU-COMPAT: address 0 decodes nothing, nor does a register that holds the all-ones of a sizing probe, so
        that sizing with decoding left on does not put the BAR over something else.
        """
        width = self.width_bytes
        if self.kind == "rom" and not config.get(self.register, 1) & ROM_ENABLE:
            return None
        value = config.get(self.register, width) & ~(self.size_bytes - 1)
        last = value + self.size_bytes - 1
        if value == 0 or last == (1 << (8 * width)) - 1 or last >= space.size:
            return None
        return value

    def build_ranges(self, address: int) -> list[IoRange]:
        """IoRanges for a mapping at ``address``; regions laid over the BAR come later and win."""
        priority = PRIORITY_IO if self.kind == "io" else PRIORITY_MEMORY
        return [
            IoRange(
                address + region.offset,
                region.size_bytes,
                region.read,
                region.write,
                name=region.name,
                max_width=region.max_width,
                priority=priority,
            )
            for region in self.regions
        ]


class BarMap:
    """All BARs of a function and their mapping into the two address spaces."""

    __slots__ = ("_mmio", "_pio", "bars")

    def __init__(self, pio: AddressSpace, mmio: AddressSpace) -> None:
        self._pio = pio
        self._mmio = mmio
        self.bars: dict[int, Bar] = {}

    def remap(self, config: ConfigSpace, io_on: bool, memory_on: bool) -> list[tuple[Bar, int | None]]:
        """Make mappings follow the registers: one publication per address space. Returns the BARs that moved, and
        where they were."""
        moved: list[tuple[Bar, int | None]] = []
        removed: dict[bool, list[IoRange]] = {True: [], False: []}
        added: dict[bool, list[IoRange]] = {True: [], False: []}
        for bar in self.bars.values():
            is_io = bar.kind == "io"
            space = self._pio if is_io else self._mmio
            address = bar.decoded_address(config, space) if (io_on if is_io else memory_on) else None
            if address == bar.address:
                continue
            removed[is_io] += bar.ranges
            moved.append((bar, bar.address))
            bar.address = address
            bar.ranges = [] if address is None else bar.build_ranges(address)
            added[is_io] += bar.ranges
        for is_io, space in ((True, self._pio), (False, self._mmio)):
            if removed[is_io] or added[is_io]:
                space.update(removed[is_io], added[is_io])
        return moved

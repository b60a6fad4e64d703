# SPDX-License-Identifier: Apache-2.0
"""PCI resources for a guest that starts without firmware: BARs, decoding, interrupt lines, PIRQ routes, PAM, PM base.

The result is what SeaBIOS leaves on the same machine (measured under QEMU 7.2): I/O BARs from 0xc000 up, memory BARs at
the end of the window below 0xfec00000, prefetchable and others apart, largest first; command register I/O, memory
and SERR; PIRQA-D on 10, 10, 11, 11. Works through configuration cycles only, as firmware does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmmd.errors import VmmdError
from vmmd.firmware.mptable import PciInterrupt
from vmmd.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IO_FIRST, IO_END = 0xC000, 0x1_0000
MEMORY_END = 0xFEC0_0000
MEMORY_LOWEST = 0x8000_0000
PIRQ_IRQS = (10, 10, 11, 11)
SCI_IRQ = 9
ELCR = 0x0C00  # interrupts 10 and 11 are level triggered (ports 0x4d0, 0x4d1)
PM_BASE, SMBUS_BASE = 0x600, 0x700

_COMMAND, _LINE, _PIN, _IDENTITY = 0x04, 0x3C, 0x3D, 0x00
_IO_MEMORY_SERR = 0x0103
_HOST_BRIDGE, _PIIX3, _PIIX3_IDE, _PIIX4_PM = 0x1237_8086, 0x7000_8086, 0x7010_8086, 0x7113_8086
GIB = 1 << 30


class BarLike(Protocol):
    """``devices.pci.bar.Bar``."""

    index: int
    size_bytes: int
    prefetch: bool
    kind: str  # "io", "mem32", "mem64", "rom"
    register: int  # where it is


class FunctionLike(Protocol):
    """``devices.pci.device.PciDevice``."""

    @property
    def bars(self) -> Mapping[int, BarLike]: ...

    def config_read(self, offset: int, size: int) -> int: ...

    def config_write(self, offset: int, size: int, value: int) -> None: ...


class PciSetup(NamedTuple):
    """What was done: for the interrupt controller and the MP table."""

    elcr: int
    interrupts: tuple[PciInterrupt, ...]


class _Want(NamedTuple):
    function: FunctionLike
    bar: BarLike

    @property
    def room_bytes(self) -> int:
        """Registers in memory have a page of their own."""
        return self.bar.size_bytes if self.bar.kind == "io" else max(self.bar.size_bytes, PAGE_BYTES)


def window_32(ram_below_4g: int) -> tuple[int, int]:
    """(first, last) address of the PCI window that ACPI tells: from the end of low RAM on."""
    return ram_below_4g, MEMORY_END - 1


def window_64(end_of_ram: int) -> tuple[int, int]:
    """(first, last) of the 64-bit window: 2 GiB from the first GiB boundary at or above 4 GiB and RAM."""
    first = max(4 * GIB, end_of_ram) + GIB - 1 & -GIB
    return first, first + 2 * GIB - 1


def assign(functions: Mapping[tuple[int, int], FunctionLike], ram_below_4g: int, end_of_ram: int) -> PciSetup:
    """Program every function of the root bus. DeviceLock held. Raises VmmdError when the BARs do not fit."""
    ordered = sorted(functions.items())
    wanted = [_Want(function, bar) for _, function in ordered for bar in function.bars.values()]
    _assign_io([each for each in wanted if each.bar.kind == "io"])
    _assign_memory([each for each in wanted if each.bar.kind != "io"], ram_below_4g, end_of_ram)
    interrupts = []
    for (slot, _), function in ordered:
        identity = function.config_read(_IDENTITY, 4)
        pin = function.config_read(_PIN, 1)
        if 1 <= pin <= 4:
            irq = SCI_IRQ if identity == _PIIX4_PM else PIRQ_IRQS[(slot + pin - 2) & 3]
            function.config_write(_LINE, 1, irq)
            interrupts.append(PciInterrupt(slot, pin - 1, irq))
        _program_board(identity, function)
        function.config_write(_COMMAND, 2, function.config_read(_COMMAND, 2) | _IO_MEMORY_SERR)
    return PciSetup(ELCR, tuple(interrupts))


def _assign_io(wanted: list[_Want]) -> None:
    if IO_FIRST + sum(each.bar.size_bytes for each in wanted) > IO_END:
        raise VmmdError("the I/O BARs of all PCI devices do not fit in 16 KiB of ports", "use fewer devices")
    _lay_out(wanted, IO_FIRST)


def _assign_memory(wanted: list[_Want], ram_below_4g: int, end_of_ram: int) -> None:
    lowest = max(ram_below_4g, MEMORY_LOWEST)
    high: list[_Want] = []
    blocks = _blocks_below(wanted, MEMORY_END)
    if blocks[-1][0] < lowest:
        high = [each for each in wanted if each.bar.prefetch and each.bar.kind == "mem64"]
        blocks = _blocks_below([each for each in wanted if each not in high], MEMORY_END)
        if blocks[-1][0] < lowest:
            room = (MEMORY_END - lowest) >> 20
            raise VmmdError(
                f"the 32-bit BARs of all PCI devices do not fit in {room} MiB", "use smaller devices or RAM"
            )
    largest = _largest(high)
    for base, each in ((max(4 * GIB, end_of_ram) + largest - 1 & -largest, high), *blocks):
        _lay_out(each, base)


def _blocks_below(wanted: list[_Want], end: int) -> list[tuple[int, list[_Want]]]:
    """(base, BARs) of the prefetchable ones and of the others, downwards from ``end``; what needs the larger alignment
    comes last."""
    blocks = [[each for each in wanted if each.bar.prefetch is prefetch] for prefetch in (False, True)]
    found = []
    for block in sorted(blocks, key=_largest):
        end = (end - sum(each.room_bytes for each in block)) & -_largest(block)
        found.append((end, block))
    return found


def _largest(wanted: Iterable[_Want]) -> int:
    return max((each.room_bytes for each in wanted), default=1)


def _lay_out(wanted: list[_Want], address: int) -> None:
    """Program BARs, largest first, upwards from ``address``: sizes are powers of two, so each is aligned."""
    for want in sorted(wanted, key=lambda each: -each.room_bytes):
        function, bar = want
        function.config_write(bar.register, 4, address & 0xFFFF_FFFF)  # a ROM stays switched off
        if bar.kind == "mem64":
            function.config_write(bar.register + 4, 4, address >> 32)
        address += want.room_bytes


def _program_board(identity: int, function: FunctionLike) -> None:
    """Registers of the chip set that firmware sets."""
    write = function.config_write
    if identity == _HOST_BRIDGE:  # PAM: RAM is read everywhere, written at e8000-effff only
        write(0x58, 4, 0x1111_1000 | function.config_read(0x58, 1))
        write(0x5C, 4, 0x3311_1111)
    elif identity == _PIIX3:
        write(0x60, 4, int.from_bytes(bytes(PIRQ_IRQS), "little"))
    elif identity == _PIIX3_IDE:
        write(0x40, 4, 0x8000_8000)  # both channels decode
    elif identity == _PIIX4_PM:
        write(0x40, 4, PM_BASE | 1)
        write(0x80, 1, 0x01)
        write(0x90, 4, SMBUS_BASE | 1)
        write(0xD2, 1, 0x09)

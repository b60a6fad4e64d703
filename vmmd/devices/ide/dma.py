# SPDX-License-Identifier: Apache-2.0
"""Bus master of one IDE channel: "Programming Interface for Bus Master IDE Controller" 1.0 (SFF-8038i), PIIX3 §2.6.

Registers (offset 0: command, 2: status, 4-7: address of the descriptor table). A physical region descriptor has an
address, a byte count of 16 bits (0: 64 KiB) and a last-entry mark. Guest memory is reached through the function's
``dma`` only: with bus mastering off nothing can be read or written. What is not RAM takes no data and gives zeroes.

    drive: channel.dma.request(run)      host: command START
    → run(scatter), once, when both have happened
    → channel.dma.finish(scatter, moved_bytes) when the data have gone, or the drive failed

QEMU-COMPAT: a table is walked at most a page (512 descriptors); the descriptors that it may not read count as
zeroes; a stop while data are in flight takes effect when they have arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.memory import GuestAddressError
from vmmd.core.trace import GUEST_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.memory import GuestMemory
    from vmmd.devices.ide.drive import Unit

REG_COMMAND = 0
REG_STATUS = 2
REG_TABLE = 4
REGISTER_BYTES = 8

CMD_START = 0x01
CMD_TO_MEMORY = 0x08
CMD_WRITABLE = CMD_START | CMD_TO_MEMORY

ST_ACTIVE = 0x01
ST_ERROR = 0x02
ST_INTERRUPT = 0x04
ST_DRIVES_CAPABLE = 0x60  # set by firmware, for software to see

DESCRIPTOR_BYTES = 8
DESCRIPTORS_MAX = 512
LAST_DESCRIPTOR = 0x8000_0000
REGION_BYTES_MAX = 0x1_0000


class Region(NamedTuple):
    """A piece of guest memory; ``start`` is the offset of its first byte in the transfer."""

    start: int
    gpa: int
    length: int


class Scatter:
    """The guest memory that one descriptor table names, as one run of ``total`` bytes."""

    def __init__(self, memory: Callable[[], GuestMemory], regions: list[Region]) -> None:
        self._memory = memory
        self._regions = regions
        self.total = regions[-1].start + regions[-1].length if regions else 0

    def store(self, offset: int, data: memoryview) -> None:
        """Write ``data`` at ``offset``; bytes for what is not RAM, or lies behind the end, are dropped."""
        memory = self._memory()
        for position, region_offset, length in self._pieces(offset, len(data)):
            try:
                memory.write(region_offset, data[position : position + length])
            except GuestAddressError as error:
                _report(error)

    def load(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` from ``offset`` on; zeroes for what is not RAM, or lies behind the end."""
        memory = self._memory()
        into[:] = bytes(len(into))
        for position, gpa, length in self._pieces(offset, len(into)):
            try:
                into[position : position + length] = memory.read(gpa, length)
            except GuestAddressError as error:
                _report(error)

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """(position in the data, guest address, length) of what lies in each region."""
        end = offset + length
        pieces = []
        for start, gpa, size in self._regions:
            low, high = max(start, offset), min(start + size, end)
            if low < high:
                pieces.append((low - offset, gpa + low - start, high - low))
        return pieces


def _report(error: GuestAddressError) -> None:
    if GUEST_ERRORS.on:
        GUEST_ERRORS(f"ide: DMA to what is not RAM: {error}")


def read_table(memory: GuestMemory, table: int) -> list[Region]:
    """The regions of the descriptor table at ``table``, up to its last entry or the 512th."""
    regions = []
    start = 0
    for index in range(DESCRIPTORS_MAX):
        try:
            entry = int.from_bytes(memory.read(table + index * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES), "little")
        except GuestAddressError:
            entry = 0
        gpa, size = entry & 0xFFFF_FFFE, entry >> 32
        length = (size & 0xFFFE) or REGION_BYTES_MAX
        regions.append(Region(start, gpa, length))
        start += length
        if size & LAST_DESCRIPTOR:
            break
    return regions


class BusMaster:
    """The engine of one channel. DeviceLock held."""

    def __init__(self, memory: Callable[[], GuestMemory]) -> None:
        """``memory()`` is what the function may reach at that moment."""
        self._memory = memory
        self.command = 0
        self.status = 0
        self.table = 0
        # each with its drive: one of a channel may ask while the other's data are in flight
        self._waiting: tuple[Unit, Callable[[Scatter], None]] | None = None  # what is called when the host starts
        self._running: tuple[Unit, Scatter] | None = None
        self._stopping = self._restarted = False

    # -- registers -------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """QEMU-COMPAT: the first four bytes are read one by one."""
        if offset >= REG_TABLE:
            return self.table >> 8 * (offset - REG_TABLE) & (1 << 8 * size) - 1
        if size == 1 and offset == REG_COMMAND:
            return self.command
        if size == 1 and offset == REG_STATUS:
            return self.status
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= REG_TABLE:
            shift = 8 * (offset - REG_TABLE)
            mask = (1 << 8 * size) - 1
            self.table = (self.table & ~(mask << shift) | value << shift) & 0xFFFF_FFFC
        elif size == 1 and offset == REG_COMMAND:
            self._write_command(value)
        elif size == 1 and offset == REG_STATUS:
            kept = self.status & ST_ACTIVE | self.status & ~value & (ST_ERROR | ST_INTERRUPT)
            self.status = value & ST_DRIVES_CAPABLE | kept

    def _write_command(self, value: int) -> None:
        if (value ^ self.command) & CMD_START:
            if value & CMD_START:
                self._start()
            else:
                self._stop()
        self.command = value & CMD_WRITABLE

    def _start(self) -> None:
        self.status |= ST_ACTIVE
        if self._running is not None:
            self._restarted = True
        else:
            self._try()

    def _stop(self) -> None:
        if self._running is not None:
            self._stopping, self._restarted = True, False
        else:
            self.status &= ~ST_ACTIVE

    # -- the drive's side ------------------------------------------------------------------------------------

    def request(self, unit: Unit, run: Callable[[Scatter], None]) -> None:
        """A drive has data to move: ``run(scatter)`` when the host starts the engine, or at once when it has."""
        self._waiting = unit, run
        self._try()

    def _try(self) -> None:
        if self.status & ST_ACTIVE and self._waiting is not None and self._running is None:
            (unit, run), self._waiting = self._waiting, None
            scatter = Scatter(self._memory, read_table(self._memory(), self.table))
            self._running = unit, scatter
            run(scatter)

    def finish(self, scatter: Scatter, moved_bytes: int) -> None:
        """The transfer over ``scatter`` has ended. Descriptors that are left keep the engine active (SFF-8038i 3.1)."""
        if self._running is None or self._running[1] is not scatter:
            return
        left = scatter.total > moved_bytes and not self._stopping
        if not (left or self._restarted):
            self.status &= ~ST_ACTIVE
        self._running = None
        self._stopping = self._restarted = False
        self._try()

    def note_interrupt(self) -> None:
        """The drive has raised INTRQ."""
        self.status |= ST_INTERRUPT

    def cancel(self, unit: Unit) -> None:
        """The drive's transfer, if there is one, is over: it was reset, or has another command."""
        if self._waiting is not None and self._waiting[0] is unit:
            self._waiting = None
        if self._running is not None and self._running[0] is unit:
            self.status &= ~ST_ACTIVE
            self._running = None
            self._stopping = self._restarted = False

    def reset(self) -> None:
        """Registers to zero; nothing runs."""
        self.command = self.status = self.table = 0
        self._waiting = self._running = None
        self._stopping = self._restarted = False

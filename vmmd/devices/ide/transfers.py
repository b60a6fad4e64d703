# SPDX-License-Identifier: Apache-2.0
"""Sectors of an ATA disk on their way: addresses (CHS, LBA28, LBA48), PIO by blocks, bus master DMA, TRIM.

ATA/ATAPI-6 §6.2 (addressing), §9.5-9.7 (protocols). Registers move on with the data, as QEMU's do: after a block the
count is what is left, and the address that of the next sector. PIO reads fetch ahead, up to 128 KiB; after an error
the rest of the command is read block by block, so that everything before the bad sector reaches the host. DMA goes in
pieces of 128 KiB through ``buffer``: no data go to guest memory behind the back of a reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.ide.disk_io import Kind, Request, discard
from vmmd.devices.ide.drive import BUFFER_BYTES, DEV_HEAD, DEV_LBA, ST_READY, Drive
from vmmd.devices.ide.geometry import Chs, default_chs
from vmmd.devices.ide.identify import MULTIPLE_MAX
from vmmd.units import SECTOR_BYTES

if TYPE_CHECKING:
    from vmmd.devices.ide.channel import Channel
    from vmmd.devices.ide.disk_io import DiskIo
    from vmmd.devices.ide.dma import Scatter

BUFFER_SECTORS = BUFFER_BYTES // SECTOR_BYTES
TRIM_COUNT_SHIFT = 48
TRIM_LBA_MASK = (1 << TRIM_COUNT_SHIFT) - 1


class SectorDrive(Drive):
    """A disk: everything that moves data. ``ata.AtaDrive`` has the commands."""

    def __init__(self, channel: Channel, number: int, io: DiskIo) -> None:
        super().__init__(channel, number, io)
        self.sectors = io.drive.backend.size_bytes // SECTOR_BYTES
        self.translation: Chs = default_chs(self.sectors)  # how CHS addresses are read
        self.multiple = MULTIPLE_MAX
        self._wide = False  # the command has 48-bit addresses
        # where the command is; the registers only show it, the host may write to them by way of the other drive
        self._sector = self._left = 0
        self._block = 1  # sectors between two interrupts
        self._ahead = _NO_SECTORS  # read, and not yet given to the host
        self._careful = False  # no reading ahead

    def medium_resized(self) -> None:
        self.sectors = self.io.drive.backend.size_bytes // SECTOR_BYTES

    # -- addresses and counts --------------------------------------------------------------------------------

    def take_range(self, *, wide: bool) -> None:
        """Read address and count from the registers; a count of 0 means 256, or 65536 with 48-bit addresses."""
        self._wide = wide
        count = self.count & 0xFF | (self.previous_count << 8 if wide else 0)
        self._left = count or (1 << 16 if wide else 1 << 8)
        self._sector = self.address

    @property
    def address(self) -> int:
        """The sector that the registers name; it may lie outside the disk, or be -1 (CHS sector 0)."""
        low, mid, high = self.lba_low, self.lba_mid, self.lba_high
        if self.device & DEV_LBA:
            if not self._wide:
                return (self.device & DEV_HEAD) << 24 | high << 16 | mid << 8 | low
            previous = self.previous_lba_high << 16 | self.previous_lba_mid << 8 | self.previous_lba_low
            return previous << 24 | high << 16 | mid << 8 | low
        track = (high << 8 | mid) * self.translation.heads + (self.device & DEV_HEAD)
        return track * self.translation.sectors + low - 1

    @address.setter
    def address(self, sector: int) -> None:
        if not self.device & DEV_LBA:
            track, low = divmod(sector, self.translation.sectors)
            cylinder, head = divmod(track, self.translation.heads)
            self.lba_low, self.lba_mid, self.lba_high = (low + 1) & 0xFF, cylinder & 0xFF, cylinder >> 8 & 0xFF
            self.device = self.device & ~DEV_HEAD | head
            return
        self.lba_low, self.lba_mid, self.lba_high = sector & 0xFF, sector >> 8 & 0xFF, sector >> 16 & 0xFF
        upper = sector >> 24
        if self._wide:
            self.previous_lba_low, self.previous_lba_mid = upper & 0xFF, upper >> 8 & 0xFF
            self.previous_lba_high = upper >> 16 & 0xFF
        else:
            self.device = self.device & ~DEV_HEAD | upper & DEV_HEAD

    def _inside(self, sector: int, count: int) -> bool:
        return sector >= 0 and sector + count <= self.sectors

    def _advance(self, count: int) -> None:
        """``count`` sectors are done."""
        self._sector += count
        self._left -= count
        self.address, self.count = self._sector, self._left

    def _sectors_view(self, count: int) -> memoryview:
        return memoryview(self.buffer)[: count * SECTOR_BYTES]

    def stop_transfer(self) -> None:
        super().stop_transfer()
        self._ahead = _NO_SECTORS
        self._sector = self._left = 0

    def reset_registers(self) -> None:
        super().reset_registers()
        self._wide, self._careful, self._block = False, False, 1

    # -- PIO data-in -----------------------------------------------------------------------------------------

    def read_blocks(self, block: int) -> None:
        """READ SECTORS, READ MULTIPLE: ``block`` sectors for each interrupt. Count and address are taken."""
        self._block, self._careful = block, False
        self._next_in()

    def _next_in(self) -> None:
        """The host wants the next block, or has had the last."""
        left = self._left
        if not left:
            return
        block = min(left, self._block)
        wanted = block * SECTOR_BYTES
        if len(self._ahead) >= wanted:
            self._give(wanted)
            return
        start = self._sector
        if not self._inside(start, block):
            self.refuse(Kind.READ)
            return
        # a whole number of blocks, so that none has its end elsewhere
        ahead = block if self._careful else min(left, BUFFER_SECTORS // self._block * self._block)
        ahead = min(ahead, self.sectors - start)
        self._fetch(start, ahead, is_trial=ahead > block)

    def _fetch(self, start: int, count: int, *, is_trial: bool) -> None:
        view = self._sectors_view(count)

        def arrived(error: int) -> None:
            if error and is_trial:
                self._careful = True
                self._next_in()
            elif error:
                self.abort()
            else:
                self._ahead = view
                self._give(min(self._left, self._block) * SECTOR_BYTES)

        self.busy()
        self.io.submit(Request(Kind.READ, start * SECTOR_BYTES, view, arrived, is_trial=is_trial))

    def _give(self, length: int) -> None:
        block, self._ahead = self._ahead[:length], self._ahead[length:]
        self._advance(length // SECTOR_BYTES)
        self.send(block, self._next_in)

    # -- PIO data-out ----------------------------------------------------------------------------------------

    def write_blocks(self, block: int) -> None:
        """WRITE SECTORS, WRITE MULTIPLE. Count and address are taken."""
        self._block = block
        self._next_out(interrupt=False)

    def _next_out(self, *, interrupt: bool) -> None:
        count = min(self._left, self._block)
        self.receive(count * SECTOR_BYTES, lambda: self._store(count), interrupt=interrupt)

    def _store(self, count: int) -> None:
        start = self._sector
        if not self._inside(start, count):
            self.refuse(Kind.WRITE)
            return

        def stored(error: int) -> None:
            if error:
                self.abort()
                return
            self._advance(count)
            if self._left:
                self._next_out(interrupt=True)
            else:
                self.succeed()

        self.busy()
        self.io.submit(Request(Kind.WRITE, start * SECTOR_BYTES, self._sectors_view(count), stored))

    # -- DMA -------------------------------------------------------------------------------------------------

    def move_by_dma(self, kind: Kind) -> None:
        """READ DMA, WRITE DMA. Count and address are taken."""
        self.dma(lambda scatter: self._run_dma(kind, scatter))

    def _fits(self, scatter: Scatter) -> bool:
        """QEMU-COMPAT: descriptors that are too short end the command with nothing moved, and without an interrupt."""
        if scatter.total >= self._left * SECTOR_BYTES:
            return True
        self.status = ST_READY
        self.channel.dma.finish(scatter, scatter.total)
        return False

    def _run_dma(self, kind: Kind, scatter: Scatter) -> None:
        if not self._fits(scatter):
            return
        if self._inside(self._sector, self._left):
            self._dma_piece(kind, scatter, 0)
        else:
            self._dma_failed(scatter, kind)

    def _dma_piece(self, kind: Kind, scatter: Scatter, done: int) -> None:
        """Move the next sectors; ``done`` have been."""
        count = min(self._left - done, BUFFER_SECTORS)
        if not count:
            self._dma_done(scatter)
            return
        view, offset = self._sectors_view(count), done * SECTOR_BYTES

        def moved(error: int) -> None:
            if error:
                self._dma_failed(scatter)
                return
            if kind is Kind.READ:
                scatter.store(offset, view)
            self._dma_piece(kind, scatter, done + count)

        if kind is Kind.WRITE:
            scatter.load(offset, view)
        self.io.submit(Request(kind, (self._sector + done) * SECTOR_BYTES, view, moved))

    def _dma_done(self, scatter: Scatter) -> None:
        moved = self._left * SECTOR_BYTES
        self._advance(self._left)
        self.succeed()
        self.channel.dma.finish(scatter, moved)

    def _dma_failed(self, scatter: Scatter, invalid: Kind | None = None) -> None:
        """``invalid``: a request that the host should not have made."""
        if invalid is not None:
            self.io.count_invalid(invalid)
        self.abort()
        self.channel.dma.finish(scatter, scatter.total)

    def refuse(self, kind: Kind) -> None:
        """A range that is not on the disk. QEMU-COMPAT: the drive says ABRT, not IDNF."""
        self.io.count_invalid(kind)
        self.abort()

    # -- TRIM ------------------------------------------------------------------------------------------------

    def trim(self) -> None:
        """DATA SET MANAGEMENT with TRIM: blocks of ranges by DMA. All are checked before any is done. QEMU-COMPAT: the
        count has 8 bits, and 0 means none."""
        self._wide, self._left, self._sector = True, self.count & 0xFF, self.address
        self.dma(self._run_trim)

    def _run_trim(self, scatter: Scatter) -> None:
        if not self._fits(scatter):
            return
        view = self._sectors_view(self._left)  # 255 at most
        scatter.load(0, view)
        # up to 16320 entries, with the lock held: whole lists, no calls for each
        entries = [entry for entry in view.cast("Q").tolist() if entry >> TRIM_COUNT_SHIFT]
        if max([(entry & TRIM_LBA_MASK) + (entry >> TRIM_COUNT_SHIFT) for entry in entries], default=0) > self.sectors:
            self._dma_failed(scatter, Kind.DISCARD)
            return
        self._trim_next(scatter, entries[::-1])

    def _trim_next(self, scatter: Scatter, entries: list[int]) -> None:
        """``entries``: those that are left, the next one last."""
        if not entries:
            self._dma_done(scatter)
            return
        entry = entries.pop()
        start, count = entry & TRIM_LBA_MASK, entry >> TRIM_COUNT_SHIFT

        def trimmed(error: int) -> None:
            if error:
                self._dma_failed(scatter)
            else:
                self._trim_next(scatter, entries)

        self.io.submit(discard(start * SECTOR_BYTES, count * SECTOR_BYTES, trimmed))


_NO_SECTORS = memoryview(b"")

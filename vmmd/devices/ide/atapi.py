# SPDX-License-Identifier: Apache-2.0
"""A CD/DVD-ROM drive on an IDE channel: the packet protocol (ATA/ATAPI-6 §9.8, §9.9; SFF-8020i 5.6) around ``mmc``.

PACKET (A0h) takes a packet of 12 bytes through the data port; then data go to the host in pieces of at most its byte
count limit (LBA mid and high), each with an interrupt, or through the bus master (features bit 0); at last the status.
The interrupt reason (count register) says which: C/D and I/O. Nothing overlaps (features bit 1 aborts).

Blocks are read ``BATCH_BYTES`` at a time into the drive's buffer, and a piece that ends inside a block is served from
there. QEMU-COMPAT: a limit of FFFFh means FFFEh, an odd one counts as the even one below, a command with data and
without limit is aborted, an interrupt tells of media that the host changes. Differences to QEMU 7.2, on purpose: data
of an odd length can be read to the end (QEMU never gives the last byte); a limit of 1 counts as 2 (QEMU hangs); a tray
that the host opens ends the transfer of its medium.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.events import DeviceTrayMovedEvent
from vmmd.devices.ide.disk_io import Kind, Request
from vmmd.devices.ide.drive import DIAGNOSTIC_PASSED, ST_BSY, ST_DRQ, ST_ERR, ST_READY, Drive
from vmmd.devices.ide.mmc import (
    MEDIUM_NOT_PRESENT,
    OUT_OF_RANGE,
    PACKET_BYTES,
    UNIT_ATTENTION,
    Identity,
    OpticalUnit,
    Other,
    Read,
    Reply,
    Sense,
)
from vmmd.devices.ide.mmc_data import FRAME_BYTES, SECTOR_BYTES, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import DriveHandle
    from vmmd.core.device import DeviceContext
    from vmmd.devices.ide.channel import Channel
    from vmmd.devices.ide.disk_io import DiskIo
    from vmmd.devices.ide.dma import Scatter

# commands (ATA/ATAPI-6 chapter 8)
CMD_DEVICE_RESET = 0x08
CMD_READ_SECTORS = 0x20
CMD_DIAGNOSTIC = 0x90
CMD_PACKET = 0xA0
CMD_IDENTIFY_PACKET = 0xA1
CMD_FLUSH_CACHE = 0xE7
CMD_IDENTIFY = 0xEC
CMD_SET_FEATURES = 0xEF

FEATURE_DMA = 0x01
FEATURE_OVERLAP = 0x02

# interrupt reason, in the count register (§9.8)
REASON_COMMAND = 0x01
REASON_TO_HOST = 0x02
REASON_MASK = 0x07

LIMIT_MAX = 0xFFFE
ERR_MCR = 0x20  # media change requested: what is in the sense key's place says the same

#: what is read from the image at once; one block more is needed when a piece begins inside a block
BATCH_BYTES = 32 * SECTOR_BYTES

SET_TRANSFER_MODE = 0x03
ENABLE_WRITE_CACHE, DISABLE_WRITE_CACHE = 0x02, 0x82
#: features that are taken and mean nothing here
NEUTRAL_FEATURES = frozenset((0x05, 0x42, 0x55, 0x66, 0x67, 0x69, 0x85, 0x96, 0x9A, 0xAA, 0xC2, 0xCC))


class AtapiDrive(Drive):
    """The drive. Implements ``core.backend.MediaDevice``."""

    signature = (1, 1, 0x14, 0xEB)
    has_tray = True

    def __init__(self, channel: Channel, number: int, io: DiskIo, ctx: DeviceContext, identity: Identity) -> None:
        super().__init__(channel, number, io)
        self._ctx = ctx
        self._handle: DriveHandle = io.drive
        self.optical = OpticalUnit(io.drive, identity, self._tray_moved)
        self._modes = {62: 0x0007, 63: 0x0007, 85: 0, 88: 0x203F}
        #: blocks of the image: its own, since a read that was given up may still arrive
        self._blocks = bytearray(BATCH_BYTES + SECTOR_BYTES)
        # the transfer of one command
        self._reply: bytes | bytearray = b""
        self._read: Read | None = None
        self._total_bytes = self._moved_bytes = 0
        self._loaded_from = self._loaded_end = 0  # positions of the transfer that are in ``_reply``

    # -- media: the host's side (core.backend.MediaDevice) ---------------------------------------------------

    @property
    def tray_open(self) -> bool:
        return self.optical.tray_open

    @property
    def medium_locked(self) -> bool:
        return self.optical.locked

    def medium_changed(self, load: bool) -> None:
        """The host moves the tray. A transfer from a medium that goes has failed."""
        self.optical.medium_changed(load)
        if self._read is not None:
            self.stop_transfer()
            self._check(MEDIUM_NOT_PRESENT)
        else:
            self.channel.interrupt()

    def eject_request(self, force: bool) -> None:
        self.optical.eject_request(force)
        self.channel.interrupt()

    def _tray_moved(self, is_open: bool) -> None:
        """The guest has moved the tray."""
        self._ctx.events.emit(DeviceTrayMovedEvent(self._handle.name, self._handle.qdev or "", is_open))

    # -- commands --------------------------------------------------------------------------------------------

    @property
    def takes_reset_while_busy(self) -> bool:
        return True

    def command(self, code: int) -> None:
        if code == CMD_PACKET:
            self._begin_packet()
        elif code == CMD_IDENTIFY_PACKET:
            self.send(self._identity(), self._identified)
        elif code in (CMD_DEVICE_RESET, CMD_DIAGNOSTIC):
            self.optical.reset()
            self._reset_registers(DIAGNOSTIC_PASSED if code == CMD_DIAGNOSTIC else 0)
            if code == CMD_DIAGNOSTIC:
                self.channel.interrupt()
        elif code in (CMD_IDENTIFY, CMD_READ_SECTORS):
            self.set_signature()  # so that a driver that takes it for a disk sees what it is (§8.15.5.2)
            self.abort()
        elif code == CMD_FLUSH_CACHE or (code == CMD_SET_FEATURES and self._set_feature()):
            self.succeed()
        else:
            self.abort()

    def _reset_registers(self, error: int) -> None:
        """Signature, and a status without DRDY (§9.12)."""
        self.set_signature()
        self.status, self.error = 0, error

    def power_on(self) -> None:
        super().power_on()
        self.optical.reset()

    def software_reset(self) -> None:
        super().software_reset()
        self.optical.reset()
        self._reset_registers(DIAGNOSTIC_PASSED)

    def _identified(self) -> None:
        self.status = ST_READY

    def _identity(self) -> bytes:
        """IDENTIFY PACKET DEVICE (§8.16)."""
        who = self.optical.identity
        words = [0] * 256
        words[0] = 0x85C0  # packet device, CD-ROM, removable, answers in 50 us, packets of 12 bytes
        words[20:23] = [3, 512, 4]  # obsolete: buffer
        words[48], words[49] = 1, 0x0300  # LBA, DMA
        words[53] = 7  # words 54-58, 64-70, 88 hold something
        words[64] = 3  # PIO modes 3 and 4
        words[65], words[66], words[67], words[68] = 180, 180, 300, 180  # cycle times, ns
        words[71], words[72] = 30, 30  # times until release, us
        words[80] = 0x1E  # ATA/ATAPI-1 to -4
        for word, value in self._modes.items():
            words[word] = value
        if who.wwn:
            words[84] = words[87] = 0x0100
            words[108:112] = [who.wwn >> shift & 0xFFFF for shift in (48, 32, 16, 0)]
        data = bytearray(b"".join(word.to_bytes(2, "little") for word in words))
        for first, width, text in ((10, 20, who.serial), (23, 8, who.version), (27, 40, who.model or "QEMU DVD-ROM")):
            data[2 * first : 2 * first + width] = _swapped(text, width)
        return bytes(data)

    def _set_feature(self) -> bool:
        """SET FEATURES (§8.46); False for one that is not there."""
        feature = self.features & 0xFF
        if feature == SET_TRANSFER_MODE:
            return self._set_mode(self.count & 0xFF)
        if feature in (ENABLE_WRITE_CACHE, DISABLE_WRITE_CACHE):  # QEMU-COMPAT: as a disk would show it
            self._modes[85] = 0x4021 if feature == ENABLE_WRITE_CACHE else 0x4001
            return True
        return feature in NEUTRAL_FEATURES

    def _set_mode(self, mode: int) -> bool:
        """Every mode is taken; the one in use shows in IDENTIFY PACKET DEVICE."""
        kind, selected = mode >> 3, 1 << 8 + (mode & 7)
        if kind not in (0, 1, 2, 4, 8):  # default, PIO, single word DMA, multiword DMA, Ultra DMA
            return False
        for word, value, used in ((62, 0x07, 2), (63, 0x07, 4), (88, 0x3F, 8)):
            self._modes[word] = value | (selected if kind == used else 0)
        return True

    # -- the packet ------------------------------------------------------------------------------------------

    def _begin_packet(self) -> None:
        if self.features & FEATURE_OVERLAP:
            self.abort()
            return
        self.count = REASON_COMMAND
        self.receive(PACKET_BYTES, self._got_packet, interrupt=False)

    @property
    def _limit(self) -> int:
        """Most bytes of a piece; 0 when the host has given no limit."""
        return min((self.lba_mid & 0xFF) | (self.lba_high & 0xFF) << 8, LIMIT_MAX)

    def _got_packet(self) -> None:
        packet = bytes(self.buffer[:PACKET_BYTES])
        by_dma = bool(self.features & FEATURE_DMA)
        outcome = self.optical.execute(packet, may_send=by_dma or self._limit > 0)
        if outcome is None:
            self._good()
        elif isinstance(outcome, Sense):
            self._check(outcome)
        elif isinstance(outcome, Reply | Read):
            self._start_data(outcome, by_dma)
        elif outcome is Other.ATTENTION:
            self.error, self.status, self.count = ERR_MCR | UNIT_ATTENTION << 4, ST_ERR, 0
            self.channel.interrupt()
        else:
            self.abort()

    def _good(self) -> None:
        """The command has ended well."""
        self._read = None
        self.error = 0
        self._reason(REASON_COMMAND | REASON_TO_HOST)
        self.succeed()

    def _check(self, sense: Sense) -> None:
        """The command has ended with a check condition."""
        self._read = None
        self.channel.dma.cancel(self)
        self.optical.sense = sense
        self._reason(REASON_COMMAND | REASON_TO_HOST)
        self.fail(sense.key << 4)

    def _reason(self, reason: int) -> None:
        self.count = self.count & ~REASON_MASK & 0xFF | reason

    # -- data ------------------------------------------------------------------------------------------------

    def stop_transfer(self) -> None:
        super().stop_transfer()
        self._read = None
        self._reply = b""

    def _start_data(self, what: Reply | Read, by_dma: bool) -> None:
        self._moved_bytes = 0
        if isinstance(what, Reply):
            self._read, self._reply = None, what.data[: what.limit]
            self._total_bytes = len(self._reply)
            self._loaded_from, self._loaded_end = 0, self._total_bytes
        else:
            self._read, self._reply = what, b""
            self._total_bytes = what.blocks * self._block_bytes
            self._loaded_from = self._loaded_end = 0
        if not by_dma:
            self._next_piece()
            return
        self.dma(self._run_dma)
        if self._read is not None and self.status & ST_DRQ:
            self.status |= ST_BSY  # QEMU-COMPAT: also before the bus master is started

    @property
    def _block_bytes(self) -> int:
        return FRAME_BYTES if self._read is not None and self._read.whole_frames else SECTOR_BYTES

    def _load(self, start: int, length: int, then: Callable[[], None]) -> None:
        """``then()`` when bytes ``start`` to ``start + length`` of the transfer are in ``_reply``."""
        if start >= self._loaded_from and start + length <= self._loaded_end:
            then()
            return
        read = self._read
        assert read is not None  # a reply is there from the beginning
        first = start // self._block_bytes
        last = -(-(start + length) // self._block_bytes)
        count = min(max(last - first, BATCH_BYTES // SECTOR_BYTES), read.blocks - first)
        lba = read.lba + first
        if lba + count > self.optical.sectors:  # another medium, or a shorter one, than when the command came
            self._check(OUT_OF_RANGE)
            return
        offset, size = lba * SECTOR_BYTES, count * SECTOR_BYTES
        view = memoryview(self._blocks)[:size]
        there = min(size, self._handle.backend.size_bytes - offset)
        view[there:] = bytes(size - there)  # an image may end inside a block
        self.status |= ST_BSY

        def loaded(error: int) -> None:
            if error:
                self._check(OUT_OF_RANGE if self._handle.inserted else MEDIUM_NOT_PRESENT)
                return
            self._loaded_from = first * self._block_bytes
            self._reply = self._frames(lba, view) if read.whole_frames else bytes(view)
            self._loaded_end = self._loaded_from + len(self._reply)
            then()

        self.io.submit(Request(Kind.READ, offset, view[:there], loaded))

    def _frames(self, lba: int, sectors: memoryview) -> bytes:
        return b"".join(
            frame(lba + number, sectors[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES])
            for number in range(len(sectors) // SECTOR_BYTES)
        )

    def _loaded(self, start: int, length: int) -> memoryview:
        begin = start - self._loaded_from
        return memoryview(self._reply)[begin : begin + length]

    # -- through the data port (§9.8) ------------------------------------------------------------------------

    def _next_piece(self) -> None:
        left = self._total_bytes - self._moved_bytes
        if not left:
            self._good()
            return
        limit = self._limit or LIMIT_MAX  # it can be written between two pieces
        size = left if left <= limit else max(limit & ~1, 2)
        size = min(size, left)
        self._load(self._moved_bytes, size, lambda: self._send_piece(size))

    def _send_piece(self, size: int) -> None:
        piece = self._loaded(self._moved_bytes, size)
        self._moved_bytes += size
        self.lba_mid, self.lba_high = size & 0xFF, size >> 8
        self._reason(REASON_TO_HOST)
        self.send(bytes(piece) + b"\0" if size & 1 else piece, self._next_piece)

    # -- through the bus master (§9.9) -----------------------------------------------------------------------

    def _run_dma(self, scatter: Scatter) -> None:
        left = self._total_bytes - self._moved_bytes
        room = scatter.total - self._moved_bytes
        if not left or room <= 0:
            # QEMU-COMPAT: descriptors that are left do not keep the engine active
            self.channel.dma.finish(scatter, max(self._moved_bytes, scatter.total))
            if not left and room >= 0:
                self._good()
            # QEMU-COMPAT: else the table is too short, the engine stops, and the drive waits for a reset
            return
        size = min(left, BATCH_BYTES // SECTOR_BYTES * self._block_bytes)

        def store() -> None:
            scatter.store(self._moved_bytes, self._loaded(self._moved_bytes, size))
            self._moved_bytes += size
            self._run_dma(scatter)

        self._load(self._moved_bytes, size, store)


def _swapped(text: str, width: int) -> bytes:
    """ASCII as ATA has it: the first character is the high byte of the first word."""
    plain = text.encode("ascii", "replace")[:width].ljust(width)
    return bytes(plain[index ^ 1] for index in range(width))

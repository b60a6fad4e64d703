# SPDX-License-Identifier: Apache-2.0
"""What sits at one of the two positions of an IDE channel: the task file, and the protocol engine of a drive.

ATA/ATAPI-6 (T13/1410D): registers chapter 7, protocols chapter 9. ``Unit`` is a position with its copy of the command
block registers; by itself nothing is there. ``Drive`` is one that is there: a subclass (``ata.AtaDrive``, an ATAPI
drive) implements ``command`` and drives the phases with

    self.send(data, then)       PIO data-in: the host reads ``data`` through the data port, then ``then()``
    self.receive(count, then)   PIO data-out: the host writes ``count`` bytes into ``self.buffer``, then ``then()``
    self.dma(run)               ``run(scatter)`` when the bus master runs; then ``self.channel.dma.finish(…)``
    self.busy()                 BSY while ``self.io`` works; its ``then(error)`` comes back with the lock held
    self.succeed(), self.abort()

Everything here runs with the DeviceLock held. A position's callbacks never outlive ``stop_transfer``: a reset or a
new command drops them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.ide.channel import Channel
    from vmmd.devices.ide.disk_io import DiskIo
    from vmmd.devices.ide.dma import Scatter

# status register (§7.15)
ST_ERR = 0x01
ST_DRQ = 0x08
ST_DSC = 0x10  # seek complete
ST_DF = 0x20
ST_DRDY = 0x40
ST_BSY = 0x80
ST_READY = ST_DRDY | ST_DSC

# error register (§7.9)
ERR_ABRT = 0x04
ERR_IDNF = 0x10
ERR_UNC = 0x40
DIAGNOSTIC_PASSED = 0x01

# device register (§7.7)
DEV_HEAD = 0x0F
DEV_UNIT = 0x10
DEV_LBA = 0x40
DEV_ALWAYS_ON = 0xA0

CMD_DIAGNOSTIC = 0x90
CMD_FLUSH = frozenset({0xE7, 0xEA})

#: what is on its way through the data port or the bus master at once, at most: 256 sectors
BUFFER_BYTES = 128 * 1024

_NOTHING = memoryview(b"")


class Unit:
    """A position on the channel, and the command block registers as the drive there sees them (§7.2)."""

    #: count, LBA low, mid, high after a reset: nothing is there
    signature: tuple[int, int, int, int] = (1, 1, 0xFF, 0xFF)
    present = False

    def __init__(self, channel: Channel, number: int) -> None:
        self.channel = channel
        self.number = number
        # wide registers keep what was written before the last write in the upper byte's place (HOB, §7.1.5)
        self.features = self.previous_features = 0
        self.count = self.previous_count = 0
        self.lba_low = self.previous_lba_low = 0
        self.lba_mid = self.previous_lba_mid = 0
        self.lba_high = self.previous_lba_high = 0
        self.device = DEV_ALWAYS_ON
        self.error = 0
        self.status = 0
        # the data port: bytes position..end of the view; a view that is written to is one of ``buffer``
        self.window = _NOTHING
        self.position = 0
        self.end = 0
        self.host_reads = True
        self._then: Callable[[], None] | None = None

    # -- the data port (§9.5, §9.6) --------------------------------------------------------------------------

    def port_read(self, size: int) -> int:
        """The host reads 2 or 4 bytes; zero when there is nothing to read."""
        position = self.position
        after = position + size
        if after > self.end or not self.host_reads:
            return 0
        value = int.from_bytes(self.window[position:after], "little")
        self.position = after
        if after == self.end:
            self._moved()
        return value

    def port_read_block(self, size: int, view: memoryview) -> int:
        """As many accesses of ``size`` bytes as there are data for and ``view`` has room: how many bytes that was."""
        if not self.host_reads or size == 1:
            return 0
        count = min(len(view), self.end - self.position) // size * size
        if count:
            after = self.position + count
            view[:count] = self.window[self.position : after]
            self.position = after
            if after == self.end:
                self._moved()
        return count

    def port_write(self, size: int, value: int) -> None:
        """The host writes 2 or 4 bytes; dropped when nothing is wanted."""
        position = self.position
        after = position + size
        if after > self.end or self.host_reads:
            return
        self.window[position:after] = value.to_bytes(size, "little")
        self.position = after
        if after == self.end:
            self._moved()

    def _moved(self) -> None:
        """The data port's last byte has gone by."""
        then = self._then
        self.close_port()
        if then is not None:
            then()

    def close_port(self) -> None:
        """No data phase any more."""
        self.window, self.position, self.end, self.host_reads, self._then = _NOTHING, 0, 0, True, None
        self.status &= ~ST_DRQ

    # -- for the channel -------------------------------------------------------------------------------------

    def set_signature(self) -> None:
        """What a reset or a diagnostic leaves in the registers (§9.12)."""
        self.count, self.lba_low, self.lba_mid, self.lba_high = self.signature
        self.device = DEV_ALWAYS_ON

    def power_on(self) -> None:
        """Power-on, or a reset of the machine: settings, too, are what they were at first."""
        self.reset_registers()

    def reset_registers(self) -> None:
        """Registers after any reset; what was in flight is forgotten."""
        self.stop_transfer()
        self.features = self.error = 0
        self.status = ST_READY
        self.previous_features = self.previous_count = 0
        self.previous_lba_low = self.previous_lba_mid = self.previous_lba_high = 0
        self.set_signature()

    def software_reset(self) -> None:
        """SRST in the device control register (§9.2): a reset, a diagnostic, and QEMU-COMPAT an interrupt."""
        self.reset_registers()
        self.error = DIAGNOSTIC_PASSED
        self.channel.interrupt()

    def stop_transfer(self) -> None:
        """Drop what is in flight: no callback of it comes any more."""
        self.close_port()

    def execute(self, code: int) -> None:
        """A command was written. QEMU-COMPAT: an empty master beside a slave answers as a disk without medium."""
        self.error, self.status = 0, ST_READY
        if code == CMD_DIAGNOSTIC:
            self.set_signature()
            self.error = DIAGNOSTIC_PASSED
        elif code not in CMD_FLUSH:
            self.error, self.status = ERR_ABRT, ST_DRDY | ST_ERR
        self.channel.interrupt()

    @property
    def takes_reset_while_busy(self) -> bool:
        """Whether DEVICE RESET (08h) is a command here: on packet devices, and even while they are busy."""
        return False


class Drive(Unit):
    """A drive. ``io`` carries its requests to the backend."""

    signature = (1, 1, 0, 0)
    present = True

    def __init__(self, channel: Channel, number: int, io: DiskIo) -> None:
        super().__init__(channel, number)
        self.io = io
        self.buffer = bytearray(BUFFER_BYTES)

    # -- what a subclass implements --------------------------------------------------------------------------

    def command(self, code: int) -> None:
        """Carry out a command. Registers hold its parameters; ``error`` is 0 and no transfer is open."""
        raise NotImplementedError

    def medium_resized(self) -> None:
        """The backend has another size."""

    # -- phases ----------------------------------------------------------------------------------------------

    def send(self, data: bytes | bytearray | memoryview, then: Callable[[], None]) -> None:
        """PIO data-in: DRQ and an interrupt (§9.5); ``then()`` when the host has read all of ``data``."""
        self._open(memoryview(data), then, host_reads=True)
        self.channel.interrupt()

    def receive(self, count: int, then: Callable[[], None], *, interrupt: bool = True) -> None:
        """PIO data-out: DRQ; ``then()`` when ``buffer[:count]`` is filled (§9.6). The first block of a command has no
        interrupt."""
        self._open(memoryview(self.buffer)[:count], then, host_reads=False)
        if interrupt:
            self.channel.interrupt()

    def _open(self, window: memoryview, then: Callable[[], None], *, host_reads: bool) -> None:
        self.window, self.position, self.end = window, 0, len(window)
        self.host_reads, self._then = host_reads, then
        self.status = (self.status | ST_READY | ST_DRQ) & ~ST_BSY

    def dma(self, run: Callable[[Scatter], None]) -> None:
        """Ask for the bus master (§9.7): ``run`` is called when it is started, maybe at once."""
        self.status = ST_READY | ST_DRQ
        self.channel.dma.request(self, run)

    def busy(self) -> None:
        """BSY until a request has ended."""
        self.status = ST_BSY | ST_READY

    def succeed(self, status: int = ST_READY) -> None:
        """The command has ended well."""
        self.status = status
        self.channel.interrupt()

    def abort(self) -> None:
        """The command has ended: not supported, or not with these parameters (§9.4)."""
        self.fail(ERR_ABRT)

    def fail(self, error: int) -> None:
        """The command has ended with an error."""
        self.close_port()
        self.error = error
        self.status = ST_DRDY | ST_ERR
        self.channel.interrupt()

    # -- Unit ------------------------------------------------------------------------------------------------

    def execute(self, code: int) -> None:
        self.stop_transfer()
        self.error = 0
        self.status = ST_READY
        self.command(code)

    def stop_transfer(self) -> None:
        super().stop_transfer()
        if self.io.cancel():
            self.buffer = bytearray(BUFFER_BYTES)  # the other one is the backend's until it has done
        self.channel.dma.cancel(self)

# SPDX-License-Identifier: Apache-2.0
"""The commands of an ATA disk (ATA/ATAPI-6 chapter 8): identify, read, write, verify, flush, features, power, SMART.

Implemented: IDENTIFY DEVICE, READ/WRITE SECTORS/MULTIPLE/DMA with their EXT forms, WRITE VERIFY, VERIFY, SEEK, FLUSH
CACHE, SET FEATURES, SET MULTIPLE, INITIALIZE DEVICE PARAMETERS, EXECUTE DEVICE DIAGNOSTIC, READ NATIVE MAX, DATA SET
MANAGEMENT (TRIM), SMART, the power commands, SECURITY FREEZE LOCK. Everything else is aborted, with the registers as a
disk leaves them. Not implemented: security passwords, overlapped
and queued commands, host protected area, CFA features. QEMU-COMPAT: VERIFY and SEEK look at no sector; EXECUTE
DEVICE DIAGNOSTIC is done by the selected drive alone; statuses of the power commands are without DSC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.ide import smart as sm
from vmmd.devices.ide.disk_io import Kind, flush
from vmmd.devices.ide.drive import DEV_HEAD, DIAGNOSTIC_PASSED, ST_DRDY
from vmmd.devices.ide.geometry import Chs
from vmmd.devices.ide.identify import MODE_WORDS, MULTIPLE_MAX, DiskIdentity, DiskState, identify
from vmmd.devices.ide.transfers import SectorDrive

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.ide.channel import Channel
    from vmmd.devices.ide.disk_io import DiskIo

POWER_ACTIVE = 0xFF  # what CHECK POWER MODE finds
TRIM = 0x01  # feature of DATA SET MANAGEMENT

# SET FEATURES (§8.46)
SF_WRITE_CACHE_ON, SF_WRITE_CACHE_OFF = 0x02, 0x82
SF_TRANSFER_MODE = 0x03
#: features that are what they are: power management, read-ahead, power-on defaults, acoustics, obsolete ones
SF_WITHOUT_EFFECT = frozenset({0x05, 0x42, 0x55, 0x66, 0x67, 0x69, 0x85, 0x96, 0x9A, 0xAA, 0xC2, 0xCC})
DEFAULT_MODES = {62: 0, 63: 0, 88: 0x2000}  # Ultra DMA 5


class AtaDrive(SectorDrive):
    """An ATA disk."""

    def __init__(self, channel: Channel, number: int, io: DiskIo, identity: DiskIdentity, *, write_cache: bool) -> None:
        """``write_cache``: what is written may stay in caches until a flush, until the host says otherwise."""
        super().__init__(channel, number, io)
        self.identity = identity
        self.translation = identity.geometry
        self.smart = sm.Smart()
        self.write_cache = self._first_write_cache = write_cache
        self._modes = dict(DEFAULT_MODES)

    def power_on(self) -> None:
        super().power_on()
        self.translation = self.identity.geometry
        self._modes = dict(DEFAULT_MODES)
        self._switch_write_cache(on=self._first_write_cache)

    def reset_registers(self) -> None:
        super().reset_registers()
        self.multiple = MULTIPLE_MAX

    def command(self, code: int) -> None:
        run = _COMMANDS.get(code)
        if run is None:
            self.abort()
        else:
            run(self)

    # -- what it is ------------------------------------------------------------------------------------------

    def cmd_identify(self) -> None:
        state = DiskState(
            self.sectors, self.translation, self.multiple, self.write_cache, self.smart.enabled, self._modes
        )
        self.send(identify(self.identity, state), _nothing)

    def cmd_diagnostic(self) -> None:
        self.set_signature()
        self.error = DIAGNOSTIC_PASSED
        self.succeed()

    def cmd_native_max(self, *, wide: bool) -> None:
        self.take_range(wide=wide)
        self.address = self.sectors - 1
        self.succeed()

    # -- data ------------------------------------------------------------------------------------------------

    def cmd_read(self, *, wide: bool) -> None:
        self.take_range(wide=wide)
        self.read_blocks(1)

    def cmd_read_multiple(self, *, wide: bool) -> None:
        if not self.multiple:
            self.abort()
            return
        self.take_range(wide=wide)
        self.read_blocks(self.multiple)

    def cmd_write(self, *, wide: bool) -> None:
        self.take_range(wide=wide)
        self.write_blocks(1)

    def cmd_write_multiple(self, *, wide: bool) -> None:
        if not self.multiple:
            self.abort()
            return
        self.take_range(wide=wide)
        self.write_blocks(self.multiple)

    def cmd_dma(self, kind: Kind, *, wide: bool) -> None:
        self.take_range(wide=wide)
        self.move_by_dma(kind)

    def cmd_verify(self, *, wide: bool) -> None:
        self.take_range(wide=wide)
        self.succeed()

    def cmd_data_set_management(self) -> None:
        if self.features & TRIM:
            self.trim()
        else:
            self.abort()

    def cmd_flush(self) -> None:
        self.busy()
        self.io.submit(flush(self._flushed))

    def _flushed(self, error: int) -> None:
        if error:
            self.abort()
        else:
            self.succeed()

    # -- settings --------------------------------------------------------------------------------------------

    def cmd_set_multiple(self) -> None:
        block = self.count & 0xFF
        if block > MULTIPLE_MAX or block & (block - 1):
            self.abort()
            return
        self.multiple = block
        self.succeed()

    def cmd_initialize_parameters(self) -> None:
        """Sectors a track and heads of CHS addresses; cylinders follow (§8.17)."""
        heads, sectors = (self.device & DEV_HEAD) + 1, self.count & 0xFF
        if not sectors:
            self.abort()
            return
        whole = self.identity.geometry
        cylinders = whole.cylinders * whole.heads * whole.sectors // (heads * sectors)
        self.translation = Chs(min(cylinders, 0xFFFF), heads, sectors)
        self.succeed()

    def cmd_set_features(self) -> None:
        feature = self.features
        if feature == SF_TRANSFER_MODE:
            self._set_mode()
        elif feature == SF_WRITE_CACHE_ON:
            self._switch_write_cache(on=True)
            self.succeed()
        elif feature == SF_WRITE_CACHE_OFF:  # what is in the cache goes to the medium
            self._switch_write_cache(on=False)
            self.cmd_flush()
        elif feature in SF_WITHOUT_EFFECT:
            self.succeed()
        else:
            self.abort()

    def _switch_write_cache(self, *, on: bool) -> None:
        self.write_cache = on
        self.io.flush_after_write = not on and not self.io.drive.backend.writes_through

    def _set_mode(self) -> None:
        """The transfer mode of the count register: PIO, or one of a kind of DMA (§8.46.11)."""
        kind, number = self.count >> 3, self.count & 7
        word = MODE_WORDS.get(kind)
        if word is None and kind not in (0, 1):
            self.abort()
            return
        self._modes = dict.fromkeys(MODE_WORDS.values(), 0)
        if word is not None:
            self._modes[word] = 1 << number + 8
        self.succeed()

    # -- power -----------------------------------------------------------------------------------------------

    def cmd_power(self) -> None:
        """IDLE, STANDBY, SLEEP: nothing changes."""
        self.succeed(ST_DRDY)

    def cmd_check_power(self) -> None:
        self.count = POWER_ACTIVE
        self.succeed()

    def cmd_freeze_lock(self) -> None:
        self.count = 0  # QEMU-COMPAT
        self.succeed()

    def cmd_done(self) -> None:
        """Nothing to do: SEEK, RECALIBRATE."""
        self.succeed()

    # -- SMART -----------------------------------------------------------------------------------------------

    def cmd_smart(self) -> None:
        smart = self.smart
        feature = self.features
        keyed = (self.lba_mid, self.lba_high) == (sm.KEY_MID, sm.KEY_HIGH)
        if not keyed or not (smart.enabled or feature == sm.ENABLE):
            self.abort()
        elif feature in (sm.READ_DATA, sm.READ_THRESHOLDS, sm.READ_LOG):
            self._smart_page(feature)
        elif feature == sm.EXECUTE_OFFLINE:
            if smart.self_test(self.lba_low):
                self.succeed()
            else:
                self.abort()
        else:
            self._smart_switch(feature)

    def _smart_page(self, feature: int) -> None:
        smart = self.smart
        page: bytes | None
        if feature == sm.READ_DATA:
            page = smart.data()
        elif feature == sm.READ_THRESHOLDS:
            page = smart.thresholds()
        else:
            page = smart.log(self.lba_low)
        if page is None:
            self.abort()
        else:
            self.send(page, _nothing)

    def _smart_switch(self, feature: int) -> None:
        smart = self.smart
        if feature == sm.AUTOSAVE and self.count in (0, 0xF1):
            smart.autosave = self.count == 0xF1
        elif feature in (sm.ENABLE, sm.DISABLE):
            smart.enabled = feature == sm.ENABLE
        elif feature != sm.RETURN_STATUS:
            self.abort()
            return
        self.succeed()


def _nothing() -> None:
    """After the last word nothing is left to do."""


def _both(run: Callable[..., None], plain: tuple[int, ...], wide: int) -> dict[int, Callable[[AtaDrive], None]]:
    """A command with 28-bit codes and a 48-bit one."""

    def narrow_form(drive: AtaDrive) -> None:
        run(drive, wide=False)

    def wide_form(drive: AtaDrive) -> None:
        run(drive, wide=True)

    return {**dict.fromkeys(plain, narrow_form), wide: wide_form}


def _dma(kind: Kind, plain: tuple[int, ...], wide: int) -> dict[int, Callable[[AtaDrive], None]]:
    def run(drive: AtaDrive, *, wide: bool) -> None:
        drive.cmd_dma(kind, wide=wide)

    return _both(run, plain, wide)


_COMMANDS: dict[int, Callable[[AtaDrive], None]] = {
    0x06: AtaDrive.cmd_data_set_management,
    0x10: AtaDrive.cmd_done,  # RECALIBRATE
    **_both(AtaDrive.cmd_read, (0x20, 0x21), 0x24),
    **_dma(Kind.READ, (0xC8, 0xC9), 0x25),
    **_both(AtaDrive.cmd_native_max, (0xF8,), 0x27),
    **_both(AtaDrive.cmd_read_multiple, (0xC4,), 0x29),
    **_both(AtaDrive.cmd_write, (0x30, 0x31, 0x3C), 0x34),  # 3Ch: WRITE VERIFY
    **_dma(Kind.WRITE, (0xCA, 0xCB), 0x35),
    **_both(AtaDrive.cmd_write_multiple, (0xC5,), 0x39),
    **_both(AtaDrive.cmd_verify, (0x40, 0x41), 0x42),
    0x70: AtaDrive.cmd_done,  # SEEK
    0x90: AtaDrive.cmd_diagnostic,
    0x91: AtaDrive.cmd_initialize_parameters,
    **dict.fromkeys((0x94, 0x95, 0x96, 0x97, 0x99), AtaDrive.cmd_power),
    **dict.fromkeys((0x98, 0xE5), AtaDrive.cmd_check_power),
    0xB0: AtaDrive.cmd_smart,
    0xC6: AtaDrive.cmd_set_multiple,
    **dict.fromkeys((0xE0, 0xE1, 0xE2, 0xE3, 0xE6), AtaDrive.cmd_power),
    **dict.fromkeys((0xE7, 0xEA), AtaDrive.cmd_flush),
    0xEC: AtaDrive.cmd_identify,
    0xEF: AtaDrive.cmd_set_features,
    0xF5: AtaDrive.cmd_freeze_lock,
}

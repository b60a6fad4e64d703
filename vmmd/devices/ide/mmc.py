# SPDX-License-Identifier: Apache-2.0
"""The commands of a CD/DVD-ROM drive (MMC-3; SFF-8020i), whatever brings them: a tray, a medium, sense data, events.

    outcome = unit.execute(packet, may_send=True)
      None: done    Sense: check condition    Reply: data for the host    Read: sectors for the host
      NO_ROOM: data would have to be sent, and the host has left no room (``may_send=False``)

Implemented: the commands of ``COMMANDS``. Deliberately not, as in QEMU 7.2: MODE SENSE(6), READ(6), READ SUB-CHANNEL,
audio, MODE SELECT, writing; the drive reads, at a speed that nothing changes.

QEMU-COMPAT: no unit attention after a reset, a reset closes and unlocks the tray. After a change of the medium by the
host the next command that needs it fails with NOT READY, then one with UNIT ATTENTION, so that guests see it go and
come (``_changed``); the attention stays until it is asked for.

DeviceLock held. Numbers of a packet are checked against the medium here.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from vmmd.devices.ide import mmc_data as data

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import DriveHandle

PACKET_BYTES = 12

# operation codes (MMC-3 §6)
TEST_UNIT_READY = 0x00
REQUEST_SENSE = 0x03
INQUIRY = 0x12
START_STOP_UNIT = 0x1B
PREVENT_ALLOW = 0x1E
READ_CAPACITY = 0x25
READ_10 = 0x28
SEEK_10 = 0x2B
READ_TOC = 0x43
GET_CONFIGURATION = 0x46
GET_EVENT_STATUS = 0x4A
READ_DISC_INFORMATION = 0x51
MODE_SENSE_10 = 0x5A
READ_12 = 0xA8
READ_DVD_STRUCTURE = 0xAD
SET_CD_SPEED = 0xBB
MECHANISM_STATUS = 0xBD
READ_CD = 0xBE

# sense keys (SPC-2 §7.20.4)
NO_SENSE, NOT_READY, ILLEGAL_REQUEST, UNIT_ATTENTION = 0, 2, 5, 6

SENSE_BYTES = 18
_CURRENT_ERROR = 0xF0  # valid, fixed format
_GUEST_SECTOR_BYTES = 512  # what sizes of images are rounded up to

#: READ CD: what of a frame is wanted (byte 9)
_WANT_MASK, _WANT_NOTHING, _WANT_USER_DATA, _WANT_ALL = 0xF8, 0x00, 0x10, 0xF8


class Sense(NamedTuple):
    """Why a command ended with a check condition."""

    key: int
    asc: int  # additional sense code


MEDIUM_NOT_PRESENT = Sense(NOT_READY, 0x3A)
ILLEGAL_OPCODE = Sense(ILLEGAL_REQUEST, 0x20)
OUT_OF_RANGE = Sense(ILLEGAL_REQUEST, 0x21)
INVALID_FIELD = Sense(ILLEGAL_REQUEST, 0x24)
INCOMPATIBLE_FORMAT = Sense(ILLEGAL_REQUEST, 0x30)
SAVING_NOT_SUPPORTED = Sense(ILLEGAL_REQUEST, 0x39)
MEDIUM_CHANGED = Sense(UNIT_ATTENTION, 0x28)
REMOVAL_PREVENTED = 0x53


class Reply(NamedTuple):
    """Data from the drive itself; the host wants at most ``limit`` bytes."""

    data: bytes
    limit: int


class Read(NamedTuple):
    """Blocks of the medium, which are there; ``whole_frames``: with everything around them."""

    lba: int
    blocks: int
    whole_frames: bool = False


class Other(enum.Enum):
    """Outcomes without a value."""

    NO_ROOM = "no room"
    #: an attention is pending that was reported before: a check condition with nothing new to tell
    ATTENTION = "attention"


Outcome = None | Sense | Reply | Read | Other


class Identity(NamedTuple):
    """What a drive says of itself."""

    serial: str
    model: str | None  # None: the type's
    version: str
    wwn: int


class OpticalUnit:
    """A drive's tray, medium and state. ``tray_moved(open)`` is called when the guest moves the tray."""

    def __init__(self, handle: DriveHandle, identity: Identity, tray_moved: Callable[[bool], None]) -> None:
        self.handle = handle
        self.identity = identity
        self._tray_moved = tray_moved
        self.tray_open = self.locked = False
        self.sense = Sense(NO_SENSE, 0)
        self._changed = 0  # the medium was changed; which of the two errors comes next
        self._new_medium = self._eject_wanted = False  # events
        self._may_send = True

    # -- medium ----------------------------------------------------------------------------------------------

    @property
    def sectors(self) -> int:
        """Blocks of 2048 bytes, as many as commands can count."""
        size = -(-self.handle.backend.size_bytes // _GUEST_SECTOR_BYTES) * _GUEST_SECTOR_BYTES
        return min(size // data.SECTOR_BYTES, data.SECTORS_MAX)

    @property
    def ready(self) -> bool:
        """A medium is in, and the tray is closed."""
        return not self.tray_open and self.handle.inserted and self.handle.backend.size_bytes > 0

    @property
    def is_dvd(self) -> bool:
        """The medium is more than a CD can be."""
        return self.ready and self.handle.backend.size_bytes > data.CD_SECTORS_MAX * data.SECTOR_BYTES

    def reset(self) -> None:
        """Power-on, and every other reset. QEMU-COMPAT: the tray closes, and nobody is told."""
        self.tray_open = self.locked = False
        self.sense = Sense(NO_SENSE, 0)
        self._changed = 0

    def medium_changed(self, load: bool) -> None:
        """The host has closed the tray with what is in it now, or opened it."""
        self.tray_open = not load
        self._changed = 1
        self._new_medium, self._eject_wanted = True, False

    def eject_request(self, force: bool) -> None:
        """The host asks the guest to open the tray."""
        self._eject_wanted = True
        if force:
            self.locked = False

    # -- commands --------------------------------------------------------------------------------------------

    def execute(self, packet: bytes, *, may_send: bool) -> Outcome:
        """Carry out a command. A check condition is remembered for REQUEST SENSE."""
        self._may_send = may_send
        outcome = self._execute(packet)
        if isinstance(outcome, Sense):
            self.sense = outcome
        return outcome

    def _execute(self, packet: bytes) -> Outcome:
        command = COMMANDS.get(packet[0])
        traits = command.traits if command is not None else Trait(0)
        if not traits & Trait.ALWAYS:
            if self.sense.key == UNIT_ATTENTION:
                return Other.ATTENTION
            if self._changed and not self.tray_open and self.handle.inserted:
                return self._tell_changed()
        if traits & Trait.NEEDS_MEDIUM and not self.ready:
            return MEDIUM_NOT_PRESENT
        if command is None:
            return ILLEGAL_OPCODE
        if traits & Trait.SENDS and not self._may_send:
            return Other.NO_ROOM
        return command.run(self, packet)

    def _tell_changed(self) -> Sense:
        """The medium went, and then another came."""
        first = self._changed == 1
        self._changed = 2 if first else 0
        return MEDIUM_NOT_PRESENT if first else MEDIUM_CHANGED

    def test_unit_ready(self, packet: bytes) -> Outcome:
        return None

    def request_sense(self, packet: bytes) -> Outcome:
        key, asc = self.sense
        reply = bytearray(SENSE_BYTES)
        reply[0], reply[2], reply[7], reply[12] = _CURRENT_ERROR, key, SENSE_BYTES - 8, asc
        if key == UNIT_ATTENTION:
            self.sense = Sense(NO_SENSE, asc)
        return Reply(bytes(reply), packet[4])

    def inquiry(self, packet: bytes) -> Outcome:
        who = self.identity
        if not packet[1] & 1:
            return Reply(data.inquiry(who.version), packet[4])
        if packet[2] == 0:
            return Reply(data.supported_pages(), packet[4])
        if packet[2] == 0x83:  # device identification
            return Reply(data.identification(who.serial, who.model or "", who.wwn), packet[4])
        return INVALID_FIELD

    def mode_sense(self, packet: bytes) -> Outcome:
        control, code = packet[2] >> 6, packet[2] & 0x3F
        if control == 3:  # saved values
            return SAVING_NOT_SUPPORTED
        page = data.mode_sense(code, locked=self.locked) if control == 0 else None
        return INVALID_FIELD if page is None else Reply(page, _be(packet, 7, 2))

    def start_stop(self, packet: bytes) -> Outcome:
        """The tray (§6.41); power conditions mean nothing here."""
        start, load_eject = packet[4] & 1, packet[4] & 2
        if packet[4] & 0xF0 or not load_eject:
            return None
        if not start and not self.tray_open and self.locked:
            return Sense(NOT_READY if self.handle.inserted else ILLEGAL_REQUEST, REMOVAL_PREVENTED)
        if self.tray_open == bool(start):
            self.tray_open = not start
            self._tray_moved(self.tray_open)
        return None

    def prevent_allow(self, packet: bytes) -> Outcome:
        self.locked = bool(packet[4] & 1)
        return None

    def read_capacity(self, packet: bytes) -> Outcome:
        return Reply(data.be32(self.sectors - 1 & 0xFFFF_FFFF) + data.be32(data.SECTOR_BYTES), 8)

    def read_10(self, packet: bytes) -> Outcome:
        return self._read(_be(packet, 2, 4), _be(packet, 7, 2))

    def read_12(self, packet: bytes) -> Outcome:
        return self._read(_be(packet, 2, 4), _be(packet, 6, 4))

    def read_cd(self, packet: bytes) -> Outcome:
        """§6.20. QEMU-COMPAT: user data alone, or everything."""
        lba, count, want = _be(packet, 2, 4), _be(packet, 6, 3), packet[9] & _WANT_MASK
        if not count:
            return None
        if lba + count > self.sectors:
            return OUT_OF_RANGE
        if want == _WANT_NOTHING:
            return None
        if not self._may_send:
            return Other.NO_ROOM
        if want not in (_WANT_USER_DATA, _WANT_ALL):
            return INVALID_FIELD
        return Read(lba, count, want == _WANT_ALL)

    def _read(self, lba: int, count: int) -> Outcome:
        if not count:
            return None
        return OUT_OF_RANGE if lba + count > self.sectors else Read(lba, count)

    def seek(self, packet: bytes) -> Outcome:
        return OUT_OF_RANGE if _be(packet, 2, 4) >= self.sectors else None

    def read_toc(self, packet: bytes) -> Outcome:
        """§6.29. QEMU-COMPAT: the format is where SFF-8020i has it."""
        msf, first, form = bool(packet[1] & 2), packet[6], packet[9] >> 6
        found: bytes | None = None
        if form == 0:
            found = data.toc(self.sectors, first, msf=msf)
        elif form == 1:
            found = data.sessions()
        elif form == 2:
            found = data.raw_toc(self.sectors, msf=msf)
        return INVALID_FIELD if found is None else Reply(found, _be(packet, 7, 2))

    def get_configuration(self, packet: bytes) -> Outcome:
        """§6.5. QEMU-COMPAT: the whole list, from feature 0 on, and nothing else."""
        if _be(packet, 2, 2):
            return INVALID_FIELD
        profile = data.PROFILE_NONE
        if self.ready:
            profile = data.PROFILE_DVD_ROM if self.is_dvd else data.PROFILE_CD_ROM
        return Reply(data.configuration(profile), _be(packet, 7, 2))

    def get_event_status(self, packet: bytes) -> Outcome:
        """§6.6: polled, media class."""
        if not packet[1] & 1:
            return INVALID_FIELD
        limit = _be(packet, 7, 2)
        if not packet[4] & data.MEDIA_CLASS_BIT:
            return Reply(data.no_event(), limit)
        state = data.MEDIUM_PRESENT if self.handle.inserted else 0
        if self.tray_open:
            return Reply(data.media_event(data.MEDIA_NO_CHANGE, data.TRAY_OPEN), limit)
        return Reply(data.media_event(self._next_event(), state), limit)

    def _next_event(self) -> int:
        if self._new_medium:
            self._new_medium = False
            return data.MEDIA_NEW
        if self._eject_wanted:
            self._eject_wanted = False
            return data.MEDIA_EJECT_REQUEST
        return data.MEDIA_NO_CHANGE

    def read_disc_information(self, packet: bytes) -> Outcome:
        if packet[1] & 7:  # of Blu-ray discs
            return INVALID_FIELD
        return Reply(data.disc_information(), _be(packet, 7, 2))

    def read_dvd_structure(self, packet: bytes) -> Outcome:
        code, limit = packet[7], _be(packet, 8, 2)
        if code != data.DVD_LIST and not self.is_dvd:
            return INCOMPATIBLE_FORMAT
        if packet[1]:  # media type
            return INVALID_FIELD
        found = data.dvd_structures() if code == data.DVD_LIST else data.dvd_structure(code, self.sectors)
        return INVALID_FIELD if found is None else Reply(found, limit)

    def set_speed(self, packet: bytes) -> Outcome:
        return None

    def mechanism_status(self, packet: bytes) -> Outcome:
        return Reply(data.mechanism_status(), _be(packet, 8, 2))


def _be(packet: bytes, offset: int, size: int) -> int:
    return int.from_bytes(packet[offset : offset + size], "big")


class Trait(enum.IntFlag):
    """What is checked before a command runs."""

    ALWAYS = 1  # runs also with a unit attention pending
    NEEDS_MEDIUM = 2
    SENDS = 4  # has data for the host, or an error


class Command(NamedTuple):
    """One entry of the table."""

    run: Callable[[OpticalUnit, bytes], Outcome]
    traits: Trait


_U, _T = OpticalUnit, Trait
COMMANDS: dict[int, Command] = {
    TEST_UNIT_READY: Command(_U.test_unit_ready, _T.NEEDS_MEDIUM),
    REQUEST_SENSE: Command(_U.request_sense, _T.ALWAYS | _T.SENDS),
    INQUIRY: Command(_U.inquiry, _T.ALWAYS | _T.SENDS),
    START_STOP_UNIT: Command(_U.start_stop, _T(0)),
    PREVENT_ALLOW: Command(_U.prevent_allow, _T(0)),
    READ_CAPACITY: Command(_U.read_capacity, _T.NEEDS_MEDIUM | _T.SENDS),
    READ_10: Command(_U.read_10, _T.NEEDS_MEDIUM | _T.SENDS),
    SEEK_10: Command(_U.seek, _T.NEEDS_MEDIUM),
    READ_TOC: Command(_U.read_toc, _T.NEEDS_MEDIUM | _T.SENDS),
    GET_CONFIGURATION: Command(_U.get_configuration, _T.ALWAYS | _T.SENDS),
    GET_EVENT_STATUS: Command(_U.get_event_status, _T.ALWAYS | _T.SENDS),
    READ_DISC_INFORMATION: Command(_U.read_disc_information, _T.NEEDS_MEDIUM | _T.SENDS),
    MODE_SENSE_10: Command(_U.mode_sense, _T.SENDS),
    READ_12: Command(_U.read_12, _T.NEEDS_MEDIUM | _T.SENDS),
    READ_DVD_STRUCTURE: Command(_U.read_dvd_structure, _T.NEEDS_MEDIUM | _T.SENDS),
    SET_CD_SPEED: Command(_U.set_speed, _T(0)),
    MECHANISM_STATUS: Command(_U.mechanism_status, _T.SENDS),
    READ_CD: Command(_U.read_cd, _T.NEEDS_MEDIUM),
}

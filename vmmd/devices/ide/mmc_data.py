# SPDX-License-Identifier: Apache-2.0
"""What a DVD-ROM drive answers, as bytes: INQUIRY, mode pages, tables of contents, features, DVD structures, frames.

SPC-2 (INQUIRY), MMC-3 (all others); section numbers are MMC-3's unless another document is named. Contents are those of
QEMU 7.2's drive, compared byte by byte. Pure functions.
"""

from __future__ import annotations

SECTOR_BYTES = 2048
FRAME_BYTES = 2352  # a whole frame of a data track: READ CD with everything
SYNC = b"\x00" + 10 * b"\xff" + b"\x00"
MODE_1 = 1

FRAMES_PER_SECOND = 75
SECONDS_PER_MINUTE = 60
PREGAP_FRAMES = 2 * FRAMES_PER_SECOND  # LBA 0 is at 00:02:00
#: what is larger is no CD: 80 minutes
CD_SECTORS_MAX = 80 * SECONDS_PER_MINUTE * FRAMES_PER_SECOND

SECTORS_MAX = 0xFFFF_FFFF  # 8 TiB

LEAD_OUT = 0xAA
DATA_TRACK = 0x14  # ADR 1: Q channel has positions; control 4: data
DATA_TRACK_LEAD_OUT = 0x16

PROFILE_NONE = 0
PROFILE_CD_ROM = 0x0008
PROFILE_DVD_ROM = 0x0010

DEVICE_CD = 0x05
REMOVABLE = 0x80
RESPONSE_DATA_FORMAT = 2


def be16(value: int) -> bytes:
    """Most significant byte first."""
    return value.to_bytes(2, "big")


def be32(value: int) -> bytes:
    """Most significant byte first."""
    return value.to_bytes(4, "big")


def with_length(rest: bytes) -> bytes:
    """A 16-bit length in front that counts what follows it."""
    return be16(len(rest)) + rest


# -- identity (SPC-2 §7.3, §8.4) ---------------------------------------------------------------------------------------


def inquiry(version: str) -> bytes:
    """Standard data: a removable CD/DVD drive on ATAPI."""
    head = bytes([DEVICE_CD, REMOVABLE, 0, 0x20 | 1, 36 - 5, 0, 0, 0])  # ATAPI version 2, format 1
    return head + padded("QEMU", 8) + padded("QEMU DVD-ROM", 16) + padded(version, 4)


def supported_pages() -> bytes:
    """Vital product data page 0."""
    return bytes([DEVICE_CD, 0, 0, 2, 0, 0x83])


def identification(serial: str, model: str, wwn: int) -> bytes:
    """Vital product data page 83h: serial number, model and world wide name, where they are known."""
    descriptors = b""
    if serial:
        descriptors += bytes([2, 0, 0, 20]) + padded(serial, 20)  # ASCII, vendor specific
    if model:
        descriptors += bytes([2, 1, 0, 68]) + padded("ATA", 8) + padded(model, 40) + padded(serial, 20)  # T10 vendor
    if wwn:
        descriptors += bytes([1, 3, 0, 8]) + wwn.to_bytes(8, "big")  # binary, NAA
    return bytes([DEVICE_CD, 0x83]) + with_length(descriptors)


def padded(text: str, width: int) -> bytes:
    """ASCII with blanks behind."""
    return text.encode("ascii", "replace")[:width].ljust(width)


# -- mode pages (§6.3.11) ----------------------------------------------------------------------------------------------

PAGE_ERROR_RECOVERY = 0x01
PAGE_AUDIO_CONTROL = 0x0E
PAGE_CAPABILITIES = 0x2A
RETRIES = 5
SPEED_KB_PER_S = 704  # 4x
BUFFER_KIB = 512
CAN_LOCK, IS_LOCKED, CAN_EJECT, TRAY_LOADER = 0x01, 0x02, 0x08, 0x20


def mode_sense(code: int, *, locked: bool) -> bytes | None:
    """A page, with the header of MODE SENSE(10) in front; None for one that there is not."""
    page = _mode_page(code, locked=locked)
    if page is None:
        return None
    medium_type = 0x70  # QEMU-COMPAT: door closed, no disc, whatever is inside
    return with_length(bytes([medium_type, 0, 0, 0, 0, 0, code, len(page)]) + page)


def _mode_page(code: int, *, locked: bool) -> bytes | None:
    if code == PAGE_ERROR_RECOVERY:
        return bytes([0, RETRIES, 0, 0, 0, 0])
    if code == PAGE_AUDIO_CONTROL:
        return bytes(14)  # no channel goes anywhere
    if code != PAGE_CAPABILITIES:
        return None
    reads = 0x3B  # CD-R, CD-RW, method 2, DVD-ROM, DVD-R
    plays = 0x71  # audio, mode 2 forms, multisession
    audio = 0x60  # UPC, ISRC
    mechanics = TRAY_LOADER | CAN_EJECT | CAN_LOCK | (IS_LOCKED if locked else 0)
    speeds = be16(SPEED_KB_PER_S) + be16(2) + be16(BUFFER_KIB) + be16(SPEED_KB_PER_S)  # 2 volume levels
    return bytes([reads, 0, plays, audio, mechanics, 0]) + speeds + bytes(6)


# -- tables of contents (§6.29) ----------------------------------------------------------------------------------------


def position(lba: int, *, msf: bool) -> bytes:
    """The address of a block, as a number or as minute, second, frame."""
    if not msf:
        return be32(lba)
    minute, second, frame = minute_second_frame(lba)
    return bytes([0, minute & 0xFF, second, frame])  # QEMU-COMPAT: a DVD's minutes wrap


def minute_second_frame(lba: int) -> tuple[int, int, int]:
    """Where a block is on a CD."""
    seconds, frame = divmod(lba + PREGAP_FRAMES, FRAMES_PER_SECOND)
    minute, second = divmod(seconds, SECONDS_PER_MINUTE)
    return minute, second, frame


def toc(sectors: int, first: int, *, msf: bool) -> bytes | None:
    """Format 0: the one track and the lead-out, from track ``first`` on. None: there is no such track."""
    if first > 1 and first != LEAD_OUT:
        return None
    tracks = b"" if first == LEAD_OUT else bytes([0, DATA_TRACK, 1, 0]) + position(0, msf=msf)
    end = bytes([0, DATA_TRACK_LEAD_OUT, LEAD_OUT, 0]) + position(sectors, msf=msf)
    return with_length(bytes([1, 1]) + tracks + end)


def sessions() -> bytes:
    """Format 1: one session, which begins at block 0."""
    return with_length(bytes([1, 1]) + bytes(8))


def raw_toc(sectors: int, *, msf: bool) -> bytes:
    """Format 2: the Q channel of the lead-in: first track, last track, lead-out, track 1."""
    descriptors = bytes([1, DATA_TRACK, 0, 0xA0, 0, 0, 0, 0, 1, 0, 0])
    descriptors += bytes([1, DATA_TRACK, 0, 0xA1, 0, 0, 0, 0, 1, 0, 0])
    descriptors += bytes([1, DATA_TRACK, 0, 0xA2, 0, 0, 0]) + position(sectors, msf=msf)
    descriptors += bytes([1, DATA_TRACK, 0, 1, 0, 0, 0]) + position(0, msf=msf)
    return with_length(bytes([1, 1]) + descriptors)


def disc_information() -> bytes:
    """READ DISC INFORMATION (§6.26): one finished session with one track."""
    finished = 0x0E  # the disc and its last session are complete
    unrestricted = 0x20
    return with_length(bytes([finished, 1, 1, 1, 1, unrestricted]) + bytes(26))


# -- features (§5.3) and states ----------------------------------------------------------------------------------------


def configuration(profile: int) -> bytes:
    """GET CONFIGURATION: profiles of DVD-ROM and CD-ROM, the core feature, removable media (§5.3.1, §5.3.2)."""
    profiles = b"".join(be16(each) + bytes([each == profile, 0]) for each in (PROFILE_DVD_ROM, PROFILE_CD_ROM))
    always = 0x03  # persistent, current
    rest = bytes([0, 0]) + be16(profile) + be16(0) + bytes([always, len(profiles)]) + profiles
    return be32(len(rest)) + rest


def mechanism_status() -> bytes:
    """MECHANISM STATUS (§6.10): one slot that nothing is said about."""
    return bytes([0, 0, 0, 0, 0, 1, 0, 0])


MEDIA_CLASS = 4
MEDIA_CLASS_BIT = 1 << MEDIA_CLASS
NO_CLASS = 0x80
MEDIA_NO_CHANGE, MEDIA_EJECT_REQUEST, MEDIA_NEW = 0, 1, 2
TRAY_OPEN, MEDIUM_PRESENT = 1, 2


def no_event() -> bytes:
    """GET EVENT STATUS NOTIFICATION (§6.6) for classes that never have an event."""
    return bytes([0, 0, NO_CLASS, MEDIA_CLASS_BIT])


def media_event(code: int, state: int) -> bytes:
    """An event of the media class (§6.6.5)."""
    return be16(6 - 2) + bytes([MEDIA_CLASS, MEDIA_CLASS_BIT, code, state, 0, 0])


# -- DVD structures (§6.28) --------------------------------------------------------------------------------------------

DVD_PHYSICAL, DVD_COPYRIGHT, DVD_MANUFACTURER, DVD_LIST = 0x00, 0x01, 0x04, 0xFF
_STRUCTURE_BYTES = 2048
_BURST_CUTTING = 0x03
#: format and length. QEMU-COMPAT: the burst cutting area is listed, and not there
_LISTED = ((DVD_PHYSICAL, 2052), (DVD_COPYRIGHT, 8), (_BURST_CUTTING, 192), (DVD_MANUFACTURER, 2052))


def dvd_structure(code: int, sectors: int) -> bytes | None:
    """A structure of a DVD with one layer; None for one that there is not."""
    if code == DVD_PHYSICAL:
        last = be32(sectors - 1)
        book = bytes([0x01, 0x0F, 0x01, 0])  # DVD-ROM version 1, 120 mm, any rate, one layer
        found = book + be32(0) + last + last
        return with_length(bytes(2) + found.ljust(_STRUCTURE_BYTES, b"\0"))
    if code == DVD_COPYRIGHT:
        return with_length(bytes(6))  # not protected
    if code == DVD_MANUFACTURER:
        return with_length(bytes(2 + _STRUCTURE_BYTES))
    return None


def dvd_structures() -> bytes:
    """Which there are."""
    readable = 0x40
    return with_length(bytes(2) + b"".join(bytes([code, readable]) + be16(length) for code, length in _LISTED))


# -- frames (§4.2.3.8; ECMA-130 §14) -----------------------------------------------------------------------------------


def frame(lba: int, data: bytes | memoryview) -> bytes:
    """A whole frame of mode 1 around 2048 bytes. QEMU-COMPAT: the address is binary, and the error codes are zero."""
    minute, second, number = minute_second_frame(lba)
    return (SYNC + bytes([minute & 0xFF, second, number, MODE_1]) + data).ljust(FRAME_BYTES, b"\0")

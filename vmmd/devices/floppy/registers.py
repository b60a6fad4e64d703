# SPDX-License-Identifier: Apache-2.0
"""Registers, status bits and commands of the floppy disk controller (Intel 82078 data sheet, chapters 2, 5 and 6)."""

from __future__ import annotations

import enum
from typing import NamedTuple

# registers, from the I/O base (table 2-1); 0, status A, is not wired in a PC/AT, and 6 belongs to the IDE channel
REG_SRB = 1
REG_DOR = 2
REG_TDR = 3
REG_MSR = REG_DSR = 4
REG_FIFO = 5
REG_DIR = REG_CCR = 7

# status register B (§2.1.2)
SRB_FIXED = 0xC0
SRB_MOTORS = 0x03
SRB_DRIVE_1 = 0x20

# digital output register (§2.1.3)
DOR_DRIVE = 0x03
DOR_NOT_RESET = 0x04
DOR_DMA = 0x08
DOR_MOTOR_SHIFT = 4

TDR_BOOT_SELECT = 0x04  # (§2.1.4)

# data rate select register (§2.1.5)
DSR_RATE = 0x03
DSR_POWER_DOWN = 0x40
DSR_RESET = 0x80

# main status register (§2.1.6)
MSR_BUSY = 0x10
MSR_NON_DMA = 0x20
MSR_TO_HOST = 0x40
MSR_READY = 0x80

DIR_CHANGED = 0x80  # digital input register (§2.1.8)

# status register 0 (§6.1)
ST0_ABNORMAL = 0x40
ST0_INVALID = 0x80
ST0_POLLED = 0xC0
ST0_SEEK_END = 0x20
ST0_HEAD_SHIFT = 2

# status register 1 (§6.2)
ST1_NO_ADDRESS_MARK = 0x01
ST1_NOT_WRITABLE = 0x02
ST1_DATA_ERROR = 0x20
ST1_END_OF_CYLINDER = 0x80

# status register 2 (§6.3)
ST2_SCAN_NOT_SATISFIED = 0x04
ST2_SCAN_EQUAL = 0x08
ST2_DATA_ERROR = 0x20

# status register 3 (§6.4)
ST3_FIXED = 0x28  # ready, two sides
ST3_TRACK_0 = 0x10
ST3_WRITE_PROTECTED = 0x40

# bits of command bytes (§5)
COMMAND_MULTI_TRACK = 0x80
PARAMETER_DRIVE = 0x01  # QEMU-COMPAT: two drives, so the second select bit is not looked at
PARAMETER_HEAD = 0x04
VERIFY_COUNTS = 0x80  # EC in the first parameter of VERIFY

CONFIGURE_DEFAULT = 0x60  # implied seek on, FIFO off
PERPENDICULAR_OVERWRITE = 0x80
SPECIFY_NON_DMA = 0x01
LOCK_BIT = 0x80

VERSION_82077 = 0x90
PART_82078 = 0x41
SIZE_CODE_512 = 2


class Phase(enum.Enum):
    """What the controller is doing (§5.1)."""

    COMMAND = "command"
    EXECUTION = "execution"
    RESULT = "result"


class Command(NamedTuple):
    """A command: ``code`` under ``mask``, how many parameter bytes follow, and the name of what carries it out."""

    name: str
    code: int
    mask: int
    parameters: int


_ALL = 0xFF
#: table 5-1. QEMU-COMPAT: the masks, found out by trying all codes
COMMANDS = (
    Command("read", 0x06, 0x1F, 8),
    Command("write", 0x05, 0x1F, 8),
    Command("seek", 0x0F, _ALL, 2),
    Command("sense_interrupt", 0x08, _ALL, 0),
    Command("recalibrate", 0x07, _ALL, 1),
    Command("format", 0x0D, 0xBF, 5),
    Command("read", 0x02, 0xBF, 8),  # READ TRACK
    Command("restore", 0x4E, _ALL, 17),
    Command("save", 0x2E, _ALL, 0),
    Command("deleted", 0x0C, 0x1F, 8),  # READ DELETED DATA
    Command("scan_equal", 0x11, 0x1F, 8),
    Command("verify", 0x16, 0x1F, 8),
    Command("scan_low", 0x19, 0x1F, 8),
    Command("scan_high", 0x1D, 0x1F, 8),
    Command("deleted", 0x09, 0x3F, 8),  # WRITE DELETED DATA
    Command("read_id", 0x0A, 0xBF, 1),
    Command("specify", 0x03, _ALL, 2),
    Command("sense_drive", 0x04, _ALL, 1),
    Command("dump_registers", 0x0E, _ALL, 0),
    Command("version", 0x10, _ALL, 0),
    Command("perpendicular", 0x12, _ALL, 1),
    Command("configure", 0x13, _ALL, 3),
    Command("lock", 0x14, 0x7F, 0),
    Command("power_down", 0x17, _ALL, 2),
    Command("part_id", 0x18, _ALL, 0),
    Command("option", 0x33, _ALL, 1),
    Command("drive_specification", 0x8E, _ALL, 5),
    Command("relative_seek_out", 0x8F, _ALL, 2),
    Command("format_and_write", 0xCD, _ALL, 10),
    Command("relative_seek_in", 0xCF, _ALL, 2),
)
_INVALID = Command("invalid", 0, 0, 0)


def _decode(byte: int) -> Command:
    return next((each for each in COMMANDS if byte & each.mask == each.code), _INVALID)


#: by command byte
DECODED = tuple(_decode(byte) for byte in range(256))

# SPDX-License-Identifier: Apache-2.0
"""SeaBIOS boots from a diskette, and its INT 13h reads another sector by DMA and interrupt 6.

The timer is off: a KVM in software does not survive its interrupts in SeaBIOS's 32-bit code (guests/GUESTS.md), with
QEMU as little as here.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.framework.floppy_host import SECTOR
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm

TEXT = b"READ FROM A DISKETTE\n"
CYLINDER, HEAD, NUMBER = 1, 1, 2
EXIT_VALUE = 0x10
DEADLINE_S = 60

#: reads the sector to 8000h, sends it up to a NUL to COM1, and ends the emulator by isa-debug-exit
BOOT_CODE = bytes(
    (
        0xFA, 0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0, 0xBC, 0x00, 0x7C, 0xFB,  # segments 0, stack below us
        0xB8, 0x01, 0x02,  # mov ax, 0201h: read one sector
        0xBB, 0x00, 0x80,  # mov bx, 8000h
        0xB9, NUMBER, CYLINDER,  # mov cx, ...
        0xB6, HEAD,  # mov dh, ...; dl is the drive that we come from
        0xCD, 0x13,  # int 13h
        0xBE, 0x00, 0x80,  # mov si, 8000h
        0xBA, 0xF8, 0x03,  # mov dx, 3F8h
        0xAC, 0x84, 0xC0, 0x74, 0x03, 0xEE, 0xEB, 0xF8,  # next: lodsb; test al, al; jz done; out dx, al; jmp next
        0xBA, 0x01, 0x05, 0xB0, EXIT_VALUE, 0xEE, 0xF4,  # done: out 501h, al; hlt
    )
)  # fmt: skip


def test_seabios_boots_from_a_diskette(tmp_path: Path) -> None:
    image = bytearray(1440 * 1024)
    image[: len(BOOT_CODE)] = BOOT_CODE
    image[SECTOR - 2 : SECTOR] = b"\x55\xaa"
    at = ((CYLINDER * 2 + HEAD) * 18 + NUMBER - 1) * SECTOR
    image[at : at + len(TEXT)] = TEXT
    path = tmp_path / "boot.img"
    path.write_bytes(image)
    done = subprocess.run(
        [
            *emulator("vmmd").command, "-accel", "kvm", "-cpu", "qemu64,-cx16,-pni,-xsave",
            "-machine", "pc,pit=off", "-nodefaults", "-m", "64",
            "-display", "none", "-serial", "stdio", "-device", "isa-debug-exit", "-fda", str(path), "-boot", "a",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert TEXT in done.stdout, done.stderr.decode()
    assert done.returncode == EXIT_VALUE << 1 | 1

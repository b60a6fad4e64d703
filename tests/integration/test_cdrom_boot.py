# SPDX-License-Identifier: Apache-2.0
"""SeaBIOS boots from the CD-ROM drive (El Torito), without emulation and from the image of a floppy; the boot sector
reads another sector through the BIOS, writes it on COM1, and ends the emulator."""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework import cache, iso9660
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm

TIMEOUT_S = 60
GRUB_TIMEOUT_S = 120
EXIT_PORT, EXIT_VALUE, EXIT_STATUS = 0xF4, 0x10, 0x21
TEXT = b"@read from the disc\n"
FLOPPY_BYTES = 1_474_560

START = bytes.fromhex("fa 31c0 8ed8 8ec0 8ed0 bc007a fb")  # cli; ds = es = ss = 0; sp = 0x7a00; sti
READ_EXTENDED = bytes.fromhex("b442 be407c cd13")  # int 13h, ah = 42h: si -> the packet at 0x7c40
READ_CHS = bytes.fromhex("b80102 b90200 31d2 bb0080 cd13")  # ah = 2: head 0, cylinder 0, sector 2 of drive 0 to 0x8000
PRINT = bytes.fromhex(
    "be507c 7203 be0080"  # si = "@FAILED" at 0x7c50 when it failed, else what was read
    "baf803"  # dx = COM1
    "ac 84c0 7403 ee ebf8"  # next: lodsb; until 0: out dx, al
    "baf400 b010 ee f4 ebfd"  # isa-debug-exit; hlt
)
PACKET_OFFSET, FAILED_OFFSET = 0x40, 0x50


def boot_sector(read: bytes, lba: int = 0) -> bytes:
    """512 bytes that read one sector, write it on COM1, and end."""
    code = (START + read + PRINT).ljust(PACKET_OFFSET, b"\0")
    assert len(code) == PACKET_OFFSET
    packet = struct.pack("<BBHHHQ", 16, 0, 1, 0x8000, 0, lba)
    return (code + packet + b"@FAILED\n\0").ljust(510, b"\0") + b"\x55\xaa"


def bootable_cd() -> bytes:
    """No emulation: firmware loads 2048 bytes; the text is the file behind them."""
    lba = iso9660.FIRST_FREE + 1
    return iso9660.image({"TEXT.TXT": TEXT + b"\0"}, boot_sector(READ_EXTENDED, lba).ljust(iso9660.SECTOR, b"\0"))


def bootable_floppy_on_cd() -> bytes:
    """Floppy emulation: the text is the floppy's second sector."""
    floppy = boot_sector(READ_CHS) + TEXT + b"\0"
    return iso9660.image({}, floppy.ljust(FLOPPY_BYTES, b"\0"))


def boot(name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    line = ["-nodefaults", "-display", "none", "-machine", "pc,accel=kvm", "-m", "32", "-serial", "stdio"]
    line += ["-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4", *arguments]
    return subprocess.run([*emulator(name).command, *line], capture_output=True, timeout=TIMEOUT_S, check=False)


@pytest.mark.parametrize("kind", [bootable_cd, bootable_floppy_on_cd], ids=["no-emulation", "floppy"])
def test_seabios_boots_from_a_cd(kind: object, tmp_path: Path) -> None:
    path = tmp_path / "boot.iso"
    path.write_bytes(kind())  # type: ignore[operator]  # one of the makers above
    run = boot("vmmd", "-cdrom", str(path))
    assert (run.stdout, run.returncode) == (TEXT, EXIT_STATUS)


def test_bootindex_chooses_the_drive(tmp_path: Path) -> None:
    first, second = tmp_path / "first.iso", tmp_path / "second.iso"
    first.write_bytes(bootable_floppy_on_cd())
    second.write_bytes(bootable_cd().replace(TEXT, TEXT.upper()))
    line = [f"-drive if=none,id={name},media=cdrom,file={path}" for name, path in (("a", first), ("b", second))]
    devices = ["-device ide-cd,drive=a,bus=ide.0,bootindex=2", "-device ide-cd,drive=b,bus=ide.1,unit=1,bootindex=1"]
    run = boot("vmmd", *" ".join([*line, *devices]).split())
    assert (run.stdout, run.returncode) == (TEXT.upper(), EXIT_STATUS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qemu", "vmmd"])
def test_grub_starts_from_debians_rescue_cd(name: str, tmp_path: Path) -> None:
    """With the BIOS's screen on COM1 (SeaBIOS's sercon). What it reads until then is GRUB's core, by the BIOS."""
    disc = cache.package_file("grub-rescue-pc", "usr/lib/grub-rescue/grub-rescue-cdrom.iso")
    port = tmp_path / "sercon-port"
    port.write_bytes(struct.pack("<Q", 0x3F8))
    line = ["-nodefaults", "-display", "none", "-machine", "pc,accel=kvm", "-m", "128", "-serial", "stdio"]
    line += ["-cdrom", str(disc), "-fw_cfg", f"name=etc/sercon-port,file={port}"]
    with subprocess.Popen(
        [*emulator(name).command, *line], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            screen = read_screen(process, "Welcome to GRUB!", GRUB_TIMEOUT_S)
        finally:
            process.kill()
    assert "Booting from DVD/CD..." in screen
    assert "Welcome to GRUB!" in screen


def read_screen(process: subprocess.Popen[bytes], until: str, timeout_s: float) -> str:
    """What came, without what moves the cursor."""
    assert process.stdout is not None
    deadline, seen = time.monotonic() + timeout_s, b""
    while time.monotonic() < deadline and until not in _plain(seen):
        if select.select([process.stdout], [], [], 1)[0]:
            data = os.read(process.stdout.fileno(), 4096)
            if not data:
                break
            seen += data
    return _plain(seen)


def _plain(screen: bytes) -> str:
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|c)", "", screen.decode("latin-1"))

# SPDX-License-Identifier: Apache-2.0
"""Disk images with an MBR and one FAT16 partition, the same bytes on every build.

Layout: boot code at 0, one active FAT16 partition (type 0x0e) from 1 MiB to the end. mkfs.fat and mtools make and
fill the file system; time stamps, volume id and file contents are fixed.
"""

from __future__ import annotations

import os
import random
import struct
from typing import TYPE_CHECKING

from tests.framework import cache

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECTOR_BYTES = 512
MIB = 1 << 20
PARTITION_OFFSET = MIB
BOOT_CODE_BYTES = 440
PARTITION_TABLE_OFFSET = 446
DISK_SIGNATURE = 0x564D4D44  # "VMMD"
VOLUME_ID = "564d4d44"
FAT16_LBA = 0x0E
ACTIVE = 0x80
FIXED_TIME = "946684800"  # 2000-01-01, for SOURCE_DATE_EPOCH


def random_bytes(seed: int, length: int) -> bytes:
    """Reproducible bytes without structure."""
    return random.Random(seed).randbytes(length)


def partitioned_fat(path: Path, size_mib: int, boot_code: bytes = b"") -> None:
    """Create *path*: an MBR with *boot_code* (at most 440 bytes) and an empty, active FAT16 partition."""
    assert len(boot_code) <= BOOT_CODE_BYTES
    with path.open("wb") as image:
        image.truncate(size_mib * MIB)
        first = PARTITION_OFFSET // SECTOR_BYTES
        count = size_mib * MIB // SECTOR_BYTES - first
        # CHS fields 0xfe 0xff 0xff: "use the LBA fields"
        entry = struct.pack("<B3sB3sII", ACTIVE, b"\xfe\xff\xff", FAT16_LBA, b"\xfe\xff\xff", first, count)
        image.write(boot_code.ljust(BOOT_CODE_BYTES, b"\0") + struct.pack("<IH", DISK_SIGNATURE, 0) + entry)
        image.seek(SECTOR_BYTES - 2)
        image.write(b"\x55\xaa")
    blocks_1k = (size_mib * MIB - PARTITION_OFFSET) // 1024
    mkfs = cache.program("dosfstools", "mkfs.fat")
    offset = ["--offset", str(PARTITION_OFFSET // SECTOR_BYTES)]
    geometry = ["-F", "16", "-h", str(PARTITION_OFFSET // SECTOR_BYTES), "-i", VOLUME_ID, "-n", "VMMD"]
    cache.run([mkfs, "--invariant", *offset, *geometry, path, str(blocks_1k)])


def mtools(tool: str, image: Path, *arguments: str | Path) -> str:
    """Run one of the mtools on the partition of *image*; returns its output."""
    # mtools is one program that looks at its name; every name is a link in the package.
    program = cache.program("mtools", tool)
    environment = {"SOURCE_DATE_EPOCH": FIXED_TIME, "TZ": "UTC", "MTOOLSRC": os.devnull, "MTOOLS_SKIP_CHECK": "1"}
    return cache.run([program, "-i", f"{image}@@{PARTITION_OFFSET}", *arguments], env=environment)


def put_files(image: Path, files: Mapping[str, bytes], scratch: Path) -> None:
    """Write *files* (path in the image, directories separated by `/`) into the partition of *image*."""
    made: set[str] = set()
    for name, data in files.items():
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in made:
                mtools("mmd", image, f"::{folder}")
                made.add(folder)
        source = scratch / "file"
        source.write_bytes(data)
        os.utime(source, (int(FIXED_TIME), int(FIXED_TIME)))
        mtools("mcopy", image, "-m", source, f"::{name}")
        source.unlink()


def get_file(image: Path, name: str, scratch: Path) -> bytes:
    """The contents of the file *name* in the partition of *image*."""
    target = scratch / "copied-out"
    mtools("mcopy", image, "-n", f"::{name}", target)
    data = target.read_bytes()
    target.unlink()
    return data

# SPDX-License-Identifier: Apache-2.0
"""Finds and checks firmware images: ``-bios`` and the system's SeaBIOS. Reads the files that firmware passes on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.errors import BackendError, UsageError
from vmmd.units import KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_BIOS = "bios-256k.bin"
SYSTEM_DIRECTORIES = ("/usr/share/seabios", "/usr/share/qemu", "/usr/lib/ipxe/qemu")
BIOS_ALIGN = 64 * KiB
BIOS_MAX = 16 * MiB

#: Debian package of a well-known image, for the hint of the error
_PACKAGES = {
    DEFAULT_BIOS: "seabios",
    "bios.bin": "seabios",
    "vgabios": "seabios",
    "u-boot": "u-boot-qemu",
    "efi-": "ipxe-qemu",
    "pxe-": "ipxe-qemu",
}


def find(name: str, directories: Sequence[str] = ()) -> str:
    """Path of a firmware image: ``name`` itself if it is a file, else in ``directories`` (``-L``), else the system's.

    Raises UsageError in QEMU's words, naming the package to install.
    """
    path = search(name, directories)
    if path is None:
        package = package_of(name)
        raise UsageError(f"could not load PC BIOS '{name}'", package and f"{package}, or give a path with -bios")
    return path


def search(name: str, directories: Sequence[str] = ()) -> str | None:
    """Path of an image: ``name`` itself if it is a file, else in ``directories`` (``-L``), else the system's."""
    if os.path.isfile(name):
        return name
    if "/" not in name:
        for directory in (*directories, *SYSTEM_DIRECTORIES):
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                return path
    return None


def package_of(name: str) -> str | None:
    """What to do to have a well-known image; None for others."""
    package = next((package for prefix, package in _PACKAGES.items() if name.startswith(prefix)), None)
    return f"install Debian's package '{package}'" if package else None


def read_start(path: str, count: int, sentence: str) -> bytes:
    """The first ``count`` bytes of a file. Raises BackendError: ``sentence`` and the reason."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise BackendError.from_os(sentence, error) from error


def read_whole(path: str, most_bytes: int, where: str) -> bytes:
    """All of a file that the option ``where`` names. Raises VmmdError."""
    data = read_start(path, most_bytes + 1, f"{where}: Could not open '{path}'")
    if len(data) > most_bytes:
        raise UsageError(f"{where}: '{path}' is larger than {most_bytes} bytes")
    return data


def load_bios(name: str | None, directories: Sequence[str] = ()) -> bytes:
    """The firmware image (``-bios``, or SeaBIOS when None). Its size is a multiple of 64 KiB, at most 16 MiB."""
    path = find(name or DEFAULT_BIOS, directories)
    data = read_start(path, BIOS_MAX + 1, f"Could not open '{path}'")
    if not data or len(data) % BIOS_ALIGN or len(data) > BIOS_MAX:
        size = "more than 16 MiB" if len(data) > BIOS_MAX else f"{len(data)} bytes"
        raise UsageError(
            f"could not load PC BIOS '{path}': it has {size}", "an image is a multiple of 64 KiB, up to 16 MiB"
        )
    return data

# SPDX-License-Identifier: Apache-2.0
"""``bootorder``: which device the firmware tries first, as Open Firmware paths (SeaBIOS "Runtime config").

One path per line, by rising ``bootindex``; ``HALT`` as the last line stops the firmware from trying anything else
(``-boot strict=on``). The text ends with NUL. Without a single ``bootindex`` the file is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

PCI_HOST = "/pci@i0cf8"

#: name of a PCI function in Open Firmware paths by its class code's upper 16 bits (PCI bus binding §2.2.1)
_CLASS_NAMES = {
    0x0100: "scsi",
    0x0101: "ide",
    0x0106: "sata",
    0x0108: "nvme",
    0x0200: "ethernet",
    0x0300: "display",
    0x0400: "video",
    0x0500: "memory",
    0x0601: "isa",
    0x0604: "pci-bridge",
    0x0780: "communication",
    0x0C03: "usb",
}


def pci_path(slot: int, function: int, class_code: int) -> str:
    """Path of a function on the root bus: ``/pci@i0cf8/scsi@5`` or ``…@5,1``. ``class_code`` is 16 bit."""
    name = _CLASS_NAMES.get(class_code, f"pci{class_code:04x}")
    unit = f"{slot:x},{function:x}" if function else f"{slot:x}"
    return f"{PCI_HOST}/{name}@{unit}"


def virtio_blk_path(slot: int, function: int) -> str:
    """Boot path of a virtio-blk-pci disk."""
    return pci_path(slot, function, 0x0100) + "/disk@0,0"


def ide_path(channel: int, unit: int) -> str:
    """Boot path of a disk or CD-ROM on the board's IDE controller, 00:01.1."""
    return pci_path(1, 1, 0x0101) + f"/drive@{channel:x}/disk@{unit:x}"


def floppy_path(io_base: int, unit: int) -> str:
    """Boot path of a diskette drive; the controller is on ISA, behind function 01.0."""
    return pci_path(1, 0, 0x0601) + f"/fdc@{io_base:04x}/floppy@{unit:x}"


def virtio_net_path(slot: int, function: int) -> str:
    """Boot path of a PCI network card."""
    return pci_path(slot, function, 0x0200) + "/ethernet-phy@0"


def geometry_text(entries: Iterable[tuple[str, tuple[int, int, int]]]) -> bytes:
    """Content of ``bios-geometry``: the cylinders, heads and sectors that firmware is to use for a disk."""
    lines = [f"{path} {cylinders} {heads} {sectors}" for path, (cylinders, heads, sectors) in entries]
    return "\n".join(lines).encode("ascii") + b"\0" if lines else b""


def text(entries: Iterable[tuple[int, str]], *, strict: bool = False) -> bytes:
    """Content of ``bootorder`` from (bootindex, path); negative indices do not take part.

    Raises UsageError when two devices have the same index, in QEMU's words.
    """
    ordered: dict[int, str] = {}
    for index, path in entries:
        if index < 0:
            continue
        if index in ordered:
            raise UsageError(f"The bootindex {index} has already been used")
        ordered[index] = path
    lines = [ordered[index] for index in sorted(ordered)]
    if not lines:
        # QEMU-COMPAT: 7.2 leaves the file empty, also with strict=on (measured)
        return b""
    if strict:
        lines.append("HALT")
    return "\n".join(lines).encode("ascii") + b"\0"

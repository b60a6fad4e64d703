# SPDX-License-Identifier: Apache-2.0
"""Words for PCI class codes (base class and sub-class), as ``info pci`` and ``query-pci`` show them.

QEMU-COMPAT: the words are those that QEMU 7.2 prints, for clients that match on them.
"""

from __future__ import annotations

_WORDS: dict[int, str] = {
    0x0001: "VGA controller",
    0x0100: "SCSI controller",
    0x0101: "IDE controller",
    0x0102: "Floppy controller",
    0x0104: "RAID controller",
    0x0106: "SATA controller",
    0x0108: "NVMe controller",
    0x0200: "Ethernet controller",
    0x0280: "Network controller",
    0x0300: "VGA controller",
    0x0380: "Display controller",
    0x0400: "Video controller",
    0x0401: "Audio controller",
    0x0403: "Audio controller",
    0x0500: "RAM controller",
    0x0600: "Host bridge",
    0x0601: "ISA bridge",
    0x0604: "PCI bridge",
    0x0680: "Bridge",
    0x0700: "Serial port",
    0x0C03: "USB controller",
    0x0C05: "SMBus",
}


def class_words(class_code: int) -> str | None:
    """Words for a 16-bit class (base, sub-class), or None when there are none for it."""
    return _WORDS.get(class_code)

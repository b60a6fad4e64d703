# SPDX-License-Identifier: Apache-2.0
"""Option ROMs in memory (PCI Firmware 3.0 §5.1): who the image says that it is for."""

from __future__ import annotations

import struct

#: offset of the pointer to the PCI data structure, in the image's header
_POINTER = 0x18
_SIGNATURE = b"PCIR"
#: signature, vendor, device
_IDS = struct.Struct("<4sHH")
_ROM_SIGNATURE = b"\x55\xaa"
#: a byte of the header that nobody uses: what changes is made up for here, so that the sum of all bytes stays
_BALANCE = 6


def adopt(view: memoryview, vendor_id: int, device_id: int) -> None:
    """Make an image that is meant for a device's relatives (the same ROM serves legacy and modern virtio) say that it
    is for this very one: firmware runs no other. What is no PCI option ROM stays as it is."""
    if view[:2] != _ROM_SIGNATURE or len(view) < _POINTER + 2:
        return
    at = int.from_bytes(view[_POINTER : _POINTER + 2], "little")
    if at + _IDS.size > len(view):
        return
    signature, *ids = _IDS.unpack_from(view, at)
    if signature != _SIGNATURE or ids == [vendor_id, device_id]:
        return
    before = sum(view[at : at + _IDS.size])
    _IDS.pack_into(view, at, signature, vendor_id, device_id)
    view[_BALANCE] = (view[_BALANCE] + before - sum(view[at : at + _IDS.size])) & 0xFF

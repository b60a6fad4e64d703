# SPDX-License-Identifier: Apache-2.0
r"""What tells a guest of its VM generation id (QEMU's docs/specs/vmgenid): a page with the number, and an SSDT with its
address.

Firmware places the page, patches its address into ``VGIA``, and writes the number's own address to the fw_cfg file
``etc/vmgenid_addr``. ``\_SB.VGEN.ADDR`` gives guests the address as two 32-bit halves (Microsoft's specification).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.firmware import aml

if TYPE_CHECKING:
    import uuid

GUID_FILE = "etc/vmgenid_guid"
ADDRESS_FILE = "etc/vmgenid_addr"
ADDRESS_BYTES = 8
PAGE_BYTES = 4096
#: of the number in its page: behind what OVMF takes for the header of a table
GUID_OFFSET = 40
OEM_TABLE_ID = b"VMGENID\0"
#: general-purpose event that says: the number has changed
GPE_BIT = 5
_STA_SHOWN = 0x0F
_STATUS_CHANGED = 0x80


def page(guid: uuid.UUID) -> bytes:
    """The page as firmware places it. The number is stored as Microsoft's GUIDs are: its first three fields
    little-endian."""
    return (bytes(GUID_OFFSET) + guid.bytes_le).ljust(PAGE_BYTES, b"\0")


def ssdt() -> tuple[bytes, int]:
    """The body of the SSDT, and where in it the 32-bit address of the page goes."""
    address = aml.name("VGIA", aml.dword(0))
    place, pair, zero = aml.path("VGIA"), aml.local(0), aml.integer(0)
    methods = (
        aml.method("_STA", 0, aml.if_(aml.equal(place, zero), aml.return_(zero)), aml.return_(aml.integer(_STA_SHOWN))),
        aml.method(
            "ADDR",
            0,
            aml.store(aml.package(zero, zero), pair),
            aml.add(place, aml.integer(GUID_OFFSET), aml.index(pair, 0)),
            aml.return_(pair),
        ),
    )
    generation = aml.device(
        "VGEN",
        aml.name("_HID", aml.string("QEMUVGID")),  # QEMU-COMPAT: no hexadecimal suffix, as ACPI wants one
        aml.name("_CID", aml.string("VM_Gen_Counter")),
        aml.name("_DDN", aml.string("VM_Gen_Counter")),
        *methods,
    )
    changed = aml.method(f"_E{GPE_BIT:02X}", 0, aml.notify("\\_SB.VGEN", _STATUS_CHANGED))
    body = address + aml.scope("\\_SB", generation) + aml.scope("\\_GPE", changed)
    return body, len(address) - 4

# SPDX-License-Identifier: Apache-2.0
"""MP table (Intel MultiProcessor Specification 1.4), for guests that run without ACPI's interrupt routing.

What the firmware builds itself in a BIOS boot: processors, PCI bus 0 and ISA bus 1, one I/O APIC, where each PCI pin
and ISA interrupt goes, and the local interrupts (ExtINT on LINT0 of the boot processor, NMI on LINT1 of all).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

OEM_ID = b"BOCHSCPU"
PRODUCT_ID = b"0.1         "
LOCAL_APIC_BASE = 0xFEE0_0000
IO_APIC_BASE = 0xFEC0_0000
XAPIC_MAX_ID = 254

_PCI_BUS, _ISA_BUS = 0, 1
_PROCESSOR, _BUS, _IO_APIC, _IO_INTERRUPT, _LOCAL_INTERRUPT = range(5)
_INT, _NMI, _EXTINT = 0, 1, 3
_ACTIVE_HIGH = 1
_ENABLED, _BOOT_PROCESSOR = 1, 2
_ALL_APICS = 0xFF
#: the cascade, and what PIRQ links and SCI may take (as the ACPI tables' source overrides say)
_NOT_ISA = frozenset({2, 5, 9, 10, 11})
_FLOATING_BYTES = 16
_VERSION_1_4 = 4


class PciInterrupt(NamedTuple):
    """A pin (0-3) of a slot and the interrupt it is routed to."""

    slot: int
    pin: int
    irq: int


class MpConfig(NamedTuple):
    """What the table lists. CPUs with APIC ids above 254 cannot be told this way and are left out."""

    apic_ids: Sequence[int] = (0,)
    cpu_signature: int = 0
    cpu_features: int = 0
    pci_interrupts: Sequence[PciInterrupt] = ()


def _interrupt(source_bus: int, source: int, flags: int, target: int, kind: int = _INT) -> bytes:
    return struct.pack("<BBHBBBB", _IO_INTERRUPT, kind, flags, source_bus, source, 0, target)


def _entries(config: MpConfig) -> list[bytes]:
    entries = []
    for index, apic_id in enumerate(config.apic_ids):
        if apic_id <= XAPIC_MAX_ID:
            flags = _ENABLED | (_BOOT_PROCESSOR if index == 0 else 0)
            identity = (config.cpu_signature, config.cpu_features)
            entries.append(struct.pack("<BBBBII8x", _PROCESSOR, apic_id, 0x14, flags, *identity))
    entries.append(struct.pack("<BB6s", _BUS, _PCI_BUS, b"PCI   "))
    entries.append(struct.pack("<BB6s", _BUS, _ISA_BUS, b"ISA   "))
    entries.append(struct.pack("<BBBBI", _IO_APIC, 0, 0x11, 1, IO_APIC_BASE))
    for slot, pin, irq in dict.fromkeys(config.pci_interrupts):
        entries.append(_interrupt(_PCI_BUS, slot << 2 | pin, _ACTIVE_HIGH, irq))
    isa_irqs = (irq for irq in range(16) if irq not in _NOT_ISA)
    entries.extend(_interrupt(_ISA_BUS, irq, 0, 2 if irq == 0 else irq) for irq in isa_irqs)
    entries.append(struct.pack("<BBHBBBB", _LOCAL_INTERRUPT, _EXTINT, 0, _ISA_BUS, 0, 0, 0))
    entries.append(struct.pack("<BBHBBBB", _LOCAL_INTERRUPT, _NMI, 0, _ISA_BUS, 0, _ALL_APICS, 1))
    return entries


def build(config: MpConfig, gpa: int) -> bytes:
    """The floating pointer at ``gpa`` (16-byte aligned, in 0xf0000-0xfffff) and behind it the table."""
    entries = _entries(config)
    body = b"".join(entries)
    head = struct.pack("<4sHBB8s12s", b"PCMP", 44 + len(body), _VERSION_1_4, 0, OEM_ID, PRODUCT_ID)
    head += struct.pack("<IHHIHBB", 0, 0, len(entries), LOCAL_APIC_BASE, 0, 0, 0)
    table = bytearray(head + body)
    table[7] = -sum(table) & 0xFF
    pointer = bytearray(struct.pack("<4sIBBB5s", b"_MP_", gpa + _FLOATING_BYTES, 1, _VERSION_1_4, 0, bytes(5)))
    pointer[10] = -sum(pointer) & 0xFF
    return bytes(pointer + table)

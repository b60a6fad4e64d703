# SPDX-License-Identifier: Apache-2.0
r"""The DSDT of pc-i440fx: what a guest must be told because it cannot find it by itself (ACPI 6.4 §5.2.11.1).

    \_SB.PCI0            root bus: resource windows, interrupt routing as one static package
    \_SB.PCI0.ISA        PIIX3 function 0 with PIRQ route registers and the ISA devices that exist
    \_SB.LNKA-LNKD       interrupt links; LNKS stands for the SCI, to which function 1.3 is wired
    \_S5 (_S3, _S4)      sleep types of PIIX4
    \_SB.PCI0.Sxx        slots whose devices may come and go (``pci_hotplug_aml``)
    \_GPE                general-purpose events; handlers are given by whoever owns them

No method runs a loop: interpreting AML is what slow guests wait for.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmmd.firmware import pci_hotplug_aml
from vmmd.firmware.aml import (
    INTERRUPT_NUMBER_OFFSET,
    ZERO,
    Access,
    Space,
    and_,
    arg,
    buffer,
    create_dword_field,
    device,
    dma,
    dword_memory,
    eisa_id,
    field,
    if_,
    integer,
    interrupt,
    io,
    irq,
    memory32_fixed,
    method,
    name,
    operation_region,
    package,
    path,
    qword_memory,
    resources,
    return_,
    scope,
    store,
    string,
    word_bus_number,
    word_io,
)

if TYPE_CHECKING:
    from vmmd.firmware.acpi_tables import AcpiConfig, FloppyController

PCI_SLOTS = 32
PCI_PINS = 4
PIIX3_SLOT = 1
PIRQ_REGISTERS = 0x60  # PIIX3 function 0, PIRQRC[A:D] (82371SB data sheet §2.2.5)
LINKS = ("LNKA", "LNKB", "LNKC", "LNKD")
LINK_IRQS = (5, 10, 11)  # what a link may be routed to
VGA_WINDOW = (0xA_0000, 0xB_FFFF)
HPET_BASE = 0xFED0_0000

_STA_PRESENT = 0x0B  # present, enabled, functioning, not shown (§6.3.7)
_STA_SHOWN = 0x0F
_STA_DISABLED = 0x09
_PIRQ_DISABLED = 0x80

_FDE_NO_TAPE = 2
#: the rest of _FDI, the diskette parameter table of a 1.44 MB drive (QEMU-COMPAT: of every drive): step rate and head
#: unload, head load, motor off, sector size code, sectors, gap, data length, format gap, fill, settle, motor start
_FDI_PARAMETERS = (0xAF, 0x02, 0x25, 0x02, 0x12, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08)


def build(config: AcpiConfig) -> bytes:
    """The body of the DSDT (without table header)."""
    parts = [_root_bus(config), *(_link(index) for index in range(PCI_PINS)), _sci_link(config)]
    system_bus = scope("\\_SB", *parts)
    return b"".join((system_bus, _sleep_states(config), _events(config), *config.root_terms))


def _root_bus(config: AcpiConfig) -> bytes:
    windows = [
        word_bus_number(0, 0xFF),
        io(0xCF8, 8),
        word_io(0, 0xCF7),
        word_io(0xD00, 0xFFFF),
        dword_memory(*VGA_WINDOW, cacheable=True),
        dword_memory(*config.pci_window),
    ]
    if config.pci_window_64 is not None:
        windows.append(qword_memory(*config.pci_window_64, cacheable=True))
    terms = [
        name("_HID", eisa_id("PNP0A03")),
        name("_UID", ZERO),
        name("_CRS", resources(*windows)),
        name("_PRT", routing_table()),
        _motherboard(config),
        _isa(config),
        *pci_hotplug_aml.terms(config.pci_hotplug_slots),
    ]
    return device("PCI0", *terms)


def routing_table() -> bytes:
    """``_PRT``: pin p of slot s goes to link (s + p + 3) mod 4; pin A of slot 1 is the SCI (§6.2.13)."""
    entries = []
    for slot in range(1, PCI_SLOTS):
        for pin in range(PCI_PINS):
            link = "LNKS" if (slot, pin) == (PIIX3_SLOT, 0) else LINKS[(slot + pin + 3) % PCI_PINS]
            entries.append(package(integer(slot << 16 | 0xFFFF), integer(pin), path(link), ZERO))
    return package(*entries)


def _motherboard(config: AcpiConfig) -> bytes:
    """Ports that belong to no other device: power management, GPE0, SMBus; and those of fw_cfg."""
    taken = [io(config.gpe0_base, config.gpe0_bytes), io(config.pm_base, 0x40)]
    if config.pci_hotplug_slots:
        taken.append(io(pci_hotplug_aml.HOTPLUG_BASE, pci_hotplug_aml.HOTPLUG_BYTES))
    if config.smbus_base:
        taken.append(io(config.smbus_base, 0x10))
    terms = device("MBRD", name("_HID", eisa_id("PNP0C02")), name("_UID", ZERO), name("_CRS", resources(*taken)))
    if config.fw_cfg:
        terms += _simple("FWCF", string("QEMU0002"), io(0x510, 12), status=True)
    if config.hpet:
        terms += _simple("HPET", eisa_id("PNP0103"), memory32_fixed(HPET_BASE, 0x400), status=True)
    return terms


def _simple(where: str, identifier: bytes, *descriptors: bytes, status: bool = False) -> bytes:
    """A device of which only identifier and resources are told."""
    terms = [name("_HID", identifier), name("_CRS", resources(*descriptors))]
    if status:
        terms.append(name("_STA", integer(_STA_PRESENT)))
    return device(where, *terms)


def _isa(config: AcpiConfig) -> bytes:
    terms = [
        name("_ADR", integer(PIIX3_SLOT << 16)),
        operation_region("PIRQ", Space.PCI_CONFIG, PIRQ_REGISTERS, PCI_PINS),
        field("PIRQ", Access.BYTE, *((f"PRQ{letter}", 8) for letter in "ABCD")),
    ]
    if config.floppy is not None:
        terms.append(_floppies(config.floppy))
    if config.rtc:
        terms.append(_simple("RTC", eisa_id("PNP0B00"), io(0x70, 8), irq(8)))
    if config.keyboard:
        terms.append(_simple("KBD", eisa_id("PNP0303"), io(0x60, 1), io(0x64, 1), irq(1)))
    if config.mouse:
        terms.append(_simple("MOU", eisa_id("PNP0F13"), irq(12)))
    if config.pvpanic_port:
        terms.append(_pvpanic(config.pvpanic_port))
    for number, (base, line) in enumerate(config.serial_ports, 1):
        terms.append(
            device(
                f"COM{number}",
                name("_HID", eisa_id("PNP0501")),
                name("_UID", integer(number)),
                name("_CRS", resources(io(base, 8), irq(line))),
            )
        )
    return device("ISA", *terms)


def _pvpanic(port: int) -> bytes:
    """The panic button (QEMU's docs/specs/pvpanic): RDPT tells the events that it knows, WRPT reports some."""
    return device(
        "PEVT",
        name("_HID", string("QEMU0001")),
        name("_CRS", resources(io(port, 1))),
        operation_region("PEOR", Space.SYSTEM_IO, port, 1),
        field("PEOR", Access.BYTE, ("PEPT", 8)),
        name("_STA", integer(_STA_SHOWN)),
        method("RDPT", 0, return_(path("PEPT"))),
        method("WRPT", 1, store(arg(0), path("PEPT"))),
    )


def _floppies(fdc: FloppyController) -> bytes:
    """§9.9: _FDE tells which drives are there, _FDI what INT 13h function 8 says of one."""
    ports = io(fdc.io_base + 2, 4, 0), io(fdc.io_base + 7, 1, 0)
    terms = [
        name("_HID", eisa_id("PNP0700")),
        name("_CRS", resources(*ports, irq(fdc.irq), dma(fdc.dma))),
    ]
    for unit, drive in enumerate(fdc.drives):
        if drive is None:
            continue
        largest = (drive.cmos_type, drive.tracks - 1, drive.sectors, drive.heads - 1)
        values = [integer(value) for value in (unit, *largest, *_FDI_PARAMETERS)]
        terms.append(device(f"FLP{'AB'[unit]}", name("_ADR", integer(unit)), name("_FDI", package(*values))))
    present = struct.pack("<5I", *(drive is not None for drive in fdc.drives), 0, 0, _FDE_NO_TAPE)
    terms.append(name("_FDE", buffer(present)))
    return device("FDC0", *terms)


def _link(index: int) -> bytes:
    """An interrupt link device: its PIRQ route register holds the interrupt, bit 7 disables it (§6.2.16).

    The field is made inside the method: SeaBIOS's own reader of the DSDT does not know CreateDWordField elsewhere.
    """
    register = path(f"\\_SB.PCI0.ISA.PRQ{'ABCD'[index]}")
    disabled = and_(register, integer(_PIRQ_DISABLED))
    return device(
        LINKS[index],
        name("_HID", eisa_id("PNP0C0F")),
        name("_UID", integer(index)),
        name("_PRS", resources(interrupt(*LINK_IRQS))),
        name("BUFF", resources(interrupt(0))),
        method("_STA", 0, if_(disabled, return_(integer(_STA_DISABLED))), return_(integer(_STA_PRESENT))),
        method("_DIS", 0, store(integer(_PIRQ_DISABLED), register)),
        method(
            "_CRS",
            0,
            create_dword_field(path("BUFF"), INTERRUPT_NUMBER_OFFSET, "LINE"),
            and_(register, integer(0x0F), path("LINE")),
            return_(path("BUFF")),
            serialized=True,
        ),
        method(
            "_SRS",
            1,
            create_dword_field(arg(0), INTERRUPT_NUMBER_OFFSET, "WANT"),
            store(path("WANT"), register),
            serialized=True,
        ),
    )


def _sci_link(config: AcpiConfig) -> bytes:
    """The power management function's interrupt is wired to the SCI and cannot be routed."""
    wired = resources(interrupt(config.sci))
    return device(
        "LNKS",
        name("_HID", eisa_id("PNP0C0F")),
        name("_UID", integer(4)),
        name("_PRS", wired),
        name("_CRS", wired),
        name("_STA", integer(_STA_PRESENT)),
        method("_DIS", 0),
        method("_SRS", 1),
    )


def _sleep_states(config: AcpiConfig) -> bytes:
    """SLP_TYP of PIIX4 (82371AB data sheet §7.2.3): 1 suspend to RAM, 0 soft off."""
    states = [("_S5", 0)]
    if not config.disable_s4:
        states.insert(0, ("_S4", config.s4_value))
    if not config.disable_s3:
        states.insert(0, ("_S3", 1))
    terms = [name(f"\\{state}", package(integer(kind), integer(kind), ZERO, ZERO)) for state, kind in states]
    return b"".join(terms)


def _events(config: AcpiConfig) -> bytes:
    r"""``\_GPE._Exx`` for every event that somebody handles."""
    handlers = dict(config.gpe_handlers)
    if config.pci_hotplug_slots:
        handlers[pci_hotplug_aml.HOTPLUG_EVENT] = pci_hotplug_aml.event_handler()
    if not handlers:
        return b""
    return scope("\\_GPE", *(method(f"_E{bit:02X}", 0, body) for bit, body in sorted(handlers.items())))

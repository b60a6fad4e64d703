# SPDX-License-Identifier: Apache-2.0
r"""AML of PCI hot plug: a device for every slot whose function may come and go, and the event that says which did.

    \_SB.PCI0.Sxx            a slot (xx: slot * 8): _ADR, _SUN, _EJ0 lets go of it, _OST tells what became of a request,
                             _DSM gives its acpi-index (PCI firmware specification 3.3 §4.6.7)
    \_SB.PCI0.PCNT           asks the registers (``devices.acpi.pci_hotplug``) and notifies the slots
    \_GPE._E01               the event

The selected bus and what follows on it are one transaction, under a mutex. There are no loops: a slot takes two tests
of a bit in an event, and nothing otherwise.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from vmmd.firmware.aml import (
    ZERO,
    Access,
    Space,
    acquire,
    and_,
    arg,
    buffer,
    call,
    device,
    equal,
    field,
    if_,
    index,
    integer,
    local,
    method,
    mutex,
    name,
    notify,
    operation_region,
    or_,
    package,
    path,
    release,
    return_,
    shift_left,
    store,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: the block of registers, as the device has it
HOTPLUG_BASE = 0xAE00
HOTPLUG_BYTES = 0x18
HOTPLUG_EVENT = 1  # number of the general-purpose event

#: what a slot is notified of (ACPI 6.4 §5.6.6): look what is there; let go of it
DEVICE_CHECK = 1
EJECT_REQUEST = 3

_DSM_UUID = uuid.UUID("E5C937D0-3553-4D7A-9117-EA4D19C3434D")
_DSM_NAMING = 7
_DSM_NOTHING = buffer(b"\x00")
_DSM_HAS_NAMING = buffer(b"\x81")  # functions 0 and 7


def slot_name(slot: int) -> str:
    return f"S{slot * 8:02X}"


def terms(slots: Sequence[int]) -> list[bytes]:
    """What goes into ``\\_SB.PCI0``; slots 1 to 31."""
    if not slots:
        return []
    registers = ("PCIU", "PCID", "PCEJ", "PCRM", "BNUM", "PIDX")
    return [
        operation_region("PCHP", Space.SYSTEM_IO, HOTPLUG_BASE, HOTPLUG_BYTES),
        field("PCHP", Access.DWORD, *((each, 32) for each in registers)),
        mutex("BLCK"),
        method("EJCT", 1, *_on_the_bus(shift_left(integer(1), arg(0), path("PCEJ")))),
        method("OSTA", 3, if_(equal(arg(1), integer(EJECT_REQUEST)), *_on_the_bus(_report()))),
        _naming(),
        *(_slot(each) for each in slots),
        _distribute(slots),
        method(
            "PCNT",
            0,
            *_on_the_bus(
                call("DVNT", path("PCIU"), integer(DEVICE_CHECK)), call("DVNT", path("PCID"), integer(EJECT_REQUEST))
            ),
        ),
    ]


def event_handler() -> bytes:
    r"""The body of ``\_GPE._E01``."""
    return call("\\_SB.PCI0.PCNT")


def _on_the_bus(*statements: bytes) -> tuple[bytes, ...]:
    """``statements`` about bus 0, undisturbed."""
    return acquire("BLCK"), store(ZERO, path("BNUM")), *statements, release("BLCK")


def _report() -> bytes:
    """Slot (Arg0) and status (Arg2) into the register that takes them."""
    return or_(arg(0), shift_left(and_(arg(2), integer(0xFFFF)), integer(8)), path("PCRM"))


def _slot(slot: int) -> bytes:
    return device(
        slot_name(slot),
        name("_ADR", integer(slot << 16)),
        name("_SUN", integer(slot)),
        method("_EJ0", 1, call("EJCT", path("_SUN"))),
        method("_OST", 3, call("OSTA", path("_SUN"), arg(0), arg(1))),
        method("_DSM", 4, return_(call("LABL", arg(0), arg(2), path("_SUN")))),
    )


def _naming() -> bytes:
    """LABL (UUID, function, slot): function 0 tells which there are, 7 gives the acpi-index and no name."""
    guid = buffer(_DSM_UUID.bytes_le)
    ask = _on_the_bus(shift_left(integer(1), arg(2), path("PIDX")), store(path("PIDX"), local(0)))
    answer = [
        store(package(ZERO, string("")), local(1)),
        store(local(0), index(local(1), 0)),
        return_(local(1)),
    ]
    known = if_(
        equal(arg(0), guid),
        *ask,
        if_(
            local(0),
            if_(equal(arg(1), ZERO), return_(_DSM_HAS_NAMING)),
            if_(equal(arg(1), integer(_DSM_NAMING)), *answer),
        ),
    )
    return method("LABL", 3, known, return_(_DSM_NOTHING))


def _distribute(slots: Sequence[int]) -> bytes:
    """DVNT (slots as bits, notification)."""
    tests = (if_(and_(arg(0), integer(1 << each)), notify(slot_name(each), arg(1))) for each in slots)
    return method("DVNT", 2, *tests)

# SPDX-License-Identifier: Apache-2.0
"""ACPI PCI hot plug as guests of the PIIX4 era know it: ports AE00h-AE17h, which the DSDT's methods read and write.

    AE00h  slots that have got a device; reading forgets them     AE0Ch  slots whose devices may be taken away
    AE04h  slots whose devices are asked for                      AE10h  bus that all of this is about; 0: pci.0
    AE08h  write a slot's bit: its devices may be taken now       AE14h  write a slot's bit, read its acpi-index, once

A bit is a slot (1 << slot). QEMU-COMPAT: registers, reset values, and that only 32-bit accesses count (others read 0
and do nothing), as measured with QEMU 7.2; of several bits the lowest is the slot; with
``acpi-pci-hotplug-with-bridge-support=off`` the bus is always pci.0, and AE00h keeps its bits. Own: a
write to AE0Ch, which QEMU ignores, is how the DSDT's _OST passes on what became of a request.

What the guest lets go is taken from its sight at once (``PciDevice.vanish``); the machine unplugs it a moment later.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.trace_events import ACPI_PCI_EJECT_SLOT, PCI_HOTPLUG_READ, PCI_HOTPLUG_WRITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.devices.pci.bus import PciBus
    from vmmd.devices.pci.device import PciDevice

PCI_HOTPLUG_BASE = 0xAE00
PCI_HOTPLUG_BYTES = 0x18
REGISTER_BYTES = 4

ALL_SLOTS = 0xFFFF_FFFF
BUS_NUMBERS = 256  # with a larger one selected, everything reads 0
#: AE0Ch, written: slot in the low byte, what _OST was told in the rest
REPORT_STATUS_SHIFT = 8
REPORT_SLOT_MASK = 0x1F

#: ACPI 6.4 §6.3.5, table 6-71: statuses that are no refusal
OST_SUCCESS = 0x00
OST_IN_PROGRESS = 0x84


class Reg(IntEnum):
    """Offsets in the block."""

    PLUGGED = 0x00
    REQUESTED = 0x04
    EJECT = 0x08
    REMOVABLE = 0x0C
    BUS = 0x10
    ACPI_INDEX = 0x14


class GuestSide(NamedTuple):
    """What the machine wants to know. Called with the DeviceLock held, on any thread; must return quickly."""

    seen: Callable[[int], None]  # the guest has read of requests for these slots
    let_go: Callable[[list[PciDevice]], None]  # these functions have vanished from its sight
    refused: Callable[[int], None]  # the guest will not let go of what it was asked for in this slot


class PciHotplug:
    """The registers. DeviceLock held."""

    def __init__(self, raise_event: Callable[[], None], *, one_bus: bool) -> None:
        """``raise_event`` sets the bit of the general-purpose event. ``one_bus``: without bridge support."""
        self._raise_event = raise_event
        self._one_bus = one_bus
        self.bus: PciBus | None = None  # None: its slots are not hot-pluggable
        self.guest: GuestSide | None = None
        self.plugged = 0
        self.requested = 0
        self.selected = 0
        self._unseen = 0  # requests that the guest has not read of
        self._acpi_index = 0

    # -- the machine's side --------------------------------------------------------------------------------

    def announce(self, slot: int) -> None:
        """There is something new in a slot."""
        self.plugged |= 1 << slot
        self._raise_event()

    def request(self, slot: int) -> None:
        """The guest is asked to let go of the devices in a slot."""
        self.requested |= 1 << slot
        self._unseen |= 1 << slot
        self._raise_event()

    def withdraw(self, slot: int) -> None:
        """There is nothing to be let go of any more."""
        self.requested &= ~(1 << slot)
        self._unseen &= ~(1 << slot)

    def reset(self) -> None:
        """QEMU-COMPAT: the selected bus stays, and what is new is. The machine has served all requests before."""
        self.requested = self._unseen = 0
        self._acpi_index = 0

    def removable(self) -> int:
        """Slots whose devices may go, and empty ones."""
        if self.bus is None:
            return ALL_SLOTS
        kept = {slot for (slot, _), device in self.bus.devices.items() if not device.hotpluggable}
        return ALL_SLOTS & ~sum(1 << slot for slot in kept)

    # -- the guest's side ----------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if size != REGISTER_BYTES or self.selected >= BUS_NUMBERS:
            return 0
        value = self._read(offset)
        if PCI_HOTPLUG_READ.on:
            PCI_HOTPLUG_READ(offset, value)
        return value

    def _read(self, offset: int) -> int:
        if offset == Reg.BUS:
            return self.selected
        if offset == Reg.REMOVABLE:
            return ALL_SLOTS if self.selected else self.removable()
        if offset == Reg.ACPI_INDEX:
            found, self._acpi_index = self._acpi_index, 0
            return found
        if self.selected:  # a bus that is not there
            return 0
        if offset == Reg.PLUGGED:
            plugged = self.plugged
            if not self._one_bus:
                self.plugged = 0
            return plugged
        if offset == Reg.REQUESTED:
            if self._unseen and self.guest is not None:
                self.guest.seen(self._unseen)
                self._unseen = 0
            return self.requested
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if size != REGISTER_BYTES:
            return
        if PCI_HOTPLUG_WRITE.on:
            PCI_HOTPLUG_WRITE(offset, value)
        if offset == Reg.BUS:
            self.selected = 0 if self._one_bus else value
        elif self.selected or self.bus is None:
            return
        elif offset == Reg.EJECT and value:
            self._eject(_lowest(value))
        elif offset == Reg.ACPI_INDEX:
            self._acpi_index = self._index_of(_lowest(value)) if value else 0
        elif offset == Reg.REMOVABLE:
            self._report(value & REPORT_SLOT_MASK, value >> REPORT_STATUS_SHIFT)

    def _report(self, slot: int, status: int) -> None:
        """What _OST was told of a request that is still open; the first refusal counts."""
        if self.requested >> slot & 1 and status not in (OST_SUCCESS, OST_IN_PROGRESS):
            self.withdraw(slot)
            if self.guest is not None:
                self.guest.refused(slot)

    def _eject(self, slot: int) -> None:
        assert self.bus is not None  # the caller has looked
        going = [each for each in self.bus.functions(slot) if each.hotpluggable and not each.vanished]
        self.withdraw(slot)
        self.plugged &= ~(1 << slot)
        if ACPI_PCI_EJECT_SLOT.on:
            ACPI_PCI_EJECT_SLOT(slot)
        for each in going:
            each.vanish()
        if going and self.guest is not None:
            self.guest.let_go(going)
        for each in going:  # the guest's next instruction may use the memory for something else
            each.end_dma()

    def _index_of(self, slot: int) -> int:
        assert self.bus is not None  # the caller has looked
        functions = self.bus.functions(slot)
        return functions[0].props.acpi_index if functions else 0


def _lowest(bits: int) -> int:
    """Number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1

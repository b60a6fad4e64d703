# SPDX-License-Identifier: Apache-2.0
"""The PCI bus ``pci.0``: which function sits where, configuration cycles, INTx gathering, and what query-pci shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.address_space import MASKS
from vmmd.core.props import PciAddress
from vmmd.core.trace_events import PCI_CFG_READ, PCI_CFG_WRITE
from vmmd.devices.pci import regs
from vmmd.devices.pci.classes import class_words
from vmmd.devices.pci.intx import PirqFanIn
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.core.device import ResetKind
    from vmmd.devices.pci.device import PciDevice

SLOTS = 32
ACPI_INDEX_MAX = 16383  # QEMU-COMPAT: what firmware may say of the devices that it numbers (SMBIOS type 41) is 14 bits


class PciRegion(NamedTuple):
    """One BAR as query-pci shows it."""

    bar: int
    type: str  # "io" or "memory"
    size: int
    address: int  # -1: not mapped
    prefetch: bool | None  # None for I/O
    mem_type_64: bool | None


class PciDeviceInfo(NamedTuple):
    """One function as query-pci shows it."""

    bus: int
    slot: int
    function: int
    class_code: int  # base class and sub-class, 16 bits
    class_desc: str | None
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int
    irq: int | None  # interrupt line register; None without an interrupt pin
    irq_pin: int  # 0: none, 1: INTA …
    qdev_id: str
    regions: tuple[PciRegion, ...]


class PciBus:
    """A conventional PCI bus with 32 slots of 8 functions. Mutated with the DeviceLock held."""

    def __init__(self, name: str = "pci.0") -> None:
        self.name = name
        self.number = 0
        self.devices: dict[tuple[int, int], PciDevice] = {}
        self.pirqs = PirqFanIn()
        #: slots that ``attach`` does not give away by itself
        self.reserved_slots: set[int] = set()
        self._acpi_indices: dict[int, PciDevice] = {}

    # -- who sits where ------------------------------------------------------------------------------------

    def attach(self, device: PciDevice, address: PciAddress | None) -> None:
        """Give ``device`` its place: ``address``, or the first free slot. Raises UsageError in QEMU's words."""
        index = device.props.acpi_index
        self._check_acpi_index(index)
        if address is None:
            address = self._free_slot(device)
        else:
            self._check_place(device, address)
        device.slot, device.function = address
        self.devices[address.slot, address.function] = device
        if index:
            self._acpi_indices[index] = device

    def _check_acpi_index(self, index: int) -> None:
        # QEMU-COMPAT: the sentences
        if index > ACPI_INDEX_MAX:
            raise UsageError(f"acpi-index should be less or equal to {ACPI_INDEX_MAX}")
        if index in self._acpi_indices:
            holder = self._acpi_indices[index].name
            raise UsageError(f"a PCI device with acpi-index = {index} already exist", f"{holder} has it")

    def _free_slot(self, device: PciDevice) -> PciAddress:
        for slot in range(1, SLOTS):
            if slot not in self.reserved_slots and not any((slot, each) in self.devices for each in range(8)):
                return PciAddress(slot, 0)
        raise UsageError(f"PCI: no slot/function available for {device.type_name}, all in use or reserved")

    def _check_place(self, device: PciDevice, address: PciAddress) -> None:
        slot, function = address
        holder = self.devices.get((slot, function))
        if holder is not None:
            # QEMU prints ``id=(null)`` for a device without id; here the id is left out
            user = holder.type_name + (f",id={holder.id}" if holder.id else "")
            raise UsageError(
                f"PCI: slot {slot} function {function} not available for {device.type_name}, in use by {user}"
            )
        first = self.devices.get((slot, 0))
        if function and first is not None and device.hotplugged:
            raise UsageError(
                f"PCI: slot {slot} function 0 already occupied by {first.type_name}, "
                f"new func {device.type_name} cannot be exposed to guest."
            )
        if function and first is not None and not first.multifunction:
            raise UsageError(f"PCI: single function device can't be populated in function {slot:x}.{function:x}")
        if not function and not device.multifunction:
            for each in range(1, 8):
                if (slot, each) in self.devices:
                    raise UsageError(
                        f"PCI: {slot:x}.0 indicates single function, but {slot:x}.{each:x} is already populated."
                    )

    def detach(self, device: PciDevice) -> None:
        """Take ``device`` from the bus: its configuration space answers all-ones from now on."""
        if self.devices.get((device.slot, device.function)) is device:
            del self.devices[device.slot, device.function]
            self._acpi_indices.pop(device.props.acpi_index, None)

    def functions(self, slot: int) -> list[PciDevice]:
        """What sits in a slot; the newest first."""
        return [each for each in reversed(self.devices.values()) if each.slot == slot]

    def _exposed(self, bus: int, slot: int, function: int) -> PciDevice | None:
        """What answers there. QEMU-COMPAT: functions above 0 that were plugged at run time wait for function 0."""
        device = self.devices.get((slot, function)) if bus == self.number else None
        if device is None or device.vanished or (device.hotplugged and (slot, 0) not in self.devices):
            return None
        return device

    def reset(self, kind: ResetKind) -> None:
        """Reset every function, in order of address."""
        for key in sorted(self.devices):
            self.devices[key].reset(kind)

    # -- configuration cycles ------------------------------------------------------------------------------

    def config_read(self, bus: int, slot: int, function: int, offset: int, size: int) -> int:
        """A type 0 configuration read; an absent function reads all-ones."""
        device = self._exposed(bus, slot, function)
        if device is None:
            return MASKS[size]
        value = device.config_read(offset, size)
        if PCI_CFG_READ.on:
            PCI_CFG_READ(device.name, bus, slot, function, offset, value)
        return value

    def config_write(self, bus: int, slot: int, function: int, offset: int, size: int, value: int) -> None:
        """A type 0 configuration write; dropped when the function is absent."""
        device = self._exposed(bus, slot, function)
        if device is not None:
            if PCI_CFG_WRITE.on:
                PCI_CFG_WRITE(device.name, bus, slot, function, offset, value)
            device.config_write(offset, size, value)

    # -- what management sees ------------------------------------------------------------------------------

    def query(self) -> tuple[PciDeviceInfo, ...]:
        """Every function, in order of address, for ``query-pci`` and ``info pci``."""
        return tuple(self._info(each) for _, each in sorted(self.devices.items()) if not each.vanished)

    def _info(self, device: PciDevice) -> PciDeviceInfo:
        config = device.config
        class_code = config.get(regs.REG_CLASS + 1, 2)
        pin = config.get(regs.REG_INTERRUPT_PIN, 1)
        return PciDeviceInfo(
            bus=self.number,
            slot=device.slot,
            function=device.function,
            class_code=class_code,
            class_desc=class_words(class_code),
            vendor=config.get(regs.REG_VENDOR_ID, 2),
            device=config.get(regs.REG_DEVICE_ID, 2),
            subsystem_vendor=config.get(regs.REG_SUBSYSTEM_VENDOR_ID, 2),
            subsystem=config.get(regs.REG_SUBSYSTEM_ID, 2),
            irq=config.get(regs.REG_INTERRUPT_LINE, 1) if pin else None,
            irq_pin=pin,
            qdev_id=device.id or "",
            regions=_regions(device),
        )


def _signed(address: int) -> int:
    """QEMU-COMPAT: QAPI's ``int`` is a signed 64-bit number, also for addresses that a guest programs above it."""
    return address - (1 << 64) if address >> 63 else address


def _regions(device: PciDevice) -> tuple[PciRegion, ...]:
    return tuple(
        PciRegion(
            bar=index,
            type="io" if bar.is_io else "memory",
            size=bar.size_bytes,
            address=-1 if bar.address is None else _signed(bar.address),
            prefetch=None if bar.is_io else bar.prefetch,
            mem_type_64=None if bar.is_io else bar.kind == "mem64",
        )
        for index, bar in sorted(device.bars.items())
    )

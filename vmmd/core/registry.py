# SPDX-License-Identifier: Apache-2.0
"""Which device types exist. An explicit table of names and modules, so that naming one device imports only its module.

``device_class(name)`` imports and returns one; ``all_device_classes()`` imports every module (for help,
introspection and the conformance tests). ``LATER`` names the types of QEMU that this version does not have
yet: they are refused by name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmmd.core.device import Device

#: type name -> "module:class"
DEVICES: dict[str, str] = {
    "isa-serial": "vmmd.devices.isa.serial:IsaSerial",
    "isa-debugcon": "vmmd.devices.isa.debugcon:IsaDebugcon",
    "i6300esb": "vmmd.devices.watchdog.i6300esb:I6300esb",
    "ib700": "vmmd.devices.watchdog.ib700:Ib700",
    "vmgenid": "vmmd.devices.vmgenid:VmGenId",
    "pvpanic": "vmmd.devices.isa.pvpanic:Pvpanic",
    "pvpanic-pci": "vmmd.devices.pci.pvpanic:PvpanicPci",
    "pc-testdev": "vmmd.devices.isa.pc_testdev:PcTestdev",
    "pci-testdev": "vmmd.devices.pci.testdev:PciTestdev",
    "isa-debug-exit": "vmmd.devices.isa.debug_exit:IsaDebugExit",
    "virtio-blk-pci": "vmmd.devices.virtio.blk.device:VirtioBlkPci",
    "virtio-blk-pci-transitional": "vmmd.devices.virtio.blk.device:VirtioBlkPciTransitional",
    "virtio-blk-pci-non-transitional": "vmmd.devices.virtio.blk.device:VirtioBlkPciNonTransitional",
    "virtio-rng-pci": "vmmd.devices.virtio.rng.device:VirtioRngPci",
    "virtio-rng-pci-transitional": "vmmd.devices.virtio.rng.device:VirtioRngPciTransitional",
    "virtio-rng-pci-non-transitional": "vmmd.devices.virtio.rng.device:VirtioRngPciNonTransitional",
    "virtio-net-pci": "vmmd.devices.virtio.net.pci:VirtioNetPci",
    "virtio-net-pci-transitional": "vmmd.devices.virtio.net.pci:VirtioNetPciTransitional",
    "virtio-net-pci-non-transitional": "vmmd.devices.virtio.net.pci:VirtioNetPciNonTransitional",
    "virtio-balloon-pci": "vmmd.devices.virtio.balloon.device:VirtioBalloonPci",
    "virtio-balloon-pci-transitional": "vmmd.devices.virtio.balloon.device:VirtioBalloonPciTransitional",
    "virtio-balloon-pci-non-transitional": "vmmd.devices.virtio.balloon.device:VirtioBalloonPciNonTransitional",
    "virtio-serial-pci": "vmmd.devices.virtio.serial.device:VirtioSerialPci",
    "virtio-serial-pci-transitional": "vmmd.devices.virtio.serial.device:VirtioSerialPciTransitional",
    "virtio-serial-pci-non-transitional": "vmmd.devices.virtio.serial.device:VirtioSerialPciNonTransitional",
    "virtserialport": "vmmd.devices.virtio.serial.port:VirtSerialPort",
    "virtconsole": "vmmd.devices.virtio.serial.port:VirtConsole",
    "floppy": "vmmd.devices.floppy.device:Floppy",
    # parts of the board, not user-creatable
    "i440FX": "vmmd.devices.pci.i440fx:I440fx",
    "i8257": "vmmd.devices.isa.i8257:I8257",
    "isa-fdc": "vmmd.devices.floppy.isa:IsaFdc",
    "PIIX3": "vmmd.devices.pci.piix3:Piix3",
    "ide-cd": "vmmd.devices.ide.cd:IdeCd",
    "ide-hd": "vmmd.devices.ide.hd:IdeHd",
    "piix3-ide": "vmmd.devices.ide.piix3:Piix3Ide",
    "PIIX4_PM": "vmmd.devices.acpi.pm:Piix4Pm",
    "mc146818rtc": "vmmd.devices.isa.rtc:Mc146818Rtc",
    "i8042": "vmmd.devices.isa.i8042:I8042",
    "ps2-kbd": "vmmd.devices.isa.ps2_keyboard:Ps2Keyboard",
    "ps2-mouse": "vmmd.devices.isa.ps2_mouse:Ps2Mouse",
    "port92": "vmmd.devices.isa.port92:Port92",
    "fw_cfg_io": "vmmd.devices.isa.fw_cfg:FwCfg",
    "isa-i8259": "vmmd.devices.isa.i8259:I8259",
    "apic": "vmmd.devices.apic:Apic",
    "ioapic": "vmmd.devices.ioapic:Ioapic",
    "hpet": "vmmd.devices.hpet:Hpet",
    "isa-pit": "vmmd.devices.isa.pit:IsaPit",
    "isa-pcspk": "vmmd.devices.isa.speaker:PcSpeaker",
    "kvm-pit": "vmmd.devices.kernel_chips:KvmPit",
    "kvm-i8259": "vmmd.devices.kernel_chips:KvmPic",
    "kvm-ioapic": "vmmd.devices.kernel_chips:KvmIoapic",
    "kvm-apic": "vmmd.devices.kernel_chips:KvmApic",
}

#: types known from QEMU that a later version brings
LATER: tuple[str, ...] = (
    "AC97", "VGA", "cirrus-vga", "e1000", "ich9-usb-ehci1", "ich9-usb-uhci1",
    "ich9-usb-uhci2", "ich9-usb-uhci3", "intel-hda", "isa-applesmc", "isa-parallel",
    "lsi53c895a", "megasas", "nec-usb-xhci", "nvdimm", "nvme", "pc-dimm", "pci-bridge",
    "pcie-root-port", "piix3-usb-uhci", "qemu-xhci", "qxl", "qxl-vga", "rtl8139", "sb16",
    "scsi-cd", "scsi-hd", "sdhci-pci", "tpm-crb", "tpm-tis", "usb-ehci", "usb-host", "usb-hub", "usb-kbd",
    "usb-mouse", "usb-redir", "usb-serial", "usb-storage", "usb-tablet", "vfio-pci", "vhost-user-blk-pci",
    "vhost-vsock-pci", "virtio-9p-pci", "virtio-gpu-pci",
    "virtio-input-host-pci", "virtio-iommu-pci", "virtio-keyboard-pci", "virtio-mem-pci", "virtio-mouse-pci",
    "virtio-pmem-pci", "virtio-scsi-pci", "virtio-tablet-pci", "virtio-vga",
    "vmcoreinfo",
)  # fmt: skip


#: classes that have been asked for
_loaded: dict[str, type[Device]] = {}


def is_loaded(type_name: str) -> bool:
    """Its class has been asked for before: ``device_class`` imports nothing."""
    return type_name in _loaded


def device_class(type_name: str) -> type[Device] | None:
    """The class of a device type, or None when there is none of that name."""
    cls = _loaded.get(type_name)
    if cls is None:
        target = DEVICES.get(type_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        cls = _loaded[type_name] = getattr(importlib.import_module(module), attribute)
    return cls


def all_device_classes() -> dict[str, type[Device]]:
    """Every device type; imports all device modules."""
    classes: dict[str, type[Device]] = {}
    for name in DEVICES:
        cls = device_class(name)
        if cls is not None:
            classes[name] = cls
    return classes

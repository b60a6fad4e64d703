# SPDX-License-Identifier: Apache-2.0
"""What firmware and guest are told about the machine: fw_cfg items, ACPI and SMBIOS, made from Config and board.

For a firmware boot the image is mapped below 4 GiB and fw_cfg is filled; for ``-kernel`` everything is placed in guest
RAM as firmware would leave it, again after every reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.pci.bus import SLOTS
from vmmd.firmware import bootorder, e820, files, fw_items, smbios, vmgenid
from vmmd.machine import boot_paths
from vmmd.machine.memory_map import FOUR_GIB, VGA_HOLE
from vmmd.machine.ram import RamBlock, RamSettings
from vmmd.units import MiB

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from vmmd.core.bootstate import BootState
    from vmmd.firmware.acpi_tables import AcpiBlobs, AcpiConfig, FloppyController, FloppyDrive, NumaNode
    from vmmd.firmware.direct_boot import DirectBoot
    from vmmd.kvm.cpuid import CpuConfig
    from vmmd.machine.option_roms import MachineRoms
    from vmmd.machine.pc_i440fx import PcI440fx
    from vmmd.machine.vm import Vm
    from vmmd.options.models import Config, SmbiosOptions

#: the largest file that -fw_cfg or -smbios takes
_FW_CFG_FILE_MAX = 64 << 20


class FirmwareSetup:
    """Tables of one machine. Made when every device is plugged."""

    def __init__(
        self, vm: Vm, board: PcI440fx, cpu_config: CpuConfig, roms: MachineRoms, node_sizes: Sequence[int] = ()
    ) -> None:
        """``node_sizes``: bytes of RAM of each -numa node."""
        self._roms = roms
        self.node_sizes = node_sizes
        self.vm = vm
        self.config: Config = vm.config
        self.board = board
        self.cpu_config = cpu_config
        assert vm.memory_map is not None
        self.memory_map = vm.memory_map
        self._smbios: tuple[bytes, bytes] | None = None

    # --- firmware boot ----------------------------------------------------------------------------------------

    def map_firmware(self) -> None:
        """Load the firmware image (-bios, or SeaBIOS) to the end of 4 GiB. Raises VmmdError."""
        name = self.config.bios or self.config.machine.firmware
        image = files.load_bios(name, self.config.data_dirs)
        rom = RamBlock("pc.bios", RamSettings(size_bytes=len(image), merge=False))
        rom.view[:] = image
        self.memory_map.set_rom(rom, name or files.DEFAULT_BIOS)

    def publish(self) -> None:
        """Fill fw_cfg."""
        config, boot = self.config, self.config.boot
        low, high = self.memory_map.low_bytes, self.memory_map.high_bytes
        acpi_on = config.machine.acpi != "off"
        items = fw_items.FwItems(
            ram_bytes=self.memory_map.ram_bytes,
            e820=e820.firmware_table(low, high, hypertransport=self._hypertransport()),
            smbios=self.smbios(),
            acpi=self.acpi if acpi_on else None,
            bootorder=self.boot_order(),
            geometry=bootorder.geometry_text(boot_paths.geometry(self.board.devices)),
            cpus=config.smp.cpus,
            max_cpus=config.smp.maxcpus,
            uuid=_uuid(config.uuid),
            graphics=config.machine.graphics and not config.nographic,
            boot_menu=bool(boot.menu),
            splash_time_ms=boot.splash_time,
            reboot_timeout_ms=boot.reboot_timeout,
            disable_s3=True,  # LIMIT: no suspended state yet, so S3 is not offered
            disable_s4=bool(self.board.pm.props.disable_s4),
            s4_value=self.board.pm.props.s4_val,
            hpet_block_id=None if self.board.hpet is None else self.board.hpet.block_id,
            numa=[(size, node.cpus) for size, node in zip(self.node_sizes, config.numa, strict=True)],
            extra_files=self._extra_files(),
        )
        fw_items.publish(self.board.fw_cfg, items)
        guid = self._generation_id()
        if guid is not None and acpi_on:
            self.board.fw_cfg.add_file(vmgenid.GUID_FILE, vmgenid.page(guid))
            self.board.fw_cfg.add_writable_file(vmgenid.ADDRESS_FILE, vmgenid.ADDRESS_BYTES)

    def _extra_files(self) -> list[tuple[str, bytes]]:
        extra = list(self._roms.files.items())
        if port := self._pvpanic_port():
            extra.append(("etc/pvpanic-port", port.to_bytes(2, "little")))
        for each in self.config.fw_cfg:
            if each.string is not None:
                extra.append((each.name, each.string.encode()))
            else:
                extra.append((each.name, files.read_whole(each.file or "", _FW_CFG_FILE_MAX, "-fw_cfg")))
        return extra

    def publish_boot_order(self) -> None:
        """Tell firmware of the ``bootindex`` of every device, which may have changed since the last reset."""
        self.board.fw_cfg.add_file("bootorder", self.boot_order())

    def boot_order(self) -> bytes:
        """The ``bootorder`` file from every device's ``bootindex``. Raises UsageError (an index used twice)."""
        entries = [*boot_paths.order(self.board.devices), *self._roms.boot_entries]
        return bootorder.text(entries, strict=self.config.boot.strict)

    # --- -kernel ----------------------------------------------------------------------------------------------

    def start_kernel(self, direct_boot: DirectBoot) -> tuple[BootState, int]:
        """Program PCI and the keyboard controller and fill RAM as firmware would; returns the boot CPU's state and the
        level-triggered interrupts. vCPUs paused, DeviceLock held. Raises VmmdError."""
        from vmmd.firmware import direct_boot as boot
        from vmmd.firmware import pci_setup
        from vmmd.firmware.mptable import MpConfig

        low, high = self.memory_map.low_bytes, self.memory_map.high_bytes
        pci = pci_setup.assign(self.board.bus.devices, low, self.memory_map.end_of_ram)
        if self.board.keyboard_controller is not None:
            self.board.keyboard_controller.skip_firmware()
        cpu = self.cpu_config
        platform = boot.Platform(
            memory=self.vm.memory,
            ram_below_4g=low,
            ram_above_4g=high,
            smbios=self.smbios(),
            mp=MpConfig(
                apic_ids=[cpu.apic_id(index) for index in range(self.config.smp.cpus)],
                cpu_signature=cpu.signature,
                cpu_features=cpu.features_edx,
                pci_interrupts=pci.interrupts,
            ),
            acpi=self.acpi() if self.config.machine.acpi != "off" else None,
            serial_bases=[base for base, _ in self.acpi_config().serial_ports],
            hypertransport=self._hypertransport(),
            physical_bits=cpu.phys_bits,
        )
        return boot.prepare(direct_boot, platform), pci.elcr

    def _hypertransport(self) -> bool:
        """AMD processors keep a range below 1 TiB; pc boards tell guests of it from 7.1 on."""
        version = tuple(int(part) for part in self.config.machine.type.rpartition("-")[2].split("."))
        return self.cpu_config.vendor in ("AuthenticAMD", "HygonGenuine") and version >= (7, 1)

    # --- tables -----------------------------------------------------------------------------------------------

    def acpi_config(self) -> AcpiConfig:
        """What the ACPI tables say; the ports are those that firmware has programmed by now."""
        from vmmd.firmware import pci_setup
        from vmmd.firmware.acpi_tables import AcpiConfig

        config = self.config
        pm = self.board.pm
        return AcpiConfig(
            pci_window=pci_setup.window_32(self.memory_map.low_bytes),
            pci_window_64=pci_setup.window_64(self.memory_map.end_of_ram),
            apic_ids=[self.cpu_config.apic_id(index) for index in range(config.smp.maxcpus)],
            cpus_present=config.smp.cpus,
            serial_ports=[
                (device.io_base, device.irq_number)  # type: ignore[attr-defined]  # an IsaSerial
                for device in self.board.devices
                if device.type_name == "isa-serial"
            ],
            floppy=self._floppies(),
            keyboard=config.machine.i8042,
            mouse=config.machine.i8042,
            hpet=self.board.hpet is not None,
            vga=False,
            pvpanic_port=self._pvpanic_port(),
            generation_id=self._generation_id(),
            pm_base=pm.pm_base or 0x600,
            disable_s3=True,
            disable_s4=bool(pm.props.disable_s4),
            s4_value=pm.props.s4_val,
            numa=self._numa_nodes(),
            pci_hotplug_slots=self._hotplug_slots(),
        )

    def _hotplug_slots(self) -> list[int]:
        hotplug = self.board.pm.pci_hotplug
        if hotplug.bus is None:
            return []
        removable = hotplug.removable()
        return [slot for slot in range(SLOTS) if removable >> slot & 1]

    def _floppies(self) -> FloppyController:
        from vmmd.devices.floppy.formats import KINDS, largest
        from vmmd.firmware.acpi_tables import FloppyController, FloppyDrive

        def of(kind: str) -> FloppyDrive | None:
            if KINDS[kind].usual is None:
                return None
            form = largest(kind)
            return FloppyDrive(KINDS[kind].cmos, form.tracks, form.sectors, form.heads)

        props = self.board.fdc.props
        first, second = (of(drive.kind) for drive in self.board.fdc.fdc.drives)
        return FloppyController(props.iobase, props.irq, props.dma, (first, second))

    def _pvpanic_port(self) -> int:
        """The port of an ISA pvpanic; 0 when there is none."""
        ports = (each.props.ioport for each in self.board.devices if each.type_name == "pvpanic")  # type: ignore[attr-defined]
        return next(ports, 0)

    def _generation_id(self) -> uuid.UUID | None:
        """The number of a vmgenid device; None when there is none."""
        numbers = (each.guid for each in self.board.devices if each.type_name == "vmgenid")  # type: ignore[attr-defined]
        return next(numbers, None)

    def _numa_nodes(self) -> list[NumaNode]:
        """RAM and CPUs of each node, for the SRAT: one after the other, around the holes at 640 KiB and below 4 GiB."""
        from vmmd.firmware.acpi_tables import NumaNode

        low, high = self.memory_map.low_bytes, self.memory_map.high_bytes
        rooms = [(0, VGA_HOLE), (MiB, low - MiB), (FOUR_GIB, high)]
        nodes = []
        skipped = MiB - VGA_HOLE  # of the first node: RAM behind the VGA hole and the firmware
        for size, node in zip(self.node_sizes, self.config.numa, strict=True):
            left, ranges = size - skipped, []
            skipped = 0
            while left > 0 and rooms:
                base, room = rooms.pop(0)
                take = min(left, room)
                ranges += [(base, take)] if take else []
                if take < room:
                    rooms.insert(0, (base + take, room - take))
                left -= take
            nodes.append(NumaNode(ranges, [self.cpu_config.apic_id(index) for index in node.cpus]))
        return nodes

    def acpi(self) -> AcpiBlobs:
        from vmmd.firmware import acpi_tables

        return acpi_tables.build(self.acpi_config())

    def smbios(self) -> tuple[bytes, bytes]:
        """(anchor, tables). Made once: a reset does not look for the files of -smbios again. Raises VmmdError."""
        if self._smbios is None:
            self._smbios = self._make_smbios()
        return self._smbios

    def _make_smbios(self) -> tuple[bytes, bytes]:
        config = self.config
        low, high = self.memory_map.low_bytes, self.memory_map.high_bytes
        typed = [(each.number, _smbios_fields(each)) for each in config.smbios if each.number is not None]
        fields, ports = smbios.collect(typed)
        where = "-smbios file="
        blobs = [
            smbios.check_blob(files.read_whole(each.values["file"], _FW_CFG_FILE_MAX, where), where)
            for each in config.smbios
            if each.number is None
        ]
        return smbios.build(
            smbios.SmbiosConfig(
                machine=config.machine.type,
                ram_ranges=[(0, low)] + ([(FOUR_GIB, high)] if high else []),
                uuid=_uuid(config.uuid),
                sockets=config.smp.sockets,
                cores=config.smp.cores * config.smp.dies,
                threads=config.smp.threads,
                cpu_signature=self.cpu_config.signature,
                cpu_features=self.cpu_config.features_edx,
                fields=fields,
                ports=ports,
                blobs=blobs,
            )
        )


def _uuid(text: str | None) -> bytes:
    return (smbios.parse_uuid(text) if text else None) or bytes(16)


def _smbios_fields(options: SmbiosOptions) -> dict[str, object]:
    number = options.number
    assert number is not None
    items = []
    for wire_name in [each for each in options.declared if each in options.given]:
        value = options.values[options.declared[wire_name].name]
        for each in value if isinstance(value, tuple) else (value,):
            text = ("on" if each else "off") if isinstance(each, bool) else str(each)
            items.append((wire_name, text))
    return dict(smbios.parse_fields(number, items, f"-smbios type={number}"))

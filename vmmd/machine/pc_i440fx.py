# SPDX-License-Identifier: Apache-2.0
"""The board pc-i440fx: which devices are soldered on, how they are wired, what firmware is told, what a reset does.

FED0_0000h  HPET
pci.0  00.0 i440FX host bridge (PAM, SMRAM)   01.0 PIIX3 (PIRQ, reset port)   01.1 PIIX3 IDE   01.3 PIIX4 PM
ISA    RTC/CMOS, speaker port, i8042 with keyboard and mouse, port 92h, fw_cfg, 8237A pair, floppy controller;
       8259, I/O APIC and 8254, in the kernel or not
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vmmd.core.device import Device, ResetKind
from vmmd.core.device_tree import composite, place
from vmmd.core.registry import device_class
from vmmd.devices.isa.i8257 import IsaDma
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.user_interrupts import UserInterrupts
from vmmd.errors import InternalError, UsageError, named
from vmmd.machine.cmos_disks import disk_cells, floppy_cells
from vmmd.machine.device_plan import BUSES, BusNames, new_props
from vmmd.units import KiB, MiB

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext
    from vmmd.core.tree import Node, ObjectTree
    from vmmd.devices.acpi.pm import Piix4Pm
    from vmmd.devices.floppy.device import Floppy
    from vmmd.devices.floppy.isa import IsaFdc
    from vmmd.devices.hpet import Hpet
    from vmmd.devices.ide.device import IdeDevice
    from vmmd.devices.ide.piix3 import Piix3Ide
    from vmmd.devices.ioapic import Ioapic
    from vmmd.devices.isa.fw_cfg import FwCfg
    from vmmd.devices.isa.i8042 import I8042
    from vmmd.devices.isa.i8257 import I8257
    from vmmd.devices.isa.i8259 import I8259
    from vmmd.devices.isa.pit import IsaPit
    from vmmd.devices.isa.rtc import Mc146818Rtc
    from vmmd.devices.isa.speaker import PcSpeaker
    from vmmd.devices.pci.i440fx import I440fx
    from vmmd.machine.device_plan import DevicePlan
    from vmmd.machine.memory_map import MemoryMap
    from vmmd.options.backends import DriveOptions
    from vmmd.options.models import Config

#: ``-boot order=``: what firmware finds in CMOS for each letter
_BOOT_CODES = {"a": 1, "b": 1, "c": 2, "d": 3, "n": 4, "o": 4, "p": 4}
DEFAULT_BOOT_ORDER = "cad"


def boot_nibbles(order: str | None) -> tuple[int, int, int]:
    """The first three boot devices as CMOS codes, 0 for none."""
    codes = [_BOOT_CODES.get(letter, 0) for letter in (order if order is not None else DEFAULT_BOOT_ORDER)[:3]]
    first, second, third = [*codes, 0, 0, 0][:3]
    return first, second, third


def _rtc_start(base: str) -> str | datetime.datetime:
    """``-rtc base=`` as the clock takes it. Raises UsageError."""
    if base in ("utc", "localtime"):
        return base
    import datetime

    try:
        return datetime.datetime.fromisoformat(base)
    except ValueError:
        # QEMU-COMPAT: first sentence as QEMU's
        raise UsageError(
            f"-rtc base={base}: invalid datetime format",
            "it takes utc, localtime, or a date such as 2006-06-17T16:01:21",
        ) from None


def _with_children(device: Device) -> list[Device]:
    """A device behind all that sit on buses of it."""
    return [*(each for child in device.children() for each in _with_children(child)), device]


class PcI440fx:
    """The devices of one pc board. Built with the DeviceLock held, before any vCPU runs."""

    def __init__(self, config: Config, ctx: DeviceContext, memory_map: MemoryMap, tree: ObjectTree) -> None:
        self.config = config
        self.tree = tree
        self.ctx = ctx
        self.memory_map = memory_map
        self.bus = PciBus()
        self.bus_names = BusNames()  # those that users' devices may be put on
        self._buses: dict[str, object] = {"pci.0": self.bus}  # those that devices call, by name
        self.devices: list[Device] = []  # in order of creation; reset in this order
        self.serial_ports: frozenset[int] = frozenset()  # COM ports that will be there, set before ``build``
        #: whose chips are devices of the board; None: they are in the kernel
        self._user_interrupts = ctx.interrupts if isinstance(ctx.interrupts, UserInterrupts) else None
        #: lets the kernel's 8254 drive interrupt 0, or not; set before ``build`` where it has one
        self.connect_kernel_pit: Callable[[bool], None] = lambda on: None
        self.pit: IsaPit | None = None  # None: in the kernel, or none at all
        self.hpet: Hpet | None = None
        self.isa_dma: IsaDma
        self.fdc: IsaFdc
        self.keyboard_controller: I8042 | None = None
        self.pm: Piix4Pm
        self.rtc: Mc146818Rtc
        self.fw_cfg: FwCfg

    def build(self) -> None:
        """Make and plug the board's own devices."""
        host = self.tree.machine.add("i440fx", composite("i440FX-pcihost", self.tree.buses["main-system-bus"]))
        self.tree.add_bus("pci.0", host, "PCI")
        self._plug_host_bridge()
        self._plug_ioapic(host)
        self.tree.add_bus("isa.0", self._plug(self._make("PIIX3")), "ISA")
        self._plug_isa()
        self._plug_ide()
        pm = self._make("PIIX4_PM")
        self.pm = pm  # type: ignore[assignment]  # the registry says so
        self.pm.serial_ports = self.serial_ports
        self.pm.has_tables = self.config.machine.acpi != "off"
        self._plug(pm)

    def add(self, plan: DevicePlan, *, hotplugged: bool = False) -> Device:
        """Make and plug a user's device. Raises VmmdError and leaves no trace of it then."""
        device = plan.make(self.ctx)
        device.hotplugged = hotplugged
        try:
            self._plug(device)
        except BaseException:
            device.unrealize()
            raise
        if plan.brings:
            self.bus_names.bring(plan)
            self._buses[plan.brings] = device
            device.on_undo(lambda: self._lose_bus(plan))
        return device

    def _lose_bus(self, plan: DevicePlan) -> None:
        del self._buses[plan.brings]
        self.bus_names.take_away(plan)

    def remove(self, device: Device, gone: list[Device]) -> None:
        """Unplug a device that ``add`` has plugged, with those on the bus that it brings: ``gone`` gets all of them, in
        order. Where something cannot be given back all the rest is, and the first error is raised in the end."""
        failed: BaseException | None = None
        for each in _with_children(device):
            self.devices.remove(each)
            gone.append(each)
            try:
                each.unrealize()
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _make(self, type_name: str) -> Device:
        cls = device_class(type_name)
        if cls is None:
            raise InternalError(f"{type_name} is not in the registry")
        device = cls(new_props(cls, self.config.device_defaults), self.ctx)
        device.bus_name = BUSES[cls.bus_type][0]
        device.of_board = True
        return device

    def _plug(self, device: Device, at: tuple[Node, str] | None = None) -> Node:
        """``at``: a place of its own in the object tree."""
        if device.bus_name in self._buses:
            device.bus = self._buses[device.bus_name]  # type: ignore[attr-defined]  # PciDevice, IdeDevice
        node = place(self.tree, device, at)
        device.plug()
        device.reset(ResetKind.COLD)
        self.devices.append(device)
        return node

    def _plug_host_bridge(self) -> None:
        bridge: I440fx = self._make("i440FX")  # type: ignore[assignment]
        bridge.ram_bytes = self.config.memory.size_bytes
        bridge.pam_changed = self.memory_map.pam_changed
        bridge.smram_changed = self.memory_map.smram_changed
        self._plug(bridge)

    def _plug_keyboard(self) -> None:
        """The keyboard controller, and what is plugged into it."""
        controller: I8042 = self._make("i8042")  # type: ignore[assignment]
        self.keyboard_controller = controller
        node = self._plug(controller)
        self._plug(controller.keyboard, (node, "ps2kbd"))
        self._plug(controller.mouse, (node, "ps2mouse"))

    def _fill_cmos(self) -> None:
        """What PC firmware expects in CMOS RAM (Ralf Brown's CMOS list; SeaBIOS): memory sizes, CPUs, boot order."""
        low, high = self.memory_map.low_bytes, self.memory_map.high_bytes
        base_kib = min(low // KiB, 640)
        extended_kib = min(max(low // KiB - 1024, 0), 65535)
        above_16m = min(max(low - 16 * MiB, 0) // (64 * KiB), 65535)
        above_4g = min(high // (64 * KiB), 0xFF_FFFF)
        cells = {
            0x15: base_kib & 0xFF, 0x16: base_kib >> 8,
            0x17: extended_kib & 0xFF, 0x18: extended_kib >> 8,
            0x30: extended_kib & 0xFF, 0x31: extended_kib >> 8,
            0x34: above_16m & 0xFF, 0x35: above_16m >> 8,
            0x5B: above_4g & 0xFF, 0x5C: above_4g >> 8 & 0xFF, 0x5D: above_4g >> 16,
            0x5F: min(self.config.smp.cpus, 255) - 1,
        }  # fmt: skip
        for index, value in cells.items():
            self.rtc.cmos_set(index, value)
        boot = self.config.boot
        self.set_boot_order(boot.order if boot.once is None else boot.once)

    def set_boot_order(self, order: str | None) -> None:
        """Tell firmware in CMOS which drives to try: ``-boot once=`` at first, ``order=`` from the first reset on."""
        first, second, third = boot_nibbles(order)
        self.rtc.cmos_set(0x3D, first | second << 4)
        self.rtc.cmos_set(0x38, third << 4 | (not self.config.floppy_boot_check))

    def _plug_ioapic(self, host: Node) -> None:
        user = self._user_interrupts
        ioapic: Ioapic = self._make("kvm-ioapic" if user is None else "ioapic")  # type: ignore[assignment]
        self._plug(ioapic, (host, "ioapic"))
        if user is not None:
            user.connect_ioapic(ioapic)

    def _plug_pics(self) -> None:
        user = self._user_interrupts
        pics: list[I8259] = []
        for master in (True, False):
            pic: I8259 = self._make("kvm-i8259" if user is None else "isa-i8259")  # type: ignore[assignment]
            pic.props.place(master=master)
            self._plug(pic)
            pics.append(pic)
        if user is not None:
            user.connect_pics(*pics)

    def _plug_ide(self) -> None:
        ide: Piix3Ide = self._make("piix3-ide")  # type: ignore[assignment]
        node = self._plug(ide)
        for channel in ide.channels:
            self._buses[channel.name] = channel
            self.tree.add_bus(channel.name, node, "IDE")
        for drive in self.config.drives:
            if drive.interface == "ide":
                with named(drive.where):
                    self._plug_drive(drive)

    def _plug_drive(self, drive: DriveOptions) -> None:
        """The device of a ``-drive if=ide``."""
        device: IdeDevice = self._make("ide-cd" if drive.media == "cdrom" else "ide-hd")  # type: ignore[assignment]
        device.bus_name = f"ide.{drive.bus}"
        device.props.unit, device.props.drive = drive.unit or 0, drive.id
        self._plug(device)

    def complete(self) -> None:
        """Every device of the command line is there: tell firmware in CMOS of the disks."""
        for index, value in {**disk_cells(self.devices), **floppy_cells(self.fdc.floppies)}.items():
            self.rtc.cmos_set(index, value)

    def _plug_isa(self) -> None:
        self._plug_dma()
        self._plug_pics()
        self._plug_hpet()
        self._plug_rtc()
        self._plug_pit()
        self._plug_floppies()
        if self.config.machine.i8042:
            self._plug_keyboard()
        self._plug(self._make("port92"))
        fw_cfg = self._make("fw_cfg_io")
        self.fw_cfg = fw_cfg  # type: ignore[assignment]
        self._plug(fw_cfg, (self.tree.machine, "fw_cfg"))

    def _plug_dma(self) -> None:
        first: I8257 = self._make("i8257")  # type: ignore[assignment]
        second: I8257 = self._make("i8257")  # type: ignore[assignment]
        for controller in (first, second):
            controller.props.place(second=controller is second)
            self._plug(controller)
        self.isa_dma = IsaDma(first, second)

    def _plug_floppies(self) -> None:
        """The floppy controller and the drives of ``-drive if=floppy``."""
        fdc: IsaFdc = self._make("isa-fdc")  # type: ignore[assignment]
        fdc.dma = self.isa_dma
        node = self._plug(fdc)
        self.fdc = fdc
        self._buses[fdc.bus_of_drives] = fdc.floppies
        self.tree.add_bus(fdc.bus_of_drives, node, "floppy-bus")
        for drive in self.config.drives:
            if drive.interface == "floppy":
                with named(drive.where):
                    floppy: Floppy = self._make("floppy")  # type: ignore[assignment]
                    floppy.props.unit, floppy.props.drive = drive.unit, drive.id
                    self._plug(floppy)

    def _plug_pit(self) -> None:
        """The 8254 and the port of its counter 2."""
        if self.config.machine.pit == "off":
            return
        pit = self._make("kvm-pit" if self._user_interrupts is None else "isa-pit")
        self._plug(pit)
        speaker: PcSpeaker = self._make("isa-pcspk")  # type: ignore[assignment]
        if self._user_interrupts is not None:
            self.pit = speaker.timer = pit  # type: ignore[assignment]
        self._plug(speaker)

    def _plug_hpet(self) -> None:
        if not self.config.machine.hpet:
            return
        hpet: Hpet = self._make("hpet")  # type: ignore[assignment]
        hpet.legacy_changed = self._replace_legacy_timers
        self.hpet = hpet
        self._plug(hpet)

    def _replace_legacy_timers(self, by_hpet: bool) -> None:
        """The HPET takes interrupts 0 and 8 from the 8254 and the RTC, or gives them back."""
        self.rtc.connect(on=not by_hpet)
        if self.pit is not None:
            self.pit.connect(on=not by_hpet)
        else:
            self.connect_kernel_pit(not by_hpet)

    def _plug_rtc(self) -> None:
        rtc: Mc146818Rtc = self._make("mc146818rtc")  # type: ignore[assignment]
        rtc.start = _rtc_start(self.config.rtc.base)
        rtc.reference = {"host": None, "rt": time.monotonic_ns, "vm": self.ctx.clock.now_ns}[self.config.rtc.clock]
        if self.config.rtc.driftfix == "slew":
            rtc.props.lost_tick_policy = "slew"
        self.rtc = rtc
        self._plug(rtc)
        self._fill_cmos()

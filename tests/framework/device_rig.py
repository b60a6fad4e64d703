# SPDX-License-Identifier: Apache-2.0
"""One device of any type on a machine of fakes: what the conformance and random-access suites hold it by.

Everything runs on the test's thread and is the same for the same seed: what a device posts to the loop is queued
(``Loop``) and runs between accesses, without the DeviceLock, as the real loop does.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.unit.fakes import FakeChardev, FakeMachine, FakeNetdev, ImmediateLoop
from tests.unit.virtio_rig import DISK_BYTES, FakeDrive, MemoryDisk
from vmmd.core.address_space import IoRange
from vmmd.core.device import ResetKind
from vmmd.core.input import ABSOLUTE, BUTTON, KEY, RELATIVE
from vmmd.core.props import PciAddress
from vmmd.core.registry import device_class
from vmmd.devices.floppy.device import Floppy
from vmmd.devices.floppy.isa import FloppyBus, IsaFdc
from vmmd.devices.ide.channel import PRIMARY, Channel
from vmmd.devices.ide.dma import REGISTER_BYTES, BusMaster
from vmmd.devices.isa.i8257 import I8257, IsaDma
from vmmd.devices.pci.bar import ROM_INDEX
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.pci.device import PciDevice
from vmmd.devices.virtio.serial.device import VirtioSerialPci
from vmmd.devices.virtio.serial.port import SerialPort
from vmmd.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import Device

#: properties that a device cannot do without
NEEDED = {
    "isa-serial": {"chardev": "c0"},
    "isa-debugcon": {"chardev": "c0"},
    "isa-i8259": {"iobase": "0x20", "elcr_addr": "0x4d0", "master": "on"},
    "ide-cd": {"drive": "drive0"},
    "ide-hd": {"drive": "drive0"},
    "floppy": {"drive": "drive0"},
    "virtserialport": {"chardev": "c0", "name": "port"},
    "virtconsole": {"chardev": "c0"},
    **{f"virtio-blk-pci{suffix}": {"drive": "drive0"} for suffix in ("", "-transitional", "-non-transitional")},
    **{
        f"virtio-net-pci{suffix}": {"netdev": "net0", "mq": "on"}
        for suffix in ("", "-transitional", "-non-transitional")
    },
    **{
        f"virtio-balloon-pci{suffix}": {"free-page-reporting": "on"}  # all queues that it may have
        for suffix in ("", "-transitional", "-non-transitional")
    },
}
#: what the board gives to its own devices before they are plugged
BOARD_GIVES: dict[str, dict[str, Any]] = {
    "i440FX": {"pam_changed": lambda *_: None, "smram_changed": lambda *_: None},
    "PIIX4_PM": {"serial_ports": frozenset({0})},
    "isa-pcspk": {"timer": SimpleNamespace(speaker_gate=1, set_speaker_gate=lambda _: None, speaker_out=lambda: 1)},
}
#: interrupts that are high when nobody has asked for anything: the first half of the timer's square wave
HIGH_AT_REST = {"isa-pit": {0}}
NO_MEDIUM = MemoryDisk(0)
RAM_BYTES = 1 << 20
IO_BASE, MMIO_BASE = 0xC000, 0xE000_0000
#: where a PCI function sits that may choose: what the scripts of failed runs name, too
SLOT = 5
#: the seams of a DeviceContext by how a device may be refused them; the rest cannot fail
SEAM_METHODS: dict[str, tuple[str, ...]] = {
    "pio": ("add", "update"),
    "mmio": ("add", "update"),
    "inputs": ("add",),
    "irqs": ("line",),
    "doorbells": ("attach",),
    "backends": ("chardev", "drive", "entropy", "nic"),
    "requests": ("on_resume", "on_quiesce"),
    "clock": ("timer",),
    "roms": ("load", "show", "give_to_firmware"),
    "loop": ("add_reader", "call_later"),
}
SEAMS_THAT_NEVER_FAIL = {"balloon", "boot_indices", "events", "interrupts", "lock", "memory", "vcpus"}


class Refused(BackendError):
    """What the fault injection raises."""


class Loop(ImmediateLoop):
    """LoopPort whose callbacks wait until ``run``."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = True


def ide_channel(machine: FakeMachine) -> Channel:
    """The board's first IDE channel, with its ports and its bus master at C000h."""
    dma = BusMaster(lambda: machine.memory)
    channel = Channel(PRIMARY, machine.irqs.line(PRIMARY.gsi), dma)
    bus_master = IoRange(IO_BASE, REGISTER_BYTES, dma.read, dma.write, name="bus-master")
    for entry in (*channel.ranges(), bus_master):
        machine.pio.add(entry)
    return channel


def isa_dma(machine: FakeMachine) -> IsaDma:
    """Both DMA controllers, with their ports."""
    first, second = (I8257(I8257.Props(), machine.ctx) for _ in range(2))
    for controller in (first, second):
        controller.props.place(second=controller is second)
        controller.plug()
    return IsaDma(first, second)


def floppy_bus(machine: FakeMachine) -> FloppyBus:
    """The bus of the board's floppy controller, which is plugged."""
    fdc = IsaFdc(IsaFdc.Props(), machine.ctx)
    fdc.dma = isa_dma(machine)
    fdc.plug()
    return fdc.floppies


def serial_bus(machine: FakeMachine, bus: PciBus) -> VirtioSerialPci:
    """A virtio-serial function, for a port to sit on."""
    made = VirtioSerialPci(VirtioSerialPci.Props(), machine.ctx, "serial0")
    made.bus = bus
    with machine.lock:
        made.plug()
    machine.requests.resume_callbacks.clear()  # its own, which nobody looks at
    machine.requests.quiesce_callbacks.clear()
    return made


class Rig:
    """One device of a type on a machine of fakes. ``refuse`` is the number of the seam call that is refused."""

    def __init__(self, type_name: str, refuse: int | None = None) -> None:
        self.type_name = type_name
        self.machine = FakeMachine(RAM_BYTES, host_ns=1_700_000_000 * 1_000_000_000)
        self.machine.ctx.vcpus = 2
        loop: Any = Loop()
        self.loop: Loop = loop
        self.machine.loop = self.machine.ctx.loop = loop
        self.chardev, self.disk = FakeChardev(), MemoryDisk()
        self.drive = FakeDrive(self.disk)
        self.drive.io_status = None
        self.machine.backends.chardevs["c0"] = self.chardev
        self.machine.backends.drives["drive0"] = self.drive
        self.netdev = FakeNetdev("net0", queues=2)
        self.machine.backends.netdevs["net0"] = self.netdev
        self.bus = PciBus()
        self.channel = ide_channel(self.machine) if self.type_name.startswith("ide-") else None
        self.floppies = floppy_bus(self.machine) if self.type_name == "floppy" else None
        self.serial = (
            serial_bus(self.machine, self.bus) if self.type_name in ("virtserialport", "virtconsole") else None
        )
        self.dma = isa_dma(self.machine) if self.type_name == "isa-fdc" else None
        self.calls: list[str] = []
        self.refuse = refuse
        self.device = self.make()
        self._wrap()
        release = self.machine.backends.release

        def forget(backend: object) -> None:  # as the block graph does for who had the disk
            release(backend)
            self.disk.resize_callbacks.clear()

        self.machine.backends.release = forget  # type: ignore[method-assign]

    def make(self) -> Device:
        """A new device of the type."""
        cls = device_class(self.type_name)
        assert cls is not None
        props = cls.Props()
        for name, text in NEEDED.get(self.type_name, {}).items():
            props.set_text(name, text, self.type_name)
        if issubclass(cls, PciDevice) and cls.fixed_address is None:
            props.values["addr"] = PciAddress(SLOT, 0)
        props.check_required(self.type_name)
        device = cls(props, self.machine.ctx, None if not cls.user_creatable else "dev0")
        for name, value in BOARD_GIVES.get(self.type_name, {}).items():
            setattr(device, name, value)
        if isinstance(device, PciDevice):
            device.bus = self.bus
        elif self.channel is not None:
            device.bus = self.channel  # type: ignore[attr-defined]  # an IdeDevice
        elif isinstance(device, Floppy) and self.floppies is not None:
            device.bus = self.floppies
        elif isinstance(device, SerialPort) and self.serial is not None:
            device.bus = self.serial
        elif isinstance(device, IsaFdc) and self.dma is not None:
            device.dma = self.dma
        return device

    def _wrap(self) -> None:
        """Count and refuse calls of everything that a device may ask for while it is plugged."""
        seams = [(getattr(self.machine.ctx, seam), name) for seam, names in SEAM_METHODS.items() for name in names]
        seams += [(self.chardev, "attach"), (self.disk, "on_resize"), (self.bus, "attach")]
        for owner, name in seams:
            if hasattr(owner, name):
                setattr(owner, name, self._counted(f"{type(owner).__name__}.{name}", getattr(owner, name)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self.refuse:
                raise Refused(f"{name} is refused")
            return function(*args, **kwargs)

        return call

    # -- life ----------------------------------------------------------------------------------------------

    def plug(self) -> None:
        with self.machine.lock:
            self.device.plug()
        self.loop.run()

    def unplug(self) -> None:
        with self.machine.lock:
            self.device.unrealize()
            if self.floppies is not None:
                self.floppies.fdc.reset(interrupt=False)  # which is still there
        self.loop.run()

    def reset(self) -> None:
        with self.machine.lock:
            self.device.reset(ResetKind.COLD)
        self.loop.run()

    def traces(self) -> dict[str, object]:
        """Everything that outlives a device if it forgets to give it back."""
        machine = self.machine
        return {
            "ports": [entry.name for entry in machine.pio.ranges],
            "memory": [entry.name for entry in machine.mmio.ranges],
            "interrupts": [gsi for gsi, level in machine.interrupts.levels.items() if level],
            "doorbells": sorted(machine.doorbells.attached),
            "backends": list(machine.backends.claimed),
            "resume": list(machine.requests.resume_callbacks),
            "quiesce": list(machine.requests.quiesce_callbacks),
            "timer": machine.clock.next_deadline(),
            "readers": sorted(machine.loop.readers),
            "functions": sorted(self.bus.devices),
            "frontend": self.chardev.frontend,
            "netdev": [(queue.frontend, queue.watched) for queue in self.netdev.queues],
            "resize": list(self.disk.resize_callbacks),
            "io status": self.drive.io_status,
            "roms": (len(machine.roms.loaded), len(machine.roms.shown), list(machine.roms.given)),
            "balloon": machine.ctx.balloon.device is not None,
            "inputs": [kind for kind in (KEY, BUTTON, RELATIVE, ABSOLUTE) if machine.inputs.takes(kind)],
        }

    def hold_back(self) -> None:
        """The host is slow: requests wait."""
        self.disk.hold = self.machine.backends.entropy_source.hold = True

    def complete(self, *, backwards: bool = False) -> None:
        """The host does what it held back, and holds nothing back any more."""
        self.disk.hold = self.machine.backends.entropy_source.hold = False
        self.disk.complete(lambda held: held[::-1] if backwards else held)
        self.machine.backends.entropy_source.give()

    def exchange(self, disk: MemoryDisk | None) -> None:
        """The host opens the tray, puts another medium in or none, and closes it."""
        media = self.drive.media
        if media is not None and not self.disk.held:
            with self.machine.lock:
                media.medium_changed(False)
                self.drive.backend, self.drive.inserted = disk or NO_MEDIUM, disk is not None
                if disk is not None:
                    media.medium_changed(True)

    def recover(self) -> None:
        """The host is well again: peers read, disks answer and have the size they had."""
        self.complete()
        self.loop.run()
        self.disk.fail = {}
        self.chardev.room = None
        if not self.drive.inserted:
            self.exchange(self.disk)
        if self.disk.size_bytes != DISK_BYTES:
            self.disk.data = bytearray(DISK_BYTES)
            for callback in self.disk.resize_callbacks:
                callback()
        self.loop.run()

    # -- PCI -----------------------------------------------------------------------------------------------

    def config_write(self, offset: int, size: int, value: int) -> None:
        """A configuration write to the device, when it is a PCI function."""
        if isinstance(self.device, PciDevice):
            with self.machine.lock:
                self.bus.config_write(0, self.device.slot, self.device.function, offset, size, value)

    def bar_writes(self) -> list[tuple[int, int, int]]:
        """The configuration writes (offset, size, value) of firmware: addresses for all BARs, then decoding on."""
        device = self.device
        if not isinstance(device, PciDevice):
            return []
        at = {"io": IO_BASE, "memory": MMIO_BASE}
        writes = [(0x04, 2, 0)]
        for region in next(info for info in self.bus.query() if info.slot == device.slot).regions:
            base = -(-at[region.type] // region.size) * region.size
            is_rom = region.bar == ROM_INDEX
            writes.append((0x30, 4, base | 1) if is_rom else (0x10 + 4 * region.bar, 4, base))
            if region.mem_type_64:
                writes.append((0x14 + 4 * region.bar, 4, 0))
            at[region.type] = base + region.size
        return [*writes, (0x04, 2, 7)]

    def map_bars(self) -> None:
        """What firmware does."""
        for write in self.bar_writes():
            self.config_write(*write)
        self.loop.run()

    def registers(self) -> list[int]:
        """What the guest reads from all ports and small memory ranges, or of the configuration space of a function."""
        machine, device = self.machine, self.device
        with machine.lock:
            if isinstance(device, PciDevice):
                return [self.bus.config_read(0, device.slot, device.function, at, 4) for at in range(0, 256, 4)]
            return [
                space.read(at, 1)
                for space in (machine.pio, machine.mmio)
                for entry in space.ranges
                for at in range(entry.base, min(entry.end, entry.base + 4096))
            ]

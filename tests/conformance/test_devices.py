# SPDX-License-Identifier: Apache-2.0
"""What every device type of the registry must do, tried on each by itself: no KVM, no machine, only its seams.

It constructs with defaults, resets idempotently, survives any access, and leaves no trace when it is unplugged or when
anything that it asks for on the way is refused.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.virtqueue_driver import LoopThread
from tests.unit.fakes import FakeChardev, FakeMachine, make_context
from tests.unit.virtio_rig import FakeDrive, MemoryDisk
from vmmd.core.device import ResetKind
from vmmd.core.registry import DEVICES, LATER, all_device_classes, device_class
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.pci.device import PciDevice
from vmmd.errors import BackendError, VmmdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.address_space import AddressSpace
    from vmmd.core.device import Device

ACCESSES = 10_000
#: properties that a device cannot do without
NEEDED = {
    "isa-serial": {"chardev": "c0"},
    "isa-debugcon": {"chardev": "c0"},
    "isa-i8259": {"iobase": "0x20", "elcr_addr": "0x4d0", "master": "on"},
    **{f"virtio-blk-pci{suffix}": {"drive": "drive0"} for suffix in ("", "-transitional", "-non-transitional")},
}
#: what the board gives to its own devices before they are plugged
BOARD_GIVES: dict[str, dict[str, Any]] = {
    "i440FX": {"pam_changed": lambda *_: None, "smram_changed": lambda *_: None},
    "PIIX4_PM": {"serial_ports": frozenset({0})},
}
IO_BASE, MMIO_BASE = 0xC000, 0xE000_0000


class Refused(BackendError):
    """What the fault injection raises."""


class Rig:
    """One device of a type on a machine of fakes. ``refuse`` is the number of the seam call that is refused."""

    def __init__(self, type_name: str, refuse: int | None = None) -> None:
        self.machine: FakeMachine = make_context()
        self.machine.ctx.vcpus = 2
        self.chardev, self.disk = FakeChardev(), MemoryDisk()
        self.machine.backends.chardevs["c0"] = self.chardev
        self.machine.backends.drives["drive0"] = FakeDrive(self.disk)
        self.machine.backends.drives["drive0"].io_status = None
        self.bus = PciBus()
        #: virtio devices take the lock on the loop, so that needs a thread of its own
        self.loop = LoopThread() if type_name.startswith("virtio") else None
        if self.loop is not None:
            self.machine.ctx.loop = self.loop
        self.calls: list[str] = []
        self.refuse = refuse
        self.device = self.make(type_name)
        self._wrap()
        release = self.machine.backends.release

        def forget(backend: object) -> None:  # as the block graph does for who had the disk
            release(backend)
            self.disk.resize_callbacks.clear()

        self.machine.backends.release = forget

    def make(self, type_name: str) -> Device:
        cls = device_class(type_name)
        assert cls is not None
        props = cls.Props()
        for name, text in NEEDED.get(type_name, {}).items():
            props.set_text(name, text, type_name)
        props.check_required(type_name)
        device = cls(props, self.machine.ctx, None if not cls.user_creatable else "dev0")
        for name, value in BOARD_GIVES.get(type_name, {}).items():
            setattr(device, name, value)
        if isinstance(device, PciDevice):
            device.bus = self.bus
        return device

    def _wrap(self) -> None:
        """Count and refuse calls of everything that a device may ask for while it is plugged."""
        machine = self.machine
        seams: list[tuple[object, str]] = [
            (machine.pio, "add"), (machine.pio, "update"), (machine.mmio, "add"), (machine.mmio, "update"),
            (machine.irqs, "line"), (machine.doorbells, "attach"), (machine.backends, "chardev"),
            (machine.backends, "drive"), (machine.requests, "on_resume"), (machine.requests, "on_quiesce"),
            (machine.clock, "timer"), (machine.loop, "add_reader"), (machine.loop, "call_later"),
            (self.chardev, "attach"), (self.disk, "on_resize"), (self.bus, "attach"),
        ]  # fmt: skip
        for owner, name in seams:
            setattr(owner, name, self._counted(f"{type(owner).__name__}.{name}", getattr(owner, name)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self.refuse:
                raise Refused(f"{name} is refused")
            return function(*args, **kwargs)

        return call

    def plug(self) -> None:
        with self.machine.lock:
            self.device.plug()

    def unplug(self) -> None:
        with self.machine.lock:
            self.device.unrealize()
        self.settle()

    def settle(self) -> None:
        if self.loop is not None:
            self.loop.settle()

    def reset(self) -> None:
        with self.machine.lock:
            self.device.reset(ResetKind.COLD)
        self.settle()

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
            "resize": list(self.disk.resize_callbacks),
            "io status": machine.backends.drives["drive0"].io_status,
        }

    def map_bars(self) -> None:
        """What firmware does: addresses for all BARs, and decoding on."""
        device = self.device
        if not isinstance(device, PciDevice):
            return
        at = {"io": IO_BASE, "memory": MMIO_BASE}

        def put(offset: int, size: int, value: int) -> None:
            self.bus.config_write(0, device.slot, device.function, offset, size, value)

        with self.machine.lock:
            put(4, 2, 0)
            for region in next(info for info in self.bus.query() if info.slot == device.slot).regions:
                size = region.size
                base = -(-at[region.type] // size) * size
                put(0x10 + 4 * region.bar, 4, base)
                if region.mem_type_64:
                    put(0x14 + 4 * region.bar, 4, 0)
                at[region.type] = base + size
            put(4, 2, 7)


def pound(rig: Rig, space: AddressSpace, seed: str) -> None:
    """Every offset of every range once with every width, then at random until there were enough accesses."""
    if not space.ranges:
        return
    rng = random.Random(seed)
    for size in (1, 2, 4, 8) if space is rig.machine.mmio else (1, 2, 4):
        places = [
            address
            for entry in space.ranges
            for address in range(entry.base, entry.end)[: 2 * ACCESSES // len(space.ranges)]
        ]
        places += rng.choices(places, k=max(0, ACCESSES - len(places)))
        rng.shuffle(places)
        for address in places:
            with rig.machine.lock:
                if rng.random() < 0.5:
                    assert 0 <= space.read(address, size) < 1 << 8 * size
                else:
                    space.write(address, size, rng.choice((0, 1, (1 << 8 * size) - 1, rng.getrandbits(8 * size))))
        rig.settle()
        rig.machine.clock.advance(rng.randrange(2_000_000_000))


def registers(rig: Rig) -> list[int]:
    """What the guest reads from all ports and the configuration space, where reading has no effect."""
    with rig.machine.lock:
        if isinstance(rig.device, PciDevice):
            device = rig.device
            return [rig.bus.config_read(0, device.slot, device.function, offset, 4) for offset in range(0, 256, 4)]
        return [rig.machine.pio.read(at, 1) for entry in rig.machine.pio.ranges for at in range(entry.base, entry.end)]


every_type = pytest.mark.parametrize("type_name", sorted(DEVICES))


def test_the_registry_tells_the_truth() -> None:
    for name, cls in all_device_classes().items():
        assert cls.type_name == name
        assert cls.description or not cls.user_creatable, name
    assert not set(LATER) & set(DEVICES)


@every_type
def test_properties_are_documented_and_have_fitting_defaults(type_name: str) -> None:
    cls = device_class(type_name)
    assert cls is not None
    for declared in cls.Props.each():
        assert declared.doc.strip(), declared.wire_name
        assert declared.kind.accepts, declared.wire_name
        assert declared.wire_name == declared.wire_name.lower() or declared.wire_name.startswith("x-")
        if declared.default is not None:
            value = declared.kind.from_json(declared.kind.to_json(declared.default))
            assert value == declared.default, declared.wire_name


@every_type
def test_unplugged_it_leaves_everything_as_it_was(type_name: str) -> None:
    rig = Rig(type_name)
    before = rig.traces()
    assert not rig.calls  # constructing has no side effects
    rig.plug()
    rig.reset()
    rig.map_bars()
    pound(rig, rig.machine.pio, type_name)
    pound(rig, rig.machine.mmio, type_name)
    rig.unplug()
    assert rig.traces() | {"timer": None} == before
    rig.unplug()  # once more: nothing
    assert rig.traces() | {"timer": None} == before


@every_type
def test_after_its_end_time_passes_without_it(type_name: str) -> None:
    """A timer of an unplugged device must not come back to life."""
    rig = Rig(type_name)
    rig.plug()
    rig.map_bars()
    pound(rig, rig.machine.pio, type_name + "!")
    rig.unplug()
    traces, edges, asked = rig.traces(), len(rig.machine.interrupts.edges), len(rig.machine.requests.asked)
    rig.machine.clock.advance(3600 * 1_000_000_000)
    assert rig.traces() | {"timer": None} == traces | {"timer": None}
    assert len(rig.machine.interrupts.edges) == edges
    assert len(rig.machine.requests.asked) == asked


@every_type
def test_whatever_is_refused_while_it_is_plugged_it_leaves_no_trace(type_name: str) -> None:
    clean = Rig(type_name)
    clean.plug()
    steps = list(clean.calls)
    ports_only = ("port92", "isa-i8259", "kvm-")  # or nothing: these chips are in the kernel
    assert steps or type_name.startswith(ports_only)
    for number, step in enumerate(steps):
        rig = Rig(type_name, refuse=number)
        before = rig.traces()
        with pytest.raises(Refused):
            rig.plug()
        assert rig.traces() == before, f"after {step} (call {number}) was refused"


@every_type
def test_plugged_unplugged_and_plugged_again(type_name: str) -> None:
    rig = Rig(type_name)
    rig.plug()
    first = rig.traces()
    rig.unplug()
    rig.device = rig.make(type_name)
    rig.plug()
    second = rig.traces()
    ignored = ("resume", "quiesce", "frontend", "resize")  # hold the device itself
    assert {key: value for key, value in second.items() if key not in ignored} == {
        key: value for key, value in first.items() if key not in ignored
    }


@every_type
def test_reset_is_idempotent_and_forgets_what_the_guest_did(type_name: str) -> None:
    rig, fresh = Rig(type_name), Rig(type_name)
    for each in (rig, fresh):
        each.plug()
        each.reset()
    rig.map_bars()
    pound(rig, rig.machine.pio, type_name + "?")
    pound(rig, rig.machine.mmio, type_name + "?")
    rig.reset()
    first = registers(rig)
    rig.reset()
    assert registers(rig) == first
    if type_name not in ("mc146818rtc", "PIIX4_PM"):  # CMOS RAM is kept by a battery; the PM timer goes on
        assert first == registers(fresh)
    assert not [gsi for gsi, level in rig.machine.interrupts.levels.items() if level]


@every_type
def test_a_wrong_property_is_refused_by_name(type_name: str) -> None:
    cls = device_class(type_name)
    assert cls is not None
    with pytest.raises(VmmdError, match="no-such-property"):
        cls.Props().set_text("no-such-property", "1", type_name)

# SPDX-License-Identifier: Apache-2.0
"""Device: the base of every modelled piece of hardware, and the seams it is given.

A device is a pure object: registers, state, and injected seams (``DeviceContext``). Life: construct (no side
effects) → ``realize`` (claims resources, each with an undo) → resets, accesses → ``unrealize``. Both run with the
DeviceLock held. ``realize`` that raises is unwound completely by ``plug``.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from vmmd.core.balloon import BalloonSlot
from vmmd.core.bootindex import BootIndices
from vmmd.core.props import PropSet
from vmmd.log import get_logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Sequence

    from vmmd.core.address_space import AddressSpace
    from vmmd.core.backend import CharBackend, DriveHandle, EntropySource, Nic, NicPort
    from vmmd.core.clock import Clock
    from vmmd.core.events import EventSink
    from vmmd.core.input import InputRouter
    from vmmd.core.irq import GsiFanIn, InterruptController
    from vmmd.core.memory import GuestMemory
    from vmmd.core.notify import DoorbellFactory, LoopPort
    from vmmd.core.props import Prop
    from vmmd.core.rom import OptionRoms
    from vmmd.core.tree import BusNode, Node, Property


class ResetKind(enum.Enum):
    COLD = "cold"  # power-on, system_reset


class ShutdownCause(enum.StrEnum):
    """Why a shutdown or reset was requested; the words of QMP's ``ShutdownCause``."""

    NONE = "none"
    HOST_ERROR = "host-error"
    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_QMP_SYSTEM_RESET = "host-qmp-system-reset"
    HOST_SIGNAL = "host-signal"
    HOST_UI = "host-ui"
    GUEST_SHUTDOWN = "guest-shutdown"
    GUEST_RESET = "guest-reset"
    GUEST_PANIC = "guest-panic"
    SUBSYSTEM_RESET = "subsystem-reset"

    @property
    def by_guest(self) -> bool:
        return self.value.startswith("guest-")


class SystemRequests(Protocol):
    """Machine-wide effects a device may ask for. Any thread, never blocks: queued, carried out by the loop
    after the vCPUs are paused; the asking vCPU does not run another guest instruction before that."""

    def request_reset(self, cause: ShutdownCause) -> None: ...

    def request_shutdown(self, cause: ShutdownCause) -> None: ...

    def request_exit_code(self, status: int) -> None:
        """End the whole process with exit status ``status`` (isa-debug-exit), as a shutdown by the guest."""

    def request_io_error_stop(self) -> None:
        """Stop the VM in state ``io-error`` (rerror/werror=stop)."""

    def request_panic(self) -> None:
        """The guest says that it has panicked: GUEST_PANICKED, and what ``-action panic=`` chooses."""

    def request_watchdog(self) -> None:
        """A watchdog has expired: WATCHDOG, and what ``-action watchdog=`` chooses."""

    def request_internal_error(self, reason: str) -> None:
        """Stop the VM in state ``internal-error``; ``reason`` goes to the log."""

    def on_resume(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` on the loop when the VM starts to run after a stop (retry of parked requests);
        returns a function that undoes the registration."""

    def on_quiesce(self, begin: Callable[[Callable[[], None]], None]) -> Callable[[], None]:
        """Register with stop/reset/quit: when the vCPUs are paused, ``begin(done)`` is called on the loop and the
        device calls ``done()`` once nothing of it is in flight any more. Returns the undo function."""


class Backends(Protocol):
    """Looks up backends by id; each lookup claims it for one device. Raises UsageError (unknown id, in use)."""

    def chardev(self, id_: str, user: str) -> CharBackend: ...

    def drive(
        self, id_: str, user: str, *, share_rw: bool = False, allow_empty: bool = False, writes: bool = True
    ) -> DriveHandle:
        """``share_rw``: other processes may write to the image as well. ``allow_empty``: a drive without medium will
        do, and ``""`` asks for one of its own. ``writes``: the device writes to media that can be written."""

    def entropy(self, id_: str | None, user: str) -> EntropySource:
        """Random bytes of an rng object; of the kernel without ``id_``."""

    def nic(self, nic: Nic, netdev: str | None, mac: bytes | None = None) -> NicPort:
        """Enter a NIC into the network, connected to ``netdev`` if that is named. Its errors name the property of the
        NIC's type. DeviceLock held; given back by ``release``, when nothing of the NIC uses a queue any more."""

    def release(self, backend: object) -> None:
        """Give a claimed backend back."""


class DeviceContext:
    """The seams that a machine gives to its devices. Immutable after construction."""

    __slots__ = (
        "backends", "balloon", "boot_indices", "clock", "doorbells", "events", "inputs", "interrupts", "irqs", "lock",
        "loop", "memory", "mmio", "pio", "requests", "roms", "vcpus",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913  # the seams, by name, once
        self,
        *,
        lock: threading.Lock,
        memory: GuestMemory,
        pio: AddressSpace,
        mmio: AddressSpace,
        interrupts: InterruptController,
        irqs: GsiFanIn,
        clock: Clock,
        loop: LoopPort,
        doorbells: DoorbellFactory,
        events: EventSink,
        requests: SystemRequests,
        backends: Backends,
        inputs: InputRouter,
        roms: OptionRoms,
        vcpus: int = 1,
    ) -> None:
        self.lock = lock
        self.memory = memory
        self.pio = pio
        self.mmio = mmio
        self.interrupts = interrupts
        self.irqs = irqs
        self.clock = clock
        self.loop = loop
        self.doorbells = doorbells
        self.events = events
        self.requests = requests
        self.backends = backends
        self.inputs = inputs
        self.roms = roms
        self.boot_indices = BootIndices()
        self.balloon = BalloonSlot()
        self.vcpus = vcpus  # at start; what num-queues=auto counts


class Device:
    """Base of all devices. Subclasses set the class attributes, declare ``Props`` and implement ``realize``."""

    type_name: ClassVar[str] = ""  # QEMU's name, "isa-serial"
    description: ClassVar[str] = ""
    #: heading in -device help: bridge, usb, storage, network, input, display, misc, cpu
    category: ClassVar[str] = "misc"
    bus_type: ClassVar[str | None] = None  # "PCI", "ISA", "IDE", "virtio-serial-bus"; None: no bus (part of the board)
    user_creatable: ClassVar[bool] = False
    #: at most one of them fits into a machine
    single: ClassVar[bool] = False
    #: QEMU's type above this one; "" follows from the bus: pci-device, isa-device
    parent_type: ClassVar[str] = ""
    #: wire names of properties that must keep their default. LIMIT: not available in this version
    UNAVAILABLE: ClassVar[tuple[str, ...]] = ()
    #: type of a device that is inside this one, "virtio-blk-device"; its properties are this one's too
    inner_type: ClassVar[str] = ""
    #: kind of the bus that a device of this type brings along for others to sit on: "virtio-serial-bus"
    brings_bus_type: ClassVar[str] = ""
    #: name of the device inside this one in the object tree ("virtio-backend"); it has its own DEVICE_DELETED
    inner_name: ClassVar[str] = ""
    #: QEMU's base and part types whose ``-global`` properties are properties of this device here
    global_types: ClassVar[tuple[str, ...]] = ()
    #: paths of attributes ("_cmos", "virtio.counters") that a reset leaves as they are: what a battery keeps, counters,
    #: what the host set. Everything else is as after power-on (tests/conformance compares)
    KEPT_AT_RESET: ClassVar[tuple[str, ...]] = ()

    class Props(PropSet):
        """Properties that every device has: none."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        self.props = props
        self.ctx = ctx
        self.id = id_
        self.bus_name = ""  # of the bus it sits on, where there are several of its kind: "ide.0"
        self.brings_bus = ""  # name of the bus that it brings
        self.bus_node: BusNode | None = None  # of that bus in the object tree, made by ``parts``
        self.of_board = False  # the machine made it, not a -device
        self.qom_path = ""  # set when it enters the object tree
        self.hotplugged = False  # came after the machine was built
        #: what ``realize`` chose for properties that were left open, by attribute name; shown in the object tree
        self.resolved: dict[str, object] = {}
        self.log = get_logger(f"vmmd.devices.{self.type_name}" + (f"[{id_}]" if id_ else ""))
        self._undo: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        """How errors and logs call it: its id or, without one, its type."""
        return self.id or self.type_name

    @property
    def hotpluggable(self) -> bool:
        """True when it may come and go (``machine.hotplug`` says when)."""
        return self.user_creatable and self.bus_type in ("PCI", "virtio-serial-bus")

    def realize(self) -> None:
        """Claim resources. Call ``self.on_undo`` after each one. Raises VmmdError; the caller unwinds."""

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Remember how to give a resource back; run in reverse order at unrealize."""
        self._undo.append(undo)

    def plug(self) -> None:
        """Realize, and leave no trace when it fails. DeviceLock held."""
        try:
            self.realize()
        except BaseException:
            self.unrealize()
            raise

    def wind_down(self, done: Callable[[], None]) -> None:
        """It is about to be unplugged and the guest reaches it no more: begin nothing new, and call ``done()`` on the
        loop, maybe at once, when nothing is in flight. On the loop, DeviceLock held; ``unrealize`` may come before."""
        done()

    def unrealize(self) -> None:
        """Give everything back, last claimed first. DeviceLock held. Idempotent. Where something cannot be given back
        all the rest is, and the first error is raised in the end."""
        failed: BaseException | None = None
        while self._undo:
            try:
                self._undo.pop()()
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def parts(self) -> Iterable[tuple[str, Node]]:
        """Nodes below this device's in the object tree: inner devices and buses."""
        return ()

    def children(self) -> Sequence[Device]:
        """The devices on the bus that it brings, in the order in which they go with it, which is QEMU's."""
        return ()

    def tree_lines(self) -> Iterable[str]:
        """What ``info qtree`` says of it besides its settings."""
        return ()

    def extra_properties(self) -> Iterable[Property]:
        """What it shows in the object tree besides its declared properties."""
        return ()

    @classmethod
    def available(cls) -> list[Prop[Any]]:
        """The properties that this version has."""
        return [each for each in cls.Props.each() if each.wire_name not in cls.UNAVAILABLE]

    @classmethod
    def is_inner(cls, declared: Prop[Any]) -> bool:
        """True for a property of the inner device."""
        return False

    def owner_of(self, declared: Prop[Any]) -> str:
        """How the refusal to change a property names whom it belongs to."""
        if self.is_inner(declared):
            return f"anonymous device (type '{self.inner_type}')"
        return (f"device '{self.id}'" if self.id else "anonymous device") + f" (type '{self.type_name}')"

    def change_property(self, declared: Prop[Any], value: object) -> None:
        """A property declared ``live`` gets a new value, of its type. On the loop, without the lock. Raises VmmdError;
        nothing has changed then."""
        if declared.name == "bootindex":  # firmware sees it from the next reset on
            self.ctx.boot_indices.claim(self, cast("int", value))
        self.props.values[declared.name] = value

    def reset(self, kind: ResetKind) -> None:
        """To power-on state. vCPUs are paused; DeviceLock held. Idempotent."""

    def forget_lost_ticks(self) -> None:
        """A clock that makes up for lost ticks forgets them (rtc-reset-reinjection). DeviceLock held."""

    def claim_boot_index(self, index: int | None) -> None:
        """Take the place of ``bootindex`` in the boot order until unrealize. Raises UsageError."""
        self.ctx.boot_indices.claim(self, index)
        self.on_undo(lambda: self.ctx.boot_indices.release(self))

    def claim_pio(self, entry: object) -> None:
        """Add an IoRange to the port space until unrealize."""
        from vmmd.core.address_space import IoRange

        assert isinstance(entry, IoRange)  # a programming error, not input
        self.ctx.pio.add(entry)
        self.on_undo(lambda: self.ctx.pio.remove(entry))

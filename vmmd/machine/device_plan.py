# SPDX-License-Identifier: Apache-2.0
"""From ``-device`` options to device objects, in two steps: plan (checks, no side effects) and make.

Every ``-device`` of a command line is planned before anything is opened, so that a wrong property leaves no trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.core.registry import DEVICES, LATER, device_class
from vmmd.errors import UsageError, did_you_mean, named
from vmmd.options.old_machines import OldDefault

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from vmmd.core.device import Device, DeviceContext
    from vmmd.core.props import PropSet
    from vmmd.options.models import DeviceOptions, GlobalProperty


#: kind of bus -> those of this board; the first is where a device goes that does not say
BUSES: dict[str | None, tuple[str, ...]] = {
    "PCI": ("pci.0",),
    "ISA": ("isa.0",),
    "IDE": ("ide.1", "ide.0"),  # QEMU-COMPAT: the latest comes first, and is not left when it is full
    "floppy-bus": ("floppy-bus.0",),
    None: ("main-system-bus",),
}
_OTHER_NAMES = {"pci": "pci.0", "isa": "isa.0"}


class BusNames:
    """The buses that devices may be put on: the board's, and those that devices bring. Loop thread."""

    def __init__(self) -> None:
        self._names = {kind: list(names) for kind, names in BUSES.items()}
        self._numbered: dict[str, int] = {}

    def of(self, kind: str | None) -> list[str]:
        """Names of the buses of a kind; the first is where a device goes that does not say."""
        return self._names.get(kind, [])

    def kind_of(self, name: str) -> str | None:
        """The kind of a bus; None: there is none of that name."""
        return next((kind for kind, names in self._names.items() if kind is not None and name in names), None)

    def next_name(self, cls: type[Device], id_: str | None) -> str:
        """How the bus of a new device will be called, "" when it brings none. Raises UsageError: a bus is found by
        its name, and no two have the same."""
        kind = cls.brings_bus_type
        if not kind:
            return ""
        name = f"{id_}.0" if id_ else f"{kind}.{self._numbered.get(kind, 0)}"
        if any(name in names for names in self._names.values()):
            # not so in QEMU, where the second bus of a name is there and cannot be named
            hint = "give the device another id" if id_ else "give the device an id"
            raise UsageError(f"Duplicate bus name '{name}'", hint)
        return name

    def bring(self, plan: DevicePlan) -> None:
        """The bus of a new device is there. Nothing happens the second time."""
        kind, name = plan.cls.brings_bus_type, plan.brings
        names = self._names.setdefault(kind, [])
        if name and name not in names:
            names.insert(0, name)  # QEMU-COMPAT: the latest comes first
            if not plan.id:  # QEMU-COMPAT: a number is not used twice
                self._numbered[kind] = self._numbered.get(kind, 0) + 1

    def take_away(self, plan: DevicePlan) -> None:
        """The device has gone, and its bus."""
        if plan.brings:
            self._names[plan.cls.brings_bus_type].remove(plan.brings)


class DevicePlan(NamedTuple):
    """A checked ``-device``."""

    cls: type[Device]
    props: PropSet
    id: str | None
    bus: str  # its name, "pci.0"
    option: str  # what errors begin with
    brings: str = ""  # name of the bus that it brings
    of_board: bool = False

    def make(self, ctx: DeviceContext) -> Device:
        """The device, not yet realized."""
        device = self.cls(self.props, ctx, self.id)
        device.bus_name = self.bus
        device.brings_bus = self.brings
        device.of_board = self.of_board
        return device


def find_class(driver: str) -> type[Device]:
    """The class of a driver that users may create. Raises UsageError."""
    cls = device_class(driver)
    if cls is None:
        if driver in LATER:
            raise UsageError(f"Device '{driver}' is not available in this version")
        hint = did_you_mean(driver, [*DEVICES, *LATER]) or "see -device help"
        # QEMU-COMPAT: libvirt and people know this sentence
        raise UsageError(f"'{driver}' is not a valid device model name", hint)
    if not cls.user_creatable:
        raise UsageError("Parameter 'driver' expects a pluggable device type", f"'{driver}' is a part of the board")
    return cls


def plan(
    options: DeviceOptions, globals_: Iterable[GlobalProperty | OldDefault], buses: BusNames | None = None
) -> DevicePlan:
    """Check driver and properties. Raises UsageError, which starts with the option; has no side effects."""
    with named(options.option):
        made = check(options, globals_, buses)
        made.props.check_required(options.driver)
    return made


def check(
    options: DeviceOptions, globals_: Iterable[GlobalProperty | OldDefault], buses: BusNames | None = None
) -> DevicePlan:
    """``plan`` for device_add: errors do not name an option, and a property that is missing is left to ``realize``."""
    cls = find_class(options.driver)
    buses = buses or BusNames()
    bus = find_bus(cls, options, buses)
    props = new_props(cls, globals_)
    for key, value in options.items:
        if options.is_json:
            props.set_json(key, value, options.driver)
        else:
            props.set_text(key, value, options.driver)
    brings = buses.next_name(cls, options.id)
    return DevicePlan(cls, props, options.id, bus, options.option, brings, options.of_board)


def new_props(cls: type[Device], globals_: Iterable[GlobalProperty | OldDefault]) -> Any:
    """Properties of a new device: defaults, then what ``-global`` says for its type, a base of it, or its part."""
    props = cls.Props()
    for each in globals_:
        if each.driver == cls.type_name or each.driver in cls.global_types:
            if isinstance(each, OldDefault) and (
                each.property not in cls.Props.declared or each.property in cls.UNAVAILABLE
            ):
                continue
            props.set_text(each.property, each.value, each.driver)
    return props


def find_bus(cls: type[Device], options: DeviceOptions, buses: BusNames) -> str:
    """The name of the bus that is asked for, which exists and fits, or of the usual one. Raises UsageError."""
    fitting = buses.of(cls.bus_type)
    if options.bus is None:
        if not fitting:  # QEMU-COMPAT: QEMU's sentence
            raise UsageError(
                f"No '{cls.bus_type}' bus found for device '{options.driver}'", "a device that brings one comes before"
            )
        return fitting[0]
    name = _OTHER_NAMES.get(options.bus, options.bus)
    if name in fitting:
        return name
    where = f"{options.driver} goes on {' or '.join(sorted(fitting)) or f'a bus of kind {cls.bus_type}'}"
    bus_type = buses.kind_of(name)
    if bus_type is not None:
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError(f"Device '{options.driver}' can't go on {bus_type} bus", where)
    raise UsageError(f"Bus '{options.bus}' not found", where)


def behind_their_buses(devices: Iterable[DeviceOptions]) -> list[DeviceOptions]:
    """``devices`` in their order, but none before the device whose bus it names: it follows that one. A line may be
    written in any order; QEMU refuses such a one ("Bus … not found")."""
    every = list(devices)
    later = {each.id for each in every if each.id}
    waiting: dict[str, list[DeviceOptions]] = {}
    ordered: list[DeviceOptions] = []
    for device in every:
        host = (device.bus or "").rpartition(".")[0]
        if host in later and host != device.id:
            waiting.setdefault(host, []).append(device)
            continue
        following = [device]
        while following:
            ordered.append(following.pop(0))
            later.discard(ordered[-1].id or "")
            following[:0] = waiting.pop(ordered[-1].id or "", [])
    return ordered + [device for group in waiting.values() for device in group]  # these wait for each other


def check_single(plans: Iterable[DevicePlan]) -> None:
    """No type of which a machine has one at most is there twice. Raises UsageError."""
    seen: dict[str, str] = {}
    for each in plans:
        driver = each.cls.type_name
        if each.cls.single and driver in seen:
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError(f"{each.option}: at most one {driver} device is permitted", f"{seen[driver]} is the first")
        seen[driver] = each.option


def check_references(plans: Iterable[DevicePlan], known: dict[str, Container[str]]) -> None:
    """Every backend that a property names exists. ``known`` maps a ref kind ("chardev", "drive") to its ids."""
    for each in plans:
        for declared in each.props.each():
            kind = declared.kind.ref_kind
            value = each.props.values.get(declared.name)
            if kind in known and isinstance(value, str) and value not in known[kind]:
                # QEMU-COMPAT: first sentence as QEMU's
                user = each.cls.inner_type or each.cls.type_name
                raise UsageError(
                    f"{each.option}: Property '{user}.{declared.wire_name}' can't find value '{value}'",
                    f"no {kind} has this id",
                )

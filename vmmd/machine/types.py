# SPDX-License-Identifier: Apache-2.0
"""The types of objects that exist, each with QEMU's name and parents: what clients look for before they use a thing.

Nothing is in here that vmmd does not have: types follow from the tables of devices, CPU models, machines, objects and
character devices; only their abstract bases are listed by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.core.registry import DEVICES, device_class
from vmmd.machine.cpu_tree import CPU_SUFFIX, cpu_properties
from vmmd.machine.machine_tree import machine_properties

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vmmd.core.device import Device
    from vmmd.core.props import Prop


class ObjectType(NamedTuple):
    """One type. ``interfaces`` it has besides those of its parents."""

    name: str
    parent: str | None
    abstract: bool = False
    interfaces: tuple[str, ...] = ()


class PropertyInfo(NamedTuple):
    """A property of a type, before there is an object. ``default`` is None where there is none."""

    name: str
    type: str
    description: str | None = None
    default: object = None


#: abstract bases: name -> parent
_BASES: dict[str, str | None] = {
    "object": None,
    "interface": None,
    "device": "object",
    "bus": "object",
    "accel": "object",
    "machine": "object",
    "chardev": "object",
    "memory-backend": "object",
    "rng-backend": "object",
    "secret_common": "object",
    "event-loop-base": "object",
    "user-creatable": "interface",
    "isa-device": "device",
    "ide-device": "device",
    "pci-device": "device",
    "sys-bus-device": "device",
    "virtio-device": "device",
    "cpu": "device",
    "apic-common": "device",
    "pit-common": "isa-device",
    "pic-common": "isa-device",
    "ioapic-common": "sys-bus-device",
    "fw_cfg": "sys-bus-device",
    "ps2-device": "sys-bus-device",
    "pci-host-bridge": "sys-bus-device",
    "pci-piix3": "pci-device",
    "pci-ide": "pci-device",
    "virtio-pci": "pci-device",
    "virtio-blk-pci-base": "virtio-pci",
    "virtio-rng-pci-base": "virtio-pci",
    "virtio-net-pci-base": "virtio-pci",
    "virtio-balloon-pci-base": "virtio-pci",
    "virtio-serial-pci-base": "virtio-pci",
    "virtio-serial-port": "device",
    "virtio-bus": "bus",
    "x86_64-cpu": "cpu",
    "x86-machine": "machine",
    "generic-pc-machine": "x86-machine",
    "chardev-fd": "chardev",
}
#: types that are in no table
_OTHERS = {
    "container": "object",
    "PCI": "bus",
    "ISA": "bus",
    "IDE": "bus",
    "floppy-bus": "bus",
    "virtio-serial-bus": "bus",
    "System": "bus",
    "virtio-pci-bus": "virtio-bus",
    "i440FX-pcihost": "pci-host-bridge",
    "kvm-accel": "accel",
    "qtest-accel": "accel",
}
_CONCRETE_ACCEL = "accel"  # QEMU-COMPAT: a base that is not abstract
_BUS_PARENTS = {
    "PCI": "pci-device",
    "ISA": "isa-device",
    "IDE": "ide-device",
    "floppy-bus": "device",
    "virtio-serial-bus": "virtio-serial-port",
    None: "sys-bus-device",
}
_INNER_PARENTS = {"serial": "device"}
_CHARDEV_PARENTS = {"file": "chardev-fd", "stdio": "chardev-fd"}

_types: dict[str, ObjectType] = {}


def known() -> bool:
    """True when ``all_types`` costs nothing any more."""
    return bool(_types)


def all_types() -> Mapping[str, ObjectType]:
    """Every type by name. Imports all device modules the first time."""
    if not _types:
        _types.update({each.name: each for each in _every_type()})
    return _types


def _every_type() -> Iterator[ObjectType]:
    for name, parent in _BASES.items():
        yield ObjectType(name, parent, abstract=name != _CONCRETE_ACCEL)
    for name, parent in _OTHERS.items():
        yield ObjectType(name, parent)
    for name in DEVICES:
        cls = device_class(name)
        assert cls is not None
        yield ObjectType(name, cls.parent_type or _BUS_PARENTS[cls.bus_type])
        if cls.inner_type:
            yield ObjectType(cls.inner_type, _INNER_PARENTS.get(cls.inner_type, "virtio-device"))
    yield from _host_types()


def _host_types() -> Iterator[ObjectType]:
    from vmmd.kvm.cpuid import cpu_model_names
    from vmmd.options.backends import CHARDEVS
    from vmmd.options.models import machine_types
    from vmmd.options.objects import OBJECTS

    for model in cpu_model_names():
        yield ObjectType(model + CPU_SUFFIX, "max" + CPU_SUFFIX if model == "host" else "x86_64-cpu")
    for kind in machine_types():
        yield ObjectType(f"{kind}-machine", "machine" if kind == "none" else "generic-pc-machine")
    for word in CHARDEVS:
        parent = "chardev-ringbuf" if word == "memory" else _CHARDEV_PARENTS.get(word, "chardev")
        yield ObjectType(f"chardev-{word}", parent)
    for qom_type, options in OBJECTS.items():
        yield ObjectType(qom_type, options.parent_type, interfaces=("user-creatable",))


def is_a(kind: ObjectType, wanted: str) -> bool:
    """True when ``kind`` is ``wanted``, inherits from it or implements it."""
    types = all_types()
    current: ObjectType | None = kind
    while current is not None:
        if current.name == wanted or wanted in current.interfaces:
            return True
        current = types[current.parent] if current.parent else None
    return False


def properties(kind: ObjectType) -> list[PropertyInfo]:
    """All properties that objects of a type have, ``type`` first."""
    return [
        PropertyInfo("type", "string"),
        *(_DEVICE_PROPERTIES if is_a(kind, "device") else ()),
        *own_properties(kind),
    ]


_DEVICE_PROPERTIES = (
    PropertyInfo("parent_bus", "link<bus>"),
    PropertyInfo("realized", "bool"),
    PropertyInfo("hotplugged", "bool"),
    PropertyInfo("hotpluggable", "bool"),
)


def own_properties(kind: ObjectType) -> list[PropertyInfo]:
    """The properties of a type besides those that every object or device has. Of a device those that ``-device`` takes
    and this version has."""
    from vmmd.options.objects import OBJECTS, type_word

    cls = device_class(kind.name) or _outer_class(kind.name)
    if cls is not None:
        inner = cls.type_name != kind.name
        return described(each for each in cls.available() if not inner or cls.is_inner(each))
    if is_a(kind, "bus") and not kind.abstract:
        return [PropertyInfo("realized", "bool")]
    if kind.name.endswith(CPU_SUFFIX) and not kind.abstract:
        model = kind.name.removesuffix(CPU_SUFFIX)
        return [PropertyInfo(name, word) for name, word in cpu_properties(model)]
    if is_a(kind, "machine") and not kind.abstract:
        named = machine_properties(kind.name.removesuffix("-machine"))
        return [PropertyInfo(name, word, doc) for name, word, doc in named]
    options = OBJECTS.get(kind.name)
    if options is None:
        return []
    return [PropertyInfo(each.wire_name, type_word(each), each.doc) for each in options.visible()]


def _outer_class(inner_type: str) -> type[Device] | None:
    """The device class that has a device of this type inside."""
    classes = (device_class(name) for name in DEVICES)
    return next((cls for cls in classes if cls is not None and cls.inner_type == inner_type != ""), None)


def described(declared: Iterable[Prop[Any]]) -> list[PropertyInfo]:
    return [PropertyInfo(each.wire_name, each.kind.qapi_name, each.doc, each.default_value) for each in declared]

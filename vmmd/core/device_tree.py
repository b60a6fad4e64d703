# SPDX-License-Identifier: Apache-2.0
"""What devices and buses show in the object tree: made from their declared properties. Threads: as ``core.tree``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vmmd.core.tree import Link, Node, Property
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmmd.core.device import Device
    from vmmd.core.props import Prop
    from vmmd.core.tree import BusNode, ObjectTree


#: the bus of a device that was not told which
_BUSES = {"PCI": "pci.0", "ISA": "isa.0", None: "main-system-bus"}


def device_node(
    device: Device,
    bus: Node | None,
    type_name: str | None = None,
    shows: Callable[[Prop[Any]], bool] = lambda declared: True,
) -> Node:
    """The node of a device on ``bus``, not yet in the tree. ``type_name`` and ``shows``: of an inner device, which has
    a part of the properties."""
    inner = type_name is not None

    def describe() -> Iterator[Property | Link]:
        yield from _standard(bus, lambda: device.hotplugged, hotpluggable=device.hotpluggable and not inner)
        yield from (_property(device, declared) for declared in device.props.each() if shows(declared))
        yield from () if inner else device.extra_properties()

    return Node(type_name or device.type_name, describe, subject=device)


def _property(device: Device, declared: Prop[Any]) -> Property:
    """A declared property of one device."""

    def read() -> object:
        return declared.shown(device.resolved.get(declared.name, device.props.values.get(declared.name)))

    def refuse(value: object) -> None:
        # QEMU-COMPAT: the sentence
        raise UsageError(
            f"Attempt to set property '{declared.wire_name}' on {device.owner_of(declared)} after it was realized"
        )

    def write(value: object) -> None:
        device.change_property(declared, declared.checked(value))

    setter = write if declared.live else refuse
    return Property(declared.wire_name, declared.kind.qapi_name, read, setter, declared.doc)


def composite(type_name: str, bus: BusNode) -> Node:
    """A part of the board that has nothing but devices and buses below it."""
    node = Node(type_name, lambda: _standard(bus, lambda: False, hotpluggable=False))
    bus.attach(node)
    return node


def _standard(bus: Node | None, hotplugged: Callable[[], bool], *, hotpluggable: bool) -> Iterator[Property | Link]:
    """What every device has."""
    yield Link("parent_bus", "link<bus>", lambda: bus)
    yield Property("realized", "bool", lambda: True)
    yield Property("hotplugged", "bool", hotplugged)
    yield Property("hotpluggable", "bool", lambda: hotpluggable)


def _forget(buses: dict[str, BusNode], name: str) -> None:
    del buses[name]


def place(tree: ObjectTree, device: Device, at: tuple[Node, str] | None = None) -> Node:
    """Give a device its place (``at``: a special one) and path. Before it is plugged: the path is part of what it
    tells. It leaves its place when it is unrealized."""
    bus = tree.buses.get(device.bus_name or _BUSES.get(device.bus_type, ""))
    node = device_node(device, bus)
    if at is not None:
        parent, name = at
        parent.add(name, node)
    elif device.of_board or not device.user_creatable:
        tree.unattached.add_numbered("device", node)
    elif device.id:
        tree.peripheral.add(device.id, node)
    else:
        tree.peripheral_anon.add_numbered("device", node)
    device.qom_path = node.path
    for part_name, part in device.parts():
        node.add(part_name, part)
    if bus is not None:
        bus.attach(node)
    if device.bus_node is not None:
        tree.buses[device.brings_bus] = device.bus_node
        device.on_undo(partial(_forget, tree.buses, device.brings_bus))

    def leave() -> None:
        if bus is not None:
            bus.detach(node)
        node.remove()

    device.on_undo(leave)
    return node

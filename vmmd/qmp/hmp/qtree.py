# SPDX-License-Identifier: Apache-2.0
"""``info qtree``: which device sits on which bus, with its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.core.device import Device
from vmmd.core.tree import BusNode
from vmmd.qmp.hmp.registry import hmp
from vmmd.units import U64_MAX, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmmd.core.props import Prop
    from vmmd.core.tree import Node
    from vmmd.devices.pci.bus import PciDeviceInfo
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


@hmp("info qtree", help="devices and buses, with the settings of each")
def info_qtree(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    vm = monitor.vm
    root = vm.qom.buses.get("main-system-bus")
    functions: dict[str, PciDeviceInfo] = {}
    if vm.pci is not None:
        with vm.lock:
            functions = {f"{each.slot:02x}.{each.function:x}": each for each in vm.pci.query()}
    return "" if root is None else "".join(f"{line}\n" for line in _bus("main-system-bus", root, functions))


def _bus(name: str, bus: BusNode, functions: dict[str, PciDeviceInfo]) -> Iterator[str]:
    yield f"bus: {name}"
    yield f"  type {bus.type_name}"
    for node in reversed(bus.devices):  # the latest first, as QEMU shows them
        yield from (f"  {line}" for line in _device(node, functions))


def _device(node: Node, functions: dict[str, PciDeviceInfo]) -> Iterator[str]:
    device = node.subject if isinstance(node.subject, Device) else None
    is_inner = device is not None and node.type_name != device.type_name
    yield f'dev: {node.type_name}, id "{"" if device is None or is_inner else device.id or ""}"'
    if device is not None:
        for declared in _settings(device, is_inner=is_inner):
            yield f"  {declared.wire_name} = {_text(declared, node)}"
        if not is_inner and device.bus_type == "PCI":
            yield from (f"  {line}" for line in _function(functions[str(node.get("legacy-addr"))]))
        if not is_inner:
            yield from (f"  {line}" for line in device.tree_lines())
    for name, child in reversed(list(node.children.items())):  # the latest first here, too
        if isinstance(child, BusNode):
            yield from (f"  {line}" for line in _bus(name, child, functions))


def _settings(device: Device, *, is_inner: bool) -> Iterable[Prop[Any]]:
    """What QEMU prints: settings made before the start, of the device itself or of the one inside."""
    for each in device.Props.own_first():
        if device.is_inner(each) is is_inner and not each.live and not each.kind.qapi_name.startswith("link<"):
            yield each


def _text(declared: Prop[Any], node: Node) -> str:
    """A setting in QEMU's spelling."""
    value = node.get(declared.wire_name)
    if declared.wire_name == "addr":
        return str(node.get("legacy-addr"))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value} ({format_size(value) if declared.kind.qapi_name == 'size' else hex(value & U64_MAX)})"
    return f'"{value}"'


def _function(info: PciDeviceInfo) -> Iterator[str]:
    kind = info.class_desc if info.class_desc is not None else f"Class {info.class_code:04x}"
    ids = f"pci id {info.vendor:04x}:{info.device:04x} (sub {info.subsystem_vendor:04x}:{info.subsystem:04x})"
    yield f"class {kind}, addr {info.bus:02x}:{info.slot:02x}.{info.function:x}, {ids}"
    for region in info.regions:
        # QEMU-COMPAT: a BAR that is not mapped shows address -1 and an end computed from it
        space = "i/o" if region.type == "io" else "mem"
        end = (region.address + region.size - 1) & U64_MAX
        yield f"bar {region.bar}: {space} at 0x{region.address & U64_MAX:x} [0x{end:x}]"

# SPDX-License-Identifier: Apache-2.0
"""Texts of the ``info`` commands, laid out as QEMU 7.2 lays them out (tools read them)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from vmmd.qmp.session import version_info
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from vmmd.core.address_space import AddressSpace
    from vmmd.devices.pci.bus import PciDeviceInfo, PciRegion
    from vmmd.qmp.vm_api import DiskApi, VmApi

U64 = (1 << 64) - 1


def status(vm: VmApi) -> str:
    state = vm.runstate.state
    if state is RunState.RUNNING:
        return "VM status: running\n"
    detail = "" if state is RunState.PAUSED else f" ({state.value})"
    return f"VM status: paused{detail}\n"


def version(vm: VmApi) -> str:
    info = version_info()
    qemu = info["qemu"]
    return f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}{info['package']}\n"


def name(vm: VmApi) -> str:
    return f"{vm.name}\n" if vm.name is not None else ""


def uuid(vm: VmApi) -> str:
    from vmmd.qmp.commands.machine import NO_UUID

    return f"{vm.uuid or NO_UUID}\n"


def kvm(vm: VmApi) -> str:
    if not vm.kvm_present:
        return "kvm support: not compiled\n"
    return f"kvm support: {'enabled' if vm.kvm_enabled else 'disabled'}\n"


def cpus(vm: VmApi, current: int) -> str:
    infos = () if vm.cpus is None else vm.cpus.infos
    return "".join(
        f"{'*' if each.index == current else ' '} CPU #{each.index}: thread_id={each.thread_id}\n" for each in infos
    )


def chardev(vm: VmApi) -> str:
    return "".join(f"{label}: filename={device.filename}\n" for label, device in vm.chardevs.items())


# -- PCI ---------------------------------------------------------------------------------------------------------------


def pci(vm: VmApi) -> str:
    if vm.pci is None:
        return "PCI devices not supported\n"
    with vm.lock:
        functions = vm.pci.query()
    return "".join(_pci_function(each) for each in functions)


def _pci_function(info: PciDeviceInfo) -> str:
    kind = info.class_desc if info.class_desc is not None else f"Class {info.class_code:04d}"
    lines = [
        f"  Bus {info.bus:2d}, device {info.slot:3d}, function {info.function}:",
        f"    {kind}: PCI device {info.vendor:04x}:{info.device:04x}",
    ]
    if info.subsystem_vendor or info.subsystem:
        lines.append(f"      PCI subsystem {info.subsystem_vendor:04x}:{info.subsystem:04x}")
    if info.irq is not None:
        lines.append(f"      IRQ {info.irq}, pin {chr(ord('A') + info.irq_pin - 1)}")
    lines += [_pci_region(each) for each in info.regions]
    lines.append(f'      id "{info.qdev_id}"')
    return "".join(f"{line}\n" for line in lines)


def _pci_region(region: PciRegion) -> str:
    # QEMU-COMPAT: a BAR that is not mapped shows address -1 and an end computed from it
    address = region.address & U64
    end = (region.address + region.size - 1) & U64
    if region.type == "io":
        return f"      BAR{region.bar}: I/O at 0x{address:04x} [0x{end:04x}]."
    width = 64 if region.mem_type_64 else 32
    prefetch = " prefetchable" if region.prefetch else ""
    return f"      BAR{region.bar}: {width} bit{prefetch} memory at 0x{address:08x} [0x{end:08x}]."


# -- disks -------------------------------------------------------------------------------------------------------------


def block(vm: VmApi, wanted: str, *, verbose: bool, named_nodes: bool) -> str:
    disks = () if vm.block is None else vm.block.query()
    texts = []
    for disk in disks:
        if wanted and wanted not in (disk.name, disk.node_name):
            continue
        if named_nodes and not disk.inserted:
            continue
        texts.append(_disk(disk, verbose=verbose, as_node=named_nodes))
    return "\n".join(texts)


def _disk(disk: DiskApi, *, verbose: bool, as_node: bool) -> str:
    label = disk.name or disk.node_name
    if as_node:
        label = disk.node_name
    elif disk.name and disk.inserted and disk.node_name:
        label = f"{disk.name} ({disk.node_name})"
    read_only = ", read-only" if disk.read_only else ""
    content = f"{disk.filename} ({disk.driver}{read_only})" if disk.inserted else "[not inserted]"
    lines = [f"{label}: {content}"]
    if not as_node:
        lines += _drive(disk)
    if disk.inserted:
        lines += _cache(disk)
        if verbose:
            lines += _image(disk)
    return "".join(f"{line}\n" for line in lines)


def _drive(disk: DiskApi) -> list[str]:
    lines = []
    if disk.qdev is not None:
        lines.append(f"    Attached to:      {disk.qdev}")
    if disk.removable:
        lines.append("    Removable device: not locked, tray closed")
    if disk.io_status not in (None, "ok"):
        lines.append(f"    I/O status:       {disk.io_status}")
    return lines


def _cache(disk: DiskApi) -> list[str]:
    words = ["writeback" if disk.cache_writeback else "writethrough"]
    words += ["direct"] if disk.cache_direct else []
    words += ["ignore flushes"] if disk.cache_no_flush else []
    lines = [f"    Cache mode:       {', '.join(words)}"]
    if disk.detect_zeroes != "off":
        lines.append(f"    Detect zeroes:    {disk.detect_zeroes}")
    return lines


def _image(disk: DiskApi) -> list[str]:
    from vmmd.units import format_size

    lines = [
        "",
        "Images:",
        f"image: {disk.filename}",
        f"file format: {disk.driver}",
        f"virtual size: {format_size(disk.virtual_size)} ({disk.virtual_size} bytes)",
    ]
    if disk.actual_size is not None:
        lines.append(f"disk size: {format_size(disk.actual_size)}")
    return lines


def blockstats(vm: VmApi) -> str:
    text = ""
    for disk in () if vm.block is None else vm.block.query():
        stats = disk.stats
        text += (
            f"{disk.name}: rd_bytes={stats.rd_bytes} wr_bytes={stats.wr_bytes} rd_operations={stats.rd_ops}"
            f" wr_operations={stats.wr_ops} flush_operations={stats.flush_ops} wr_total_time_ns={stats.wr_ns}"
            f" rd_total_time_ns={stats.rd_ns} flush_total_time_ns={stats.flush_ns} rd_merged={stats.rd_merged}"
            f" wr_merged={stats.wr_merged}\n"
        )
    return text


# -- address spaces ----------------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """A run of addresses in a flat view."""

    start: int
    end: int  # behind it
    what: str  # "(prio 0, ram)"
    name: str
    offset: int
    suffix: str


def mtree(vm: VmApi, *, flat: bool) -> str:
    """The address spaces: claimed ranges as a tree, or with ``flat`` what answers at each address."""
    with vm.lock:
        if flat:
            return _flat_view(0, "memory", "system", _memory_spans(vm)) + _flat_view(1, "I/O", "io", _port_spans(vm))
        return _tree("memory", "system", U64, _slot_lines(vm), vm.mmio) + _tree("I/O", "io", 0xFFFF, [], vm.pio)


def _tree(space: str, root: str, last: int, memory: list[tuple[int, str]], ranges: AddressSpace) -> str:
    lines = memory + [
        (each.base, f"{each.base:016x}-{each.end - 1:016x} (prio {each.priority}, i/o): {each.name}")
        for each in ranges.ranges
    ]
    head = f"address-space: {space}\n  {0:016x}-{last:016x} (prio 0, i/o): {root}\n"
    return head + "".join(f"    {text}\n" for _base, text in sorted(lines, key=lambda line: line[0])) + "\n"


def _slot_lines(vm: VmApi) -> list[tuple[int, str]]:
    return [
        (span.start, f"{span.start:016x}-{span.end - 1:016x} {span.what}: {span.name}{_at(span.offset)}")
        for span in _slot_spans(vm)
    ]


def _slot_spans(vm: VmApi) -> list[_Span]:
    memory_map = vm.memory_map
    if memory_map is None:
        return []
    slots = memory_map.slots()
    first_hva: dict[str, int] = {}
    for slot in slots:
        first_hva[slot.name] = min(slot.hva, first_hva.get(slot.name, slot.hva))
    rom = memory_map.rom
    spans = []
    for slot in slots:
        label, offset = slot.name, slot.hva - first_hva[slot.name]
        if rom is not None and rom.hva <= slot.hva < rom.hva + len(rom.view):
            label, offset = "pc.bios", slot.hva - rom.hva
        kind = "rom" if slot.readonly else "ram"
        spans.append(_Span(slot.gpa, slot.gpa + slot.size_bytes, f"(prio 0, {kind})", label, offset, " KVM"))
    return spans


def _memory_spans(vm: VmApi) -> list[_Span]:
    return sorted(_slot_spans(vm) + _range_spans(vm.mmio))


def _range_spans(space: AddressSpace) -> list[_Span]:
    """What of the ranges is seen after overlaps are resolved."""
    points = sorted({point for each in space.ranges for point in (each.base, each.end)})
    spans: list[_Span] = []
    for low, high in pairwise(points):
        entry = space.find(low)
        if entry is None:
            continue
        offset = low - entry.base
        last = spans[-1] if spans else None
        what = f"(prio {entry.priority}, i/o)"
        if last is not None and last.end == low and (last.name, last.start - last.offset) == (entry.name, entry.base):
            spans[-1] = last._replace(end=high)
        else:
            spans.append(_Span(low, high, what, entry.name, offset, ""))
    return spans


def _port_spans(vm: VmApi) -> list[_Span]:
    """Ports, with the holes: reads of them are answered too (all ones)."""
    spans: list[_Span] = []
    position = 0
    for span in _range_spans(vm.pio):
        if span.start > position:
            spans.append(_Span(position, span.start, "(prio 0, i/o)", "io", position, ""))
        spans.append(span)
        position = span.end
    if position < 0x10000:
        spans.append(_Span(position, 0x10000, "(prio 0, i/o)", "io", position, ""))
    return spans


def _flat_view(number: int, space: str, root: str, spans: list[_Span]) -> str:
    head = f'FlatView #{number}\n AS "{space}", root: {root}\n Root memory region: {root}\n'
    lines = [
        f"  {each.start:016x}-{each.end - 1:016x} {each.what}: {each.name}{_at(each.offset)}{each.suffix}\n"
        for each in spans
    ]
    return head + ("".join(lines) or "  No rendered FlatView\n") + "\n"


def _at(offset: int) -> str:
    return f" @{offset:016x}" if offset else ""

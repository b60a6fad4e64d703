# SPDX-License-Identifier: Apache-2.0
"""The address spaces of the machine."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from vmmd.qmp.hmp.registry import hmp
from vmmd.units import U64_MAX

if TYPE_CHECKING:
    from vmmd.core.address_space import AddressSpace
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.vm_api import VmApi


class _Span(NamedTuple):
    """A run of addresses in a flat view."""

    start: int
    end: int  # behind it
    what: str  # "(prio 0, ram)"
    name: str
    offset: int
    suffix: str


@hmp("info mtree", params="[-f]", help="address spaces (-f: what answers at each address)")
def info_mtree(monitor: HumanMonitor, arguments: Arguments) -> str:
    flags = arguments.flags("f")
    arguments.done()
    return _mtree(monitor.vm, flat="f" in flags)


def _mtree(vm: VmApi, *, flat: bool) -> str:
    """The address spaces: claimed ranges as a tree, or with ``flat`` what answers at each address."""
    with vm.lock:
        if flat:
            return _flat_view(0, "memory", "system", _memory_spans(vm)) + _flat_view(1, "I/O", "io", _port_spans(vm))
        return _tree("memory", "system", U64_MAX, _slot_lines(vm), vm.mmio) + _tree("I/O", "io", 0xFFFF, [], vm.pio)


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

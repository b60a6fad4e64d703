# SPDX-License-Identifier: Apache-2.0
"""Page tables of a vCPU: ``info mem``, ``info tlb``, and ``info walk``, which shows the way GVA → GPA → HVA → HPA.

Control registers come from the vCPU's thread, tables from guest memory. A guest may map much, or make tables that refer
to themselves: the walk gives the loop its turn every 0.2 ms, and ends after ``MAX_PIECES`` or ``MAX_LINES``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from vmmd.kvm import pagetables as bits
from vmmd.kvm.cpustate import CR0_PG
from vmmd.kvm.pagetables import Mapping, mapped
from vmmd.kvm.pagewalk import walk
from vmmd.qmp.hmp.physical import PhysicalMemory, host_physical
from vmmd.qmp.hmp.registry import hmp
from vmmd.units import U64_MAX, format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vmmd.kvm import abi
    from vmmd.kvm.pagewalk import WalkStep
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

#: pieces of page tables looked at by one command: 32 GiB in pages of 4 KiB
MAX_PIECES = 1 << 17
#: lines of one text; what is done with the text as a whole takes half a millisecond then
MAX_LINES = 1 << 13


def _paging(sregs: abi.Sregs) -> bool:
    return bool(sregs.cr0 & CR0_PG)


async def _mappings(monitor: HumanMonitor, sregs: abi.Sregs) -> AsyncIterator[list[Mapping]]:
    """Mappings in order of address, with pauses for the loop. Ends early with an empty list after MAX_PIECES."""
    turn = monitor.turn()
    for count, found in enumerate(mapped(sregs, monitor.vm.memory)):
        if count >= MAX_PIECES:
            yield []
            return
        if found:
            yield found
        await turn.pause()


@hmp("info tlb", help="pages that the current vCPU's page tables map")
async def info_tlb(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    sregs = await monitor.control_registers()
    if not _paging(sregs):
        return "PG disabled\n"
    lines: list[str] = []
    async for found in _mappings(monitor, sregs):
        lines += [f"{each.gva:016x}: {each.gpa:016x} {_flags(each)}\n" for each in found]
        if not found or len(lines) > MAX_LINES:
            return "".join(lines[:MAX_LINES]) + _and_more(len(lines))
    return "".join(lines)


def _flags(mapping: Mapping) -> str:
    """NX, global, large page, dirty, accessed, uncached, write-through, user, writable."""
    entry = mapping.entry if mapping.page_bytes > 1 << 12 else mapping.entry & ~bits.LARGE  # there it is the PAT bit
    return _letters(entry & _SHOWN_BITS)


_LETTERS = (
    ("X", bits.NO_EXECUTE), ("G", bits.GLOBAL), ("P", bits.LARGE), ("D", bits.DIRTY), ("A", bits.ACCESSED),
    ("C", bits.UNCACHED), ("T", bits.WRITE_THROUGH), ("U", bits.USER), ("W", bits.WRITABLE),
)  # fmt: skip
_SHOWN_BITS = sum(bit for _letter, bit in _LETTERS)


@lru_cache(512)
def _letters(flags: int) -> str:
    return "".join(letter if flags & bit else "-" for letter, bit in _LETTERS)


@hmp("info mem", help="ranges that the current vCPU's page tables map, with their rights")
async def info_mem(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    sregs = await monitor.control_registers()
    if not _paging(sregs):
        return "PG disabled\n"
    lines: list[str] = []
    start = end = 0
    rights = ""
    async for found in _mappings(monitor, sregs):
        for each in found:
            allowed = f"{'u' if each.user else '-'}r{'w' if each.writable else '-'}"
            if each.gva != end or allowed != rights:
                lines += _range(start, end, rights)
                start, rights = each.gva, allowed
            end = each.gva + each.page_bytes
        if not found or len(lines) > MAX_LINES:
            return "".join(lines[:MAX_LINES]) + _and_more(len(lines))
    return "".join(lines + _range(start, end, rights))


def _range(start: int, end: int, rights: str) -> list[str]:
    return [f"{start:016x}-{end & U64_MAX:016x} {end - start:016x} {rights}\n"] if rights else []


def _and_more(lines: int) -> str:
    if lines > MAX_LINES:
        return f"(more than {MAX_LINES} lines)\n"
    return "(the tables go on; this is what can be looked at in a reasonable time)\n"


@hmp("info walk", params="addr", help="the way of an address through page tables and memory slot to the host's page")
async def info_walk(monitor: HumanMonitor, arguments: Arguments) -> str:
    """vmmd's own: QEMU has no such command."""
    gva = arguments.expression()
    arguments.done()
    sregs = await monitor.control_registers()
    steps = walk(sregs, monitor.vm.memory, gva)
    text = f"GVA 0x{gva:016x}\n"
    text += f"  CR3    0x{sregs.cr3:016x}\n" if _paging(sregs) else "  paging is off\n"
    text += "".join(map(_step, steps))
    last = steps[-1]
    return text if last.kind == "fault" else text + _host_side(monitor, last.gpa)


def _step(step: WalkStep) -> str:
    if step.kind == "fault":
        return f"  no translation: {step.reason}\n"
    if step.kind == "page":
        return f"GPA 0x{step.gpa:016x}  page of {format_size(step.page_bytes)}\n"
    flags = _flags(Mapping(0, 0, 1 << 21, step.entry, False, False))
    return f"  {step.kind:6} 0x{step.entry:016x} {flags}  at 0x{step.gpa:x}\n"


def _host_side(monitor: HumanMonitor, gpa: int) -> str:
    memory = PhysicalMemory(monitor.vm)
    found = memory.locate(gpa)
    if isinstance(found, str):
        return f"  {found}\n"
    name, hva = found
    slot = memory.slot(gpa)
    text = ""
    if slot is not None:
        kind = "ROM" if slot.readonly else "RAM"
        text = f"  slot   0x{slot.gpa:x}-0x{slot.gpa + slot.size_bytes - 1:x} {kind} {name} at 0x{slot.hva:x}\n"
    text += f"HVA 0x{hva:016x}\n"
    try:
        hpa = host_physical(hva)
    except OSError as error:
        return text + f"  no host page: /proc/self/pagemap: {error.strerror}\n"
    if hpa is None:
        return text + "  no host page: never touched, swapped out, or hidden from this user\n"
    return text + f"HPA 0x{hpa:016x}\n"

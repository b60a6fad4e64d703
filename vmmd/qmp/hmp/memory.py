# SPDX-License-Identifier: Apache-2.0
"""Values and memory: ``print``, dumps, and where an address is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.arguments import Format
from vmmd.qmp.hmp.formats import single
from vmmd.qmp.hmp.physical import PhysicalMemory, dump, virtual_reader
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.vm_api import CpusApi


@hmp("print", "p", params="/fmt expr", help="value of an expression; $reg is a register")
def print_(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted = arguments.format(Format())
    value = arguments.expression()
    arguments.done()
    return single(value, wanted.letter if wanted.letter != "i" else "d") + "\n"


@hmp("xp", params="/fmt addr", help="dump memory at a guest-physical address")
def dump_physical(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted = arguments.format(Format())
    address = arguments.expression()
    arguments.done()
    return dump(address, wanted, PhysicalMemory(monitor.vm).read)


@hmp("x", params="/fmt addr", help="dump memory at a guest-virtual address")
async def dump_virtual(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted = arguments.format(Format())
    address = arguments.expression()
    arguments.done()
    physical = PhysicalMemory(monitor.vm)
    index = monitor.cpu_index

    def parked(cpus: CpusApi) -> str:
        return dump(address, wanted, virtual_reader(physical, lambda gva: cpus.translate(index, gva)))

    if monitor.cpus.all_parked:
        return parked(monitor.cpus)
    pages = await monitor.on_vcpu(index, lambda cpus: {}, lambda vcpu: _translations(vcpu.translate, address, wanted))
    if not pages:
        return dump(address, wanted, virtual_reader(physical, lambda gva: monitor.cpus.translate(index, gva)))

    def translate(gva: int) -> int | None:
        page = pages.get(gva & ~0xFFF)
        return None if page is None else page + (gva & 0xFFF)

    return dump(address, wanted, virtual_reader(physical, translate))


def _translations(translate: Callable[[int], int | None], address: int, wanted: Format) -> dict[int, int | None]:
    """Where the pages of a range are. On the vCPU's thread."""
    end = address + min(wanted.items, 1 << 16) * wanted.size
    return {gva: translate(gva) for gva in range(address & ~0xFFF, max(end, address + 1), 4096)}


@hmp("gva2gpa", params="addr", help="guest-physical address of a guest-virtual address")
async def gva2gpa(monitor: HumanMonitor, arguments: Arguments) -> str:
    gva = arguments.expression()
    arguments.done()
    gpa = await monitor.translate(gva)
    return "Unmapped\n" if gpa is None else f"gpa: {gpa:#x}\n"


@hmp("gpa2hva", params="addr", help="host virtual address of a guest-physical address")
def gpa2hva(monitor: HumanMonitor, arguments: Arguments) -> str:
    gpa = arguments.expression()
    arguments.done()
    return PhysicalMemory(monitor.vm).gpa2hva(gpa)


@hmp("gpa2hpa", params="addr", help="host physical address of a guest-physical address")
def gpa2hpa(monitor: HumanMonitor, arguments: Arguments) -> str:
    gpa = arguments.expression()
    arguments.done()
    return PhysicalMemory(monitor.vm).gpa2hpa(gpa)

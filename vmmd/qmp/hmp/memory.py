# SPDX-License-Identifier: Apache-2.0
"""Values and memory: ``print``, dumps, and where an address is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.arguments import signed
from vmmd.qmp.hmp.dump import check_size, dump, span_bytes
from vmmd.qmp.hmp.formats import single
from vmmd.qmp.hmp.physical import PhysicalMemory, virtual_reader
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.qmp.hmp.arguments import Arguments, Format
    from vmmd.qmp.hmp.monitor import HumanMonitor

_PAGE_MASK = ~0xFFF


@hmp("print", "p", params="/fmt expr", help="value of an expression; $reg is a register")
def print_(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted = given_format(monitor, arguments)
    value = arguments.expression()
    arguments.done()
    return single(value, wanted.letter if wanted.letter != "i" else "d") + "\n"


@hmp("xp", params="/fmt addr", help="dump memory at a guest-physical address")
async def dump_physical(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted, address = _what_to_dump(monitor, arguments)
    return await dump(monitor, address, wanted, PhysicalMemory(monitor.vm).read)


@hmp("x", params="/fmt addr", help="dump memory at a guest-virtual address")
async def dump_virtual(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted, address = _what_to_dump(monitor, arguments)
    index = monitor.cpu_index
    pages = await monitor.on_vcpu(
        index,
        lambda cpus: _translations(lambda gva: cpus.translate(index, gva), address, wanted),
        lambda vcpu: _translations(vcpu.translate, address, wanted),
    )

    def translate(gva: int) -> int | None:
        page = pages.get(gva & _PAGE_MASK)
        return None if page is None else page + (gva & ~_PAGE_MASK)

    return await dump(monitor, address, wanted, virtual_reader(PhysicalMemory(monitor.vm), translate))


def given_format(monitor: HumanMonitor, arguments: Arguments) -> Format:
    """The format given, completed by the last one, and remembered as that (except that of instructions)."""
    wanted = arguments.format(monitor.format)
    if wanted.letter != "i":
        monitor.format = wanted._replace(items=1)
    return wanted


def _what_to_dump(monitor: HumanMonitor, arguments: Arguments) -> tuple[Format, int]:
    wanted = given_format(monitor, arguments)
    address = arguments.expression()
    arguments.done()
    check_size(wanted)
    return wanted, address


def _translations(translate: Callable[[int], int | None], address: int, wanted: Format) -> dict[int, int | None]:
    """Where the pages of a range are. While the vCPU rests, or on its thread."""
    end = min(address + max(1, span_bytes(wanted)), 1 << 64)
    return {gva: translate(gva) for gva in range(address & _PAGE_MASK, end, 4096)}


@hmp("memsave", params="addr size file", help="save memory at a guest-virtual address to a file")
async def memsave(monitor: HumanMonitor, arguments: Arguments) -> str:
    await monitor.qmp("memsave", {**_what_to_save(arguments), "cpu-index": monitor.cpu_index})
    return ""


@hmp("pmemsave", params="addr size file", help="save memory at a guest-physical address to a file")
async def pmemsave(monitor: HumanMonitor, arguments: Arguments) -> str:
    await monitor.qmp("pmemsave", _what_to_save(arguments))
    return ""


def _what_to_save(arguments: Arguments) -> dict[str, object]:
    """The file's name has to be in quotes: a path would go on with the size's expression as a division."""
    address, size = arguments.expression(), arguments.expression()
    filename = arguments.string()
    arguments.done()
    return {"val": signed(address), "size": signed(size), "filename": filename}


@hmp("gva2gpa", params="addr", help="guest-physical address of a guest-virtual address")
async def gva2gpa(monitor: HumanMonitor, arguments: Arguments) -> str:
    gva = arguments.expression()
    arguments.done()
    gpa = await monitor.translate(gva)
    return "Unmapped\n" if gpa is None else f"gpa: {single(gpa, 'x')}\n"


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

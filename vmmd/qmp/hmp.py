# SPDX-License-Identifier: Apache-2.0
"""The monitor for people, as ``human-monitor-command`` offers it: one line in, text with CRLF out.

Every text is a successful reply, also «unknown command». Layout and sentences follow QEMU 7.2 (black-box comparison).
vCPUs that run are asked on their own threads; nothing here stops the machine unless told to.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vmmd.errors import VmmdError
from vmmd.qmp import hmp_info
from vmmd.qmp.hmp_args import ArgumentError, Arguments, Format, single
from vmmd.qmp.hmp_memory import PhysicalMemory, dump, virtual_reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vmmd.qmp.vm_api import CpusApi, VmApi

T = TypeVar("T")


class Entry(NamedTuple):
    """A command of the monitor."""

    names: tuple[str, ...]
    parameters: str
    help: str
    handler: Callable[[HumanMonitor, Arguments], str | Awaitable[str]]

    @property
    def usage(self) -> str:
        return f"{'|'.join(self.names)} {self.parameters} -- {self.help}\n"


class HumanMonitor:
    """Runs one command line; ``cpu_index`` is the vCPU that register and address commands look at."""

    def __init__(self, vm: VmApi, cpu_index: int = 0) -> None:
        self.vm = vm
        self.cpu_index = cpu_index
        self._register_values: dict[str, int] | None = None

    async def run(self, line: str) -> str:
        """The text of a command line. Never raises for what the user wrote."""
        return (await self._run(line)).replace("\n", "\r\n")

    async def _run(self, line: str) -> str:
        name, rest = _split_name(line)
        if not name:
            return ""
        entry, shown = _COMMANDS.get(name), name
        if name == "info":
            topic, rest = _split_name(rest)
            if not topic:
                return _info_help()
            entry, shown = _INFO.get(topic), f"info {topic}"
        if entry is None:
            return f"unknown command: '{shown}'\n"
        try:
            if "$" in rest:
                self._register_values = await self._named_registers()
            arguments = Arguments(rest, "|".join(entry.names), self._registers)
            result = entry.handler(self, arguments)
            return await result if inspect.isawaitable(result) else result
        except ArgumentError as error:
            return f'{error}\nTry "help {shown}" for more information\n'
        except VmmdError as error:
            return f"Error: {error}\n"

    # -- vCPUs -----------------------------------------------------------------------------------------------------

    @property
    def cpus(self) -> CpusApi:
        if self.vm.cpus is None or not self.vm.cpus.infos:
            raise VmmdError("No CPU available")
        return self.vm.cpus

    async def on_vcpu(self, index: int, parked: Callable[[CpusApi], T], running: Callable[..., T]) -> T:
        """``parked(cpus)`` when all vCPUs rest, else ``running(vcpu)`` between two entries of its guest."""
        cpus = self.cpus
        if cpus.all_parked:
            return parked(cpus)
        box: list[T] = []
        failed: list[Exception] = []
        finished = self.vm.loop.create_future()

        def done(result: object, error: Exception | None) -> None:
            if error is not None:
                failed.append(error)
            else:
                box.append(result)  # type: ignore[arg-type]  # what ``running`` returned
            finished.set_result(None)

        cpus.run_on_vcpu(index, running, done)
        await finished
        if failed:
            raise failed[0]
        return box[0]

    def _registers(self) -> dict[str, int]:
        return self._register_values or {}

    async def _named_registers(self) -> dict[str, int]:
        """Registers by the names that expressions know: ``$eax``, ``$rax``, ``$pc``, ``$cs.base``."""
        from vmmd.kvm import cpustate

        index = self.cpu_index
        raw = await self.on_vcpu(index, lambda cpus: cpus.registers(index), cpustate.registers)
        named = {}
        for key, value in raw.items():
            base, _, part = key.partition("_")
            named[f"{base}.{part}" if part in ("base", "limit") else key] = value
        for letter in ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp"):
            named[f"e{letter}"] = raw.get(f"r{letter}", 0)
        named["eip"] = raw.get("rip", 0)
        # QEMU-COMPAT: $pc is the linear address of the next instruction
        named["pc"] = (raw.get("cs_base", 0) + raw.get("rip", 0)) & ((1 << 64) - 1)
        named["eflags"] = raw.get("rflags", 0)
        return named

    async def translate(self, gva: int) -> int | None:
        """Guest-physical address of a linear one on the current vCPU."""
        return await self.on_vcpu(
            self.cpu_index, lambda cpus: cpus.translate(self.cpu_index, gva), lambda vcpu: vcpu.translate(gva)
        )


def _split_name(line: str) -> tuple[str, str]:
    """The command's name, and what follows it; a ``/format`` may follow without a blank."""
    line = line.lstrip()
    end = 0
    while end < len(line) and not line[end].isspace() and line[end] != "/":
        end += 1
    return line[:end], line[end:]


# -- commands ----------------------------------------------------------------------------------------------------------


def _help(monitor: HumanMonitor, arguments: Arguments) -> str:
    name = arguments.word()
    if not name:
        return "".join(entry.usage for entry in sorted(set(_COMMANDS.values())))
    if name == "info":
        topic = arguments.word()
        if not topic:
            return _info_help()
        return f"info {_INFO[topic].usage}" if topic in _INFO else f"unknown command: 'info {topic}'\n"
    return _COMMANDS[name].usage if name in _COMMANDS else f"unknown command: '{name}'\n"


def _info_help() -> str:
    return "".join(f"info {_INFO[topic].usage}" for topic in sorted(_INFO))


def _print(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted = arguments.format(Format())
    value = arguments.expression()
    arguments.done()
    return single(value, wanted.letter if wanted.letter != "i" else "d") + "\n"


def _dump_physical(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted = arguments.format(Format())
    address = arguments.expression()
    arguments.done()
    return dump(address, wanted, PhysicalMemory(monitor.vm).read)


async def _dump_virtual(monitor: HumanMonitor, arguments: Arguments) -> str:
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


async def _gva2gpa(monitor: HumanMonitor, arguments: Arguments) -> str:
    gva = arguments.expression()
    arguments.done()
    gpa = await monitor.translate(gva)
    return "Unmapped\n" if gpa is None else f"gpa: {gpa:#x}\n"


def _gpa2hva(monitor: HumanMonitor, arguments: Arguments) -> str:
    gpa = arguments.expression()
    arguments.done()
    return PhysicalMemory(monitor.vm).gpa2hva(gpa)


def _gpa2hpa(monitor: HumanMonitor, arguments: Arguments) -> str:
    gpa = arguments.expression()
    arguments.done()
    return PhysicalMemory(monitor.vm).gpa2hpa(gpa)


async def _stop(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    await monitor.vm.stop()
    return ""


async def _cont(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    await monitor.vm.cont()
    return ""


async def _system_reset(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    await monitor.vm.system_reset()
    return ""


def _system_powerdown(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    monitor.vm.system_powerdown()
    return ""


async def _quit(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    await monitor.vm.quit()
    return ""


def _info_registers(monitor: HumanMonitor, arguments: Arguments) -> Awaitable[str] | str:
    count = len(monitor.cpus.infos)
    if arguments.flags("a"):
        return _registers_of(monitor, range(count))
    if arguments.at_end:
        return _registers_of(monitor, range(monitor.cpu_index, monitor.cpu_index + 1))
    index = arguments.expression()
    arguments.done()
    if index >= count:
        return f"CPU#{index} not available\n"
    return _registers_of(monitor, range(index, index + 1))


async def _registers_of(monitor: HumanMonitor, indices: range) -> str:
    from vmmd.kvm import cpustate

    text = ""
    for index in indices:

        def parked(cpus: CpusApi, wanted: int = index) -> str:
            return cpus.registers_text(wanted)

        shown = await monitor.on_vcpu(index, parked, cpustate.registers_text)
        text += f"\nCPU#{index}\n{shown}"
    return text


def _info_block(monitor: HumanMonitor, arguments: Arguments) -> str:
    flags = arguments.flags("nv")
    wanted = arguments.word()
    arguments.done()
    return hmp_info.block(monitor.vm, wanted, verbose="v" in flags, named_nodes="n" in flags)


def _info_mtree(monitor: HumanMonitor, arguments: Arguments) -> str:
    flags = arguments.flags("f")
    arguments.done()
    return hmp_info.mtree(monitor.vm, flat="f" in flags)


def _info_cpus(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return hmp_info.cpus(monitor.vm, monitor.cpu_index)


def _plain(text: Callable[[VmApi], str]) -> Callable[[HumanMonitor, Arguments], str]:
    """A command without arguments."""

    def handler(monitor: HumanMonitor, arguments: Arguments) -> str:
        arguments.done()
        return text(monitor.vm)

    return handler


def _table(*entries: Entry) -> dict[str, Entry]:
    return {name: entry for entry in entries for name in entry.names}


_COMMANDS = _table(
    Entry(("cont", "c"), "", "let the guest run", _cont),
    Entry(("gpa2hpa",), "addr", "host physical address of a guest-physical address", _gpa2hpa),
    Entry(("gpa2hva",), "addr", "host virtual address of a guest-physical address", _gpa2hva),
    Entry(("gva2gpa",), "addr", "guest-physical address of a guest-virtual address", _gva2gpa),
    Entry(("help", "?"), "[cmd]", "list the commands, or explain one", _help),
    Entry(("print", "p"), "/fmt expr", "value of an expression; $reg is a register", _print),
    Entry(("quit", "q"), "", "end the emulator", _quit),
    Entry(("stop", "s"), "", "stop the guest", _stop),
    Entry(("system_powerdown",), "", "press the power button", _system_powerdown),
    Entry(("system_reset",), "", "reset the machine", _system_reset),
    Entry(("x",), "/fmt addr", "dump memory at a guest-virtual address", _dump_virtual),
    Entry(("xp",), "/fmt addr", "dump memory at a guest-physical address", _dump_physical),
)

_INFO = _table(
    Entry(("block",), "[-n] [-v] [device]", "disks (-n: by node, -v: with image details)", _info_block),
    Entry(("blockstats",), "", "counters of the disks", _plain(hmp_info.blockstats)),
    Entry(("chardev",), "", "character devices", _plain(hmp_info.chardev)),
    Entry(("cpus",), "", "vCPUs and their threads", _info_cpus),
    Entry(("kvm",), "", "whether KVM is used", _plain(hmp_info.kvm)),
    Entry(("mtree",), "[-f]", "address spaces (-f: what answers at each address)", _info_mtree),
    Entry(("name",), "", "name of the guest", _plain(hmp_info.name)),
    Entry(("pci",), "", "functions on the PCI bus", _plain(hmp_info.pci)),
    Entry(("registers",), "[-a|vcpu]", "registers of the current vCPU (-a: of all)", _info_registers),
    Entry(("status",), "", "run state", _plain(hmp_info.status)),
    Entry(("uuid",), "", "UUID of the guest", _plain(hmp_info.uuid)),
    Entry(("version",), "", "version of the interface and of vmmd", _plain(hmp_info.version)),
)

# SPDX-License-Identifier: Apache-2.0
"""vCPUs: their threads and registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp
from vmmd.units import MiB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.vm_api import CpusApi


def vcpu_numbers(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    cpus = monitor.vm.cpus
    return () if len(words) > 1 or cpus is None else (str(each.index) for each in cpus.infos)


@hmp("info cpus", help="vCPUs and their threads")
def info_cpus(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    infos = () if monitor.vm.cpus is None else monitor.vm.cpus.infos
    return "".join(
        f"{'*' if each.index == monitor.cpu_index else ' '} CPU #{each.index}: thread_id={each.thread_id}\n"
        for each in infos
    )


@hmp("cpu", params="index", help="choose the vCPU that registers and addresses are of", complete=vcpu_numbers)
def choose_cpu(monitor: HumanMonitor, arguments: Arguments) -> str:
    index = arguments.expression()
    arguments.done()
    if index >= len(monitor.cpus.infos):
        return "invalid CPU index\n"
    monitor.cpu_index = index
    return ""


@hmp("info hotpluggable-cpus", help="places of vCPUs, and who is in them")
async def info_hotpluggable_cpus(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    text = "Hotpluggable CPUs:\n"
    for place in await monitor.qmp("query-hotpluggable-cpus"):
        text += f'  type: "{place["type"]}"\n  vcpus_count: "{place["vcpus-count"]}"\n'
        if "qom-path" in place:
            text += f'  qom_path: "{place["qom-path"]}"\n'
        text += "  CPUInstance Properties:\n"
        for key in ("node-id", "socket-id", "die-id", "core-id", "thread-id"):
            if key in place["props"]:
                text += f'    {key}: "{place["props"][key]}"\n'
    return text


@hmp("info numa", help="NUMA nodes, their vCPUs and memory")
async def info_numa(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    nodes: dict[int, list[int]] = {}
    for vcpu in await monitor.qmp("query-cpus-fast"):
        if "node-id" in vcpu["props"]:
            nodes.setdefault(vcpu["props"]["node-id"], []).append(vcpu["cpu-index"])
    text = f"{len(nodes)} nodes\n"
    for node, vcpus in sorted(nodes.items()):
        # LIMIT: there is one node at most, which has all of the memory
        size_bytes = monitor.vm.ram_bytes
        text += f"node {node} cpus: {' '.join(map(str, vcpus))}\n"
        text += f"node {node} size: {size_bytes // MiB} MB\nnode {node} plugged: 0 MB\n"
    return text


@hmp("info registers", params="[-a|vcpu]", help="registers of the current vCPU (-a: of all)", complete=vcpu_numbers)
def info_registers(monitor: HumanMonitor, arguments: Arguments) -> Awaitable[str] | str:
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
    turn = monitor.turn()
    for index in indices:

        def parked(cpus: CpusApi, wanted: int = index) -> str:
            return cpus.registers_text(wanted)

        shown = await monitor.on_vcpu(index, parked, cpustate.registers_text)
        text += f"\nCPU#{index}\n{shown}"
        await turn.pause()
    return text

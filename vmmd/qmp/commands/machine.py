# SPDX-License-Identifier: Apache-2.0
"""Commands about the machine and its CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.qmp.models.machine import CpuInfoFast, KvmInfo, MachineInfo, UuidInfo

NO_UUID = "00000000-0000-0000-0000-000000000000"


@command("query-uuid", since="0.14")
def query_uuid(ctx: Context) -> UuidInfo:
    """The guest's UUID (-uuid)."""
    return {"UUID": ctx.vm.uuid or NO_UUID}


@command("query-kvm", since="0.14")
def query_kvm(ctx: Context) -> KvmInfo:
    """Whether KVM is there and used."""
    return {"enabled": ctx.vm.kvm_enabled, "present": ctx.vm.kvm_present}


@command("query-cpus-fast", since="2.12")
def query_cpus_fast(ctx: Context) -> list[CpuInfoFast]:
    """The vCPUs and the host threads that run them."""
    cpus = ctx.vm.cpus
    return [
        {
            "cpu-index": info.index,
            "qom-path": info.qom_path,
            "thread-id": info.thread_id,
            "props": {"socket-id": info.socket_id, "core-id": info.core_id, "thread-id": info.core_thread_id},
            "target": "x86_64",
        }
        for info in (() if cpus is None else cpus.infos)
    ]


@command("query-machines", since="1.2")
def query_machines(ctx: Context) -> list[MachineInfo]:
    """The boards that -machine takes."""
    from vmmd.options.models import PC_DEFAULT, machine_types

    found: list[MachineInfo] = []
    for kind in machine_types().values():
        is_pc = kind.name != "none"
        info: MachineInfo = {
            "name": kind.name,
            "cpu-max": kind.max_cpus,
            # LIMIT: libvirt reads here whether vCPUs can be hot-plugged; no board of this version can
            "hotpluggable-cpus": False,
            "numa-mem-supported": kind.numa_mem_supported,
            "deprecated": False,
            "default-ram-id": "pc.ram" if is_pc else "ram",
        }
        if is_pc:
            info["default-cpu-type"] = "qemu64-x86_64-cpu"
        if kind.alias is not None:
            info["alias"] = kind.alias
        if kind.name == PC_DEFAULT:
            info["is-default"] = True
        found.append(info)
    return found

# SPDX-License-Identifier: Apache-2.0
"""Commands about the machine and its CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import DeviceNotActiveError, UsageError, VmmdError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.core.balloon import Balloon
    from vmmd.qmp.models.machine import (
        AcceleratorInfo,
        BalloonInfo,
        CpuInfoFast,
        CpuInstanceProperties,
        CurrentMachineParams,
        GuidInfo,
        HotpluggableCPU,
        KvmInfo,
        MachineInfo,
        Memdev,
        MemoryDeviceInfo,
        MemoryInfo,
        TargetInfo,
        UuidInfo,
    )
    from vmmd.qmp.vm_api import VcpuInfoApi

NO_UUID = "00000000-0000-0000-0000-000000000000"


@command("query-uuid", since="0.14", preconfig=True)
def query_uuid(ctx: Context) -> UuidInfo:
    """The guest's UUID (-uuid)."""
    return {"UUID": ctx.vm.uuid or NO_UUID}


@command("query-kvm", since="0.14")
def query_kvm(ctx: Context) -> KvmInfo:
    """Whether KVM is used. It is always ``present``: that says that this program can use it, not that the host has
    it."""
    return {"enabled": ctx.vm.kvm_enabled, "present": True}


@command("query-accelerators", since="10.2")
def query_accelerators(ctx: Context) -> AcceleratorInfo:
    """The accelerator that is used, and those that this program can use."""
    name = ctx.vm.accelerator
    if name is None:
        raise VmmdError("No accelerator is in use", "machine 'none' goes on without KVM when it is not there")
    return {"enabled": "kvm" if name == "kvm" else "qtest", "present": ["kvm", "qtest"]}


@command("query-target", since="1.2")
def query_target(ctx: Context) -> TargetInfo:
    """The guest's architecture."""
    return {"arch": "x86_64"}


@command("query-current-machine", since="4.0")
def query_current_machine(ctx: Context) -> CurrentMachineParams:
    """What this machine can do."""
    # LIMIT: no ACPI S3, so there is nothing to wake up from
    return {"wakeup-suspend-support": False}


@command("query-cpus-fast", since="2.12")
def query_cpus_fast(ctx: Context) -> list[CpuInfoFast]:
    """The vCPUs and the host threads that run them."""
    cpus = ctx.vm.cpus
    return [
        {
            "cpu-index": info.index,
            "qom-path": info.qom_path,
            "thread-id": info.thread_id,
            "props": _place(info),
            "target": "x86_64",
        }
        for info in (() if cpus is None else cpus.infos)
    ]


def _place(info: VcpuInfoApi) -> CpuInstanceProperties:
    """Where a vCPU sits; dies and nodes are named only when there are several, or any."""
    place: CpuInstanceProperties = {
        "socket-id": info.socket_id, "core-id": info.core_id, "thread-id": info.core_thread_id
    }  # fmt: skip
    if info.die_id is not None:
        place["die-id"] = info.die_id
    if info.node_id is not None:
        place["node-id"] = info.node_id
    return place


@command("query-hotpluggable-cpus", since="2.7", example=Example())
def query_hotpluggable_cpus(ctx: Context) -> list[HotpluggableCPU]:
    """The places of the vCPUs that there are. The free ones up to -smp maxcpus are not listed: no machine of this
    version takes a vCPU by device_add, as query-machines tells (hotpluggable-cpus)."""
    cpus = ctx.vm.cpus
    if cpus is None:
        # QEMU-COMPAT: the sentence
        raise VmmdError("The feature 'query-hotpluggable-cpus' is not enabled", "machine 'none' has no vCPUs")
    return [
        {"type": cpus.typename, "vcpus-count": 1, "props": _place(info), "qom-path": info.qom_path}
        for info in reversed(cpus.infos)
    ]


@command("query-memory-size-summary", since="2.11")
def query_memory_size_summary(ctx: Context) -> MemoryInfo:
    """The size of the guest's RAM."""
    return {"base-memory": ctx.vm.ram_bytes}


@command("query-memory-devices", since="2.1")
def query_memory_devices(ctx: Context) -> list[MemoryDeviceInfo]:
    """The memory devices. LIMIT: there are none yet."""
    return []


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


@command("balloon", since="0.14", example=Example({"value": 536870912}, error="DeviceNotActive"))
def balloon(ctx: Context, *, value: int) -> dict[str, object]:
    """Ask the guest to give memory back until ``value`` bytes are left to it; it does so in its own time, and
    BALLOON_CHANGE tells of it. More than the guest's memory is all of it. It needs a balloon device."""
    device = _balloon(ctx)
    if value <= 0:
        # QEMU-COMPAT: its name for it
        raise UsageError("Parameter 'target' expects a size", "value= is the bytes that are left to the guest")
    with ctx.vm.lock:
        device.set_target(value)
    return {}


@command("query-balloon", since="0.14", example=Example(error="DeviceNotActive"))
def query_balloon(ctx: Context) -> BalloonInfo:
    """The memory that the balloon has left to the guest, as the guest says."""
    device = _balloon(ctx)
    with ctx.vm.lock:
        return {"actual": device.actual_bytes}


def _balloon(ctx: Context) -> Balloon:
    slot = ctx.vm.balloon
    if slot is None or slot.device is None:
        # QEMU-COMPAT: clients know the sentence and the class
        raise DeviceNotActiveError("No balloon device has been activated", "-device virtio-balloon-pci makes one")
    return slot.device


@command("query-vm-generation-id", since="2.9", example=Example(error="GenericError"))
def query_vm_generation_id(ctx: Context) -> GuidInfo:
    """The id that tells a guest that it was copied or restored. It needs a vmgenid device."""
    for device in ctx.vm.devices:
        if device.type_name == "vmgenid":
            return {"guid": str(device.resolved["guid"])}
    # QEMU-COMPAT: QEMU's sentence
    raise VmmdError("VM Generation ID device not found", "-device vmgenid makes one")


@command("inject-nmi", since="0.14")
async def inject_nmi(ctx: Context) -> dict[str, object]:
    """Send a non-maskable interrupt to every vCPU, as the NMI button of a server; guests are set up to dump or panic
    then. A vCPU whose local APIC masks it ignores it."""
    cpus = ctx.vm.cpus
    if cpus is None:
        # QEMU-COMPAT: QEMU's sentence
        raise VmmdError("this feature or command is not currently supported", "machine 'none' has no vCPUs")
    finished = ctx.vm.loop.create_future()
    failed: list[Exception] = []

    def done(error: Exception | None) -> None:
        if error is not None:
            failed.append(error)
        finished.set_result(None)

    cpus.inject_nmi(done)
    await finished
    if failed:
        raise failed[0]
    return {}


@command("memsave", since="0.14", example=Example({"val": 10, "size": 100, "filename": "/dev/null"}))
async def memsave(
    ctx: Context, *, val: int, size: int, filename: str, cpu_index: int | None = None
) -> dict[str, object]:
    """Save ``size`` bytes from linear address ``val``, as a vCPU sees them, to a file."""
    from vmmd.qmp.save_memory import save_virtual

    await save_virtual(ctx.vm, val, size, filename, cpu_index or 0)
    return {}


@command("pmemsave", since="0.14", example=Example({"val": 10, "size": 100, "filename": "/dev/null"}))
async def pmemsave(ctx: Context, *, val: int, size: int, filename: str) -> dict[str, object]:
    """Save ``size`` bytes from guest-physical address ``val`` to a file; what is no memory is zeroes there."""
    from vmmd.qmp.save_memory import save_physical

    await save_physical(ctx.vm, val, size, filename)
    return {}


@command("query-memdev", since="2.1", preconfig=True)
def query_memdev(ctx: Context) -> list[Memdev]:
    """The memory backends: what the guest's RAM is made of, and what object-add has made."""
    from vmmd.machine.objects.memory import MemoryObject

    found: list[Memdev] = []
    for each in ctx.vm.objects:
        if isinstance(each, MemoryObject):
            settings = each.settings
            found.append(
                {
                    "id": each.id,
                    "size": settings.size_bytes,
                    "merge": settings.merge,
                    "dump": settings.dump,
                    "prealloc": settings.prealloc,
                    "share": settings.share,
                    "reserve": settings.reserve,
                    "host-nodes": [],  # LIMIT: binding to nodes is refused
                    "policy": "default",
                }
            )
    return found

# SPDX-License-Identifier: Apache-2.0
"""What machine this is: name, UUID, version, accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp
from vmmd.qmp.session import version_info
from vmmd.units import GiB

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


@hmp("info version", help="version of the interface and of vmmd")
def info_version(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    info = version_info()
    qemu = info["qemu"]
    return f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}{info['package']}\n"


@hmp("info name", help="name of the guest")
def info_name(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return f"{monitor.vm.name}\n" if monitor.vm.name is not None else ""


@hmp("info memory_size_summary", help="size of the guest's RAM")
async def info_memory_size_summary(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    found = await monitor.qmp("query-memory-size-summary")
    text = f"base memory: {found['base-memory']}\n"
    return text + (f"plugged memory: {found['plugged-memory']}\n" if "plugged-memory" in found else "")


@hmp("info vm-generation-id", help="id that changes when the guest is copied")
async def info_vm_generation_id(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return f"{(await monitor.qmp('query-vm-generation-id'))['guid']}\n"


@hmp("info tpm", help="TPM devices")
async def info_tpm(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return "".join(f"{each['id']}: model={each['model']}\n" for each in await monitor.qmp("query-tpm"))


@hmp("info jobs", help="background jobs")
async def info_jobs(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    jobs = await monitor.qmp("query-jobs")
    if not jobs:
        return "No active jobs\n"
    return "".join(
        f"Type {job['type']}, id {job['id']}: {job['status']}, {job['current-progress']} of {job['total-progress']}\n"
        for job in jobs
    )


@hmp("info migrate_capabilities", help="what can be switched on for migrations")
async def info_migrate_capabilities(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return "".join(
        f"{each['capability']}: {'on' if each['state'] else 'off'}\n"
        for each in await monitor.qmp("query-migrate-capabilities")
    )


@hmp("info roms", help="firmware image, and files that firmware and guest can read")
def info_roms(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.devices.isa.fw_cfg import FwCfg

    arguments.done()
    vm = monitor.vm
    text = ""
    if vm.memory_map is not None and vm.memory_map.rom is not None:
        size = len(vm.memory_map.rom.view)
        text = f'addr={4 * GiB - size:016x} size=0x{size:06x} mem=rom name="{vm.memory_map.rom_file}"\n'
    with vm.lock:
        files = [entry for device in vm.devices if isinstance(device, FwCfg) for entry in device.files()]
    return text + "".join(f'/rom@{name} size=0x{size:06x} name="{name}"\n' for name, size in files)


@hmp("info uuid", help="UUID of the guest")
async def info_uuid(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return f"{(await monitor.qmp('query-uuid'))['UUID']}\n"

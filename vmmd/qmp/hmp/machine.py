# SPDX-License-Identifier: Apache-2.0
"""What machine this is: name, UUID, version, accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp
from vmmd.qmp.session import version_info

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


@hmp("info uuid", help="UUID of the guest")
async def info_uuid(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return f"{(await monitor.qmp('query-uuid'))['UUID']}\n"

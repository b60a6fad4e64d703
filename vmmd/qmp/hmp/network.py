# SPDX-License-Identifier: Apache-2.0
"""Network devices, and displays that a network serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import VmmdError
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


@hmp("info network", help="network devices and backends")
async def info_network(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    # LIMIT: there are no backends yet, so that every card stands alone
    return "".join(f"{card['name']}: type=nic\n" for card in await monitor.qmp("query-rx-filter"))


@hmp("set_link", params="name on|off", help="plug in or pull out the cable of a network device")
async def set_link(monitor: HumanMonitor, arguments: Arguments) -> str:
    name = arguments.string()
    up = arguments.on_off()
    arguments.done()
    await monitor.qmp("set_link", {"name": name, "up": up})
    return ""


@hmp("info vnc", help="VNC server and its clients")
def info_vnc(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return "None\n"  # LIMIT: this version has no VNC server (-vnc is refused)


@hmp("info usb", help="USB devices of the guest")
def info_usb(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    # QEMU-COMPAT: its sentence for machines without USB; this version makes no others (-usb is refused)
    raise VmmdError("USB support not enabled")

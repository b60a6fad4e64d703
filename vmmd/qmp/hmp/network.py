# SPDX-License-Identifier: Apache-2.0
"""Network devices, and displays that a network serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import VmmdError
from vmmd.options import help as option_help
from vmmd.options.draft import HelpRequested
from vmmd.qmp.hmp.completion import option_words
from vmmd.qmp.hmp.registry import forward, hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


def _kinds(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    from vmmd.options.netdevs import NETDEVS

    def keys(kind: str) -> Iterable[str]:
        return (each.wire_name for each in NETDEVS[kind].each()) if kind in NETDEVS else ()

    return option_words(words[0], NETDEVS, keys) if len(words) == 1 else ()


def _netdevs(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    network = monitor.vm.net
    return network.netdevs if network is not None and len(words) == 1 else ()


def _names(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    if len(words) == 1:
        return (*_netdevs(monitor, words), *(() if monitor.vm.net is None else monitor.vm.net.ports))
    return ("on", "off") if len(words) == 2 else ()


@hmp("info network", help="network devices and backends")
def info_network(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.net.listing import listing

    arguments.done()
    return "" if monitor.vm.net is None else listing(monitor.vm.net)


@hmp("netdev_add", params="type,id=str[,prop=value][,...]", help="make a network backend, as -netdev", complete=_kinds)
async def netdev_add(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.options import availability, lexer
    from vmmd.options.read_netdevs import netdev_options
    from vmmd.qmp.commands.net import make_netdev

    text = arguments.rest()
    if lexer.wants_help(text):
        return option_help.render(HelpRequested("netdev", None), cpu_text=str)
    options = netdev_options("netdev_add", text)
    availability.check_netdev(options)
    await make_netdev(monitor.vm, monitor.session.fds, options)
    return ""


forward("netdev_del", words="id", help="take a network backend away", complete=_netdevs)


@hmp("set_link", params="name on|off", help="plug in or pull out the cable of a network device", complete=_names)
async def set_link(monitor: HumanMonitor, arguments: Arguments) -> str:
    name = arguments.string()
    up = arguments.on_off()
    arguments.done()
    await monitor.qmp("set_link", {"name": name, "up": up})
    return ""


@hmp(
    "announce_self",
    params="[interfaces] [id]",
    help="have network cards tell the network where they are (interfaces: names with commas between)",
    complete=lambda monitor, words: () if monitor.vm.net is None or len(words) > 1 else monitor.vm.net.ports,
)
async def announce_self(monitor: HumanMonitor, arguments: Arguments) -> str:
    interfaces, id_ = ("" if arguments.at_end else arguments.string() for _ in range(2))
    arguments.done()
    given: dict[str, object] = {"initial": 50, "max": 550, "rounds": 5, "step": 100}  # QEMU-COMPAT: the numbers
    if interfaces:
        given["interfaces"] = interfaces.split(",")
    if id_:
        given["id"] = id_
    await monitor.qmp("announce-self", given)
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

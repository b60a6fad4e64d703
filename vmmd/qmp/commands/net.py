# SPDX-License-Identifier: Apache-2.0
"""Commands about network devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.options.fields import IDENTIFIER_FORM, is_identifier
from vmmd.qmp.boxed import read_options
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.net.base import Netdev as Netdevice
    from vmmd.net.network import Network, Port
    from vmmd.options.netdev_base import NetdevOptions
    from vmmd.qmp.models.net import Netdev, NetdevInfo, NetworkInfo, NicInfo, RxFilterInfo, RxState
    from vmmd.qmp.passed_fds import PassedFds
    from vmmd.qmp.vm_api import VmApi


_TAP: dict[str, object] = {"type": "tap", "id": "net0", "fd": "tapfd-net0"}


@command("netdev_add", since="0.14", example=Example(_TAP, error="GenericError"))
async def netdev_add(ctx: Context, options: Netdev) -> dict[str, object]:
    """Make a network backend. Takes the keys of ``-netdev``; descriptors (``fd``, ``fds``) go by the names that this
    session gave them with getfd, and are the backend's from then on."""
    await make_netdev(ctx.vm, ctx.session.fds, read_netdev(options))
    return {}


async def make_netdev(vm: VmApi, fds: PassedFds, options: NetdevOptions) -> None:
    """A network backend while the machine is there. Raises VmmdError and leaves nothing behind then."""
    from vmmd.qmp.session_fds import SessionDescriptors

    await vm.network().add(options, SessionDescriptors(fds, vm.fdsets))


def read_netdev(arguments: dict[str, Any]) -> NetdevOptions:
    """Checked arguments as the option model. Raises UsageError."""
    from vmmd.options.netdevs import NETDEVS

    if not is_identifier(arguments["id"]):
        raise UsageError("Parameter 'id' expects an identifier", IDENTIFIER_FORM)
    where = "netdev_add"
    try:
        return read_options(NETDEVS, "type", arguments, where)
    except UsageError as error:
        error.desc = error.desc.removeprefix(f"{where}: ").removeprefix(f"{where} ")
        raise


@command("netdev_del", since="0.14", example=Example({"id": "net0"}, error="DeviceNotFound"))
async def netdev_del(ctx: Context, *, id: str) -> dict[str, object]:  # noqa: A002  # the argument's name
    """Take a network backend away. A network device that uses it stays, without a link."""
    if ctx.vm.net is None:
        raise DeviceNotFoundError(f"Device '{id}' not found")
    await ctx.vm.net.remove(id)
    return {}


@command("set_link", since="0.14", example=Example({"name": "net0", "up": False}, error="DeviceNotFound"))
def set_link(ctx: Context, *, name: str, up: bool) -> dict[str, object]:
    """Plug in or pull out the cable of a network device or backend. Frames that come while it is out are lost."""
    if ctx.vm.net is None:
        raise DeviceNotFoundError(f"Device '{name}' not found")
    ctx.vm.net.set_link(name, up)
    return {}


@command("__org.vmmd_query-network", since="7.2")
def query_network(ctx: Context) -> NetworkInfo:
    """The network devices and backends: links, addresses, and frames that were dropped."""
    return (
        {"nics": [], "netdevs": []}
        if ctx.vm.net is None
        else {
            "nics": [_nic(port) for port in ctx.vm.net.ports.values()],
            "netdevs": [_netdev(each, ctx.vm.net) for each in ctx.vm.net.netdevs.values()],
        }
    )


def _nic(port: Port) -> NicInfo:
    nic: NicInfo = {
        "name": port.name,
        "model": port.nic.type_name,
        "mac": port.nic.current_mac.hex(":"),
        "link-up": port.link_up,
    }
    if port.backend is not None:
        nic["netdev"] = port.backend.id
    return nic


def _netdev(netdev: Netdevice, network: Network) -> NetdevInfo:
    return {
        "id": netdev.id,
        "type": netdev.kind,
        "info": netdev.describe(0),
        "link-up": netdev.link_up and not network.is_down(netdev),
        "queues": len(netdev.queues),
        "dropped": sum(queue.dropped for queue in netdev.queues),
    }


@command("query-rx-filter", since="1.6", example=Example())
def query_rx_filter(ctx: Context, *, name: str | None = None) -> list[RxFilterInfo]:
    """Which packets the guest has asked each network card for, or the card ``name``. The next change of what is
    shown is told by an event NIC_RX_FILTER_CHANGED."""
    network = ctx.vm.net
    ports = network.ports if network is not None else {}
    if name is None:
        return [_rx_filter(port) for port in ports.values()]
    if name in ports:
        return [_rx_filter(ports[name])]
    # QEMU-COMPAT: both sentences
    if network is not None and name in network.netdevs:
        raise UsageError(f"net client({name}) isn't a NIC", "it is a backend, set by -netdev")
    raise UsageError(f"invalid net client name: {name}", "info network lists those that there are")


def _rx_filter(port: Port) -> RxFilterInfo:
    found = port.nic.rx_filter()
    return {
        "name": port.name,
        "promiscuous": found.promiscuous,
        "multicast": cast("RxState", found.multicast),
        "unicast": cast("RxState", found.unicast),
        "vlan": cast("RxState", found.vlan),
        "broadcast-allowed": found.broadcast_allowed,
        "multicast-overflow": found.multicast_overflow,
        "unicast-overflow": found.unicast_overflow,
        "main-mac": found.main_mac.hex(":"),
        "vlan-table": list(found.vlan_table),
        "unicast-table": [mac.hex(":") for mac in found.unicast_table],
        "multicast-table": [mac.hex(":") for mac in found.multicast_table],
    }


#: most of each number of announce-self
_ANNOUNCE_LIMITS = {"initial": 100_000, "max": 100_000, "rounds": 1_000, "step": 10_000}


@command("announce-self", since="4.0", example=Example({"initial": 50, "max": 550, "rounds": 5, "step": 50}))
def announce_self(  # noqa: PLR0913  # the arguments, by name
    ctx: Context,
    *,
    initial: int,
    max: int,  # noqa: A002  # the argument's name
    rounds: int,
    step: int,
    interfaces: list[str] | None = None,
    id: str | None = None,  # noqa: A002
) -> dict[str, object]:
    """Have network cards tell the network where they are, by RARP packets and, where the guest can, by the guest. That
    is done ``rounds`` times: now, ``initial`` milliseconds later, and then with distances that grow by ``step`` up to
    ``max``. ``interfaces`` names the cards (default: all). It takes the place of an announcement of the same ``id``."""
    given = {"initial": initial, "max": max, "rounds": rounds, "step": step}
    for name, value in given.items():
        if not 0 <= value <= _ANNOUNCE_LIMITS[name]:
            raise UsageError(f"Parameter '{name}' expects a value between 0 and {_ANNOUNCE_LIMITS[name]}")
    network = ctx.vm.net
    if network is None:
        return {}  # no card that could
    from vmmd.net.announce import MAX_ANNOUNCEMENTS, Announcement

    names = None if interfaces is None else frozenset(interfaces)
    asked = Announcement(id or "", initial, max, rounds, step, names)
    if not network.announcer.has_room(asked):
        raise UsageError(f"There are {MAX_ANNOUNCEMENTS} announcements already", "rounds=0 with the id of one ends it")
    network.announcer.start(asked)
    return {}

# SPDX-License-Identifier: Apache-2.0
"""Commands about network devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.options.fields import IDENTIFIER_FORM, is_identifier
from vmmd.qmp.boxed import read_options
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.net.base import Netdev as Netdevice
    from vmmd.net.network import Network, Port
    from vmmd.options.netdevs import NetdevOptions
    from vmmd.qmp.models.net import Netdev, NetdevInfo, NetworkInfo, NicInfo, RxFilterInfo
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

    await vm.network().add(options, SessionDescriptors(fds))


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
    """Which packets the guest has asked each network card for, or the card ``name``."""
    # LIMIT: there are no network devices yet
    if name is not None:
        # QEMU-COMPAT: the sentence
        raise UsageError(f"invalid net client name: {name}", "there is no network device")
    return []

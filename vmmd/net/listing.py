# SPDX-License-Identifier: Apache-2.0
"""The text of ``info network``, and warnings of what is not connected. QEMU-COMPAT: every character."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.net.hub import HubPort
from vmmd.net.network import Port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.net.base import Netdev
    from vmmd.net.hub import Hub
    from vmmd.net.network import Network


def listing(network: Network) -> str:
    """Hubs with what is at their ports, the latest first; then NICs with their netdevs, and netdevs that have none, as
    they came. One line for each queue."""
    lines = [line for hub in reversed(network.hubs.values()) for line in _hub_lines(hub.number, hub.ports)]
    for each in network.in_order():
        lines += _nic_and_netdev(each) if isinstance(each, Port) else _lone_netdev(each)
    return "".join(lines)


def _hub_lines(number: int, ports: list[HubPort]) -> Iterator[str]:
    yield f"hub {number}\n"
    for port in reversed(ports):
        if port.uplink is not None:
            behind = port.uplink.netdev.lines()
        else:
            behind = nic_lines(port.user) if isinstance(port.user, Port) else []
        yield f" \\ {port.id}" + (f": {behind[0]}" if behind else "\n")


def _nic_and_netdev(port: Port) -> Iterator[str]:
    if port.was_at_hub or isinstance(port.backend, HubPort):
        return
    behind = port.removed if port.backend is None else port.backend.lines()
    for index, own in enumerate(nic_lines(port)):
        yield own
        if index < len(behind):
            yield f" \\ {behind[index]}"


def _lone_netdev(netdev: Netdev) -> list[str]:
    return [] if netdev.user is not None or isinstance(netdev, HubPort) else netdev.lines()


def nic_lines(port: Port) -> list[str]:
    """A NIC has as many queues as its netdev."""
    first = f"model={port.nic.type_name},macaddr={port.nic.current_mac.hex(':')}"
    return [f"{name}: index={index},type=nic,{'' if index else first}\n" for index, name in enumerate(port.names)]


def loose_ends(network: Network) -> list[str]:
    """What of a new machine leads nowhere."""
    found = [line for hub in reversed(network.hubs.values()) for line in _of_hub(hub)]
    for each in network.in_order():
        if isinstance(each, Port):
            if each.backend is None:
                found.append(f"nic {each.name} has no peer")
        elif each.user is None:
            found.append(f"netdev {each.id} has no peer")
    return found


def _of_hub(hub: Hub) -> Iterator[str]:
    yield from (f"hub port {port.id} has no peer" for port in reversed(hub.ports) if port.user is None)
    has_nic = any(isinstance(port.user, Port) for port in hub.ports)
    has_host = any(port.uplink is not None for port in hub.ports)
    if has_nic and not has_host:
        yield f"hub {hub.number} is not connected to host network"
    elif has_host and not has_nic:
        yield f"hub {hub.number} with no nics"

# SPDX-License-Identifier: Apache-2.0
"""User networks (``-netdev user``): their forwarded ports. QEMU-COMPAT: the sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.net.base import Netdev
    from vmmd.net.user import UserNetdev
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

_HEADINGS = "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
_RULE = "[netdev_id] [tcp|udp]:[hostaddr]:hostport"


def _user_netdevs(monitor: HumanMonitor) -> list[UserNetdev]:
    """The latest last."""
    if monitor.vm.net is None or not any(each.kind == "user" for each in monitor.vm.net.netdevs.values()):
        return []
    from vmmd.net.user import UserNetdev

    return [each for each in monitor.vm.net.netdevs.values() if isinstance(each, UserNetdev)]


@hmp("info usernet", help="forwarded ports of user networks (passt, which has the connections, does not tell of them)")
def info_usernet(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return "".join(
        line
        for netdev in _user_netdevs(monitor)
        for line in (f"Hub {_hub(netdev)} ({netdev.id}):\n", _HEADINGS, *_forwards(netdev))
    )


def _hub(netdev: Netdev) -> int:
    from vmmd.net.hub import HubPort

    return netdev.user.options.hubid if isinstance(netdev.user, HubPort) else -1


def _forwards(netdev: UserNetdev) -> Iterator[str]:
    guest = "" if netdev.network.ipv4 is None else str(netdev.network.ipv4.guest)
    for each in reversed(netdev.network.forwards):
        kind = f"{each.protocol.upper()}[HOST_FORWARD]"
        host = "*" if each.host == "0.0.0.0" else each.host
        yield f"  {kind:<17} {'-':>3} {host:>15} {each.host_port:>5} {guest:>15} {each.guest_port:>5} {0:>5} {0:>5}\n"


def _find(monitor: HumanMonitor, first: str, rule: str) -> tuple[UserNetdev | None, str, str]:
    """The netdev that ``[netdev_id] rule`` means, or else what is to be said; the rule."""
    user = _user_netdevs(monitor)
    if not rule:
        return (user[-1] if user else None), "user mode network stack not in use\n", first
    known = monitor.vm.net.netdevs.get(first) if monitor.vm.net is not None else None
    if known is None:
        return None, f"unrecognized netdev id '{first}'\n", rule
    found = next((each for each in user if each is known), None)
    return found, "invalid device specified\n", rule


def _words(arguments: Arguments) -> tuple[str, str]:
    first = arguments.string()
    second = "" if arguments.at_end else arguments.string()
    arguments.done()
    return first, second


@hmp("hostfwd_add", params=f"{_RULE}-[guestaddr]:guestport", help="forward a port of the host: at the start only")
def hostfwd_add(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.options.user_network import read_forward

    netdev, otherwise, rule = _find(monitor, *_words(arguments))
    if netdev is None:
        return otherwise
    try:
        read_forward(rule)
    except UsageError as error:
        return f"{error.desc}\n"
    hint = (
        f"passt takes rules when it starts: netdev_del {netdev.id}, and netdev_add user,id={netdev.id},hostfwd={rule}"
    )
    raise UsageError(f"Could not set up host forwarding rule '{rule}'", hint)


@hmp("hostfwd_remove", params=_RULE, help="remove a forwarded port: with its user network only")
def hostfwd_remove(monitor: HumanMonitor, arguments: Arguments) -> str:
    netdev, otherwise, rule = _find(monitor, *_words(arguments))
    if netdev is None:
        return otherwise
    protocol, _, rest = rule.partition(":")
    host, colon, port = rest.partition(":")
    if not colon or protocol not in ("", "tcp", "udp") or not port.isdecimal():
        return "invalid format\n"
    wanted = (protocol or "tcp", host or "0.0.0.0", port)
    for each in netdev.network.forwards:
        if (each.protocol, each.host, str(each.host_port)) == wanted:
            hint = f"passt keeps the rules that it was started with: netdev_del {netdev.id}"
            raise UsageError(f"host forwarding rule for {rule} cannot be removed", hint)
    return f"host forwarding rule for {rule} not found\n"

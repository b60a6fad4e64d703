# SPDX-License-Identifier: Apache-2.0
"""QAPI types of network devices."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.options.addresses import ADDRESSES, SOCKET_ADDRESS
from vmmd.options.netdev_user import STRINGS
from vmmd.options.netdevs import NETDEVS
from vmmd.qmp.models.options import option_union


class String(TypedDict):
    """One of several strings."""

    str: str


Strings = list[String]

#: an address of a socket
SocketAddress = option_union(__name__, "type", ADDRESSES)

#: what netdev_add takes
Netdev = option_union(__name__, "type", NETDEVS, {SOCKET_ADDRESS: "SocketAddress", STRINGS: "Strings"})

RxState = Literal["normal", "none", "all"]

RxFilterInfo = TypedDict(
    "RxFilterInfo",
    {
        "name": str,
        "promiscuous": bool,
        "multicast": RxState,
        "unicast": RxState,
        "vlan": RxState,
        "broadcast-allowed": bool,
        "multicast-overflow": bool,
        "unicast-overflow": bool,
        "main-mac": str,
        "vlan-table": list[int],
        "unicast-table": list[str],
        "multicast-table": list[str],
    },
)
"""Which packets the guest has asked its network card for."""


NetdevInfo = TypedDict(
    "NetdevInfo", {"id": str, "type": str, "info": str, "link-up": bool, "queues": int, "dropped": int}
)
"""A network backend: whether its link is up, how many pairs of queues it has, and how many frames it has dropped."""

NicInfo = TypedDict("NicInfo", {"name": str, "model": str, "mac": str, "link-up": bool, "netdev": NotRequired[str]})
"""A network device of the guest, its address, whether its cable is in, and the backend that it is connected to."""


class NetworkInfo(TypedDict):
    """The network of a machine."""

    nics: list[NicInfo]
    netdevs: list[NetdevInfo]

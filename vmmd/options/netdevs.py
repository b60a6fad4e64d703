# SPDX-License-Identifier: Apache-2.0
"""Typed models of network backends, by the word that selects them (``NETDEVS["tap"]``). Key names are QEMU's.

What QEMU knows and this version does not have stands in ``NETDEVS_LATER`` (``backends`` says how that works).
"""

from __future__ import annotations

from vmmd.core.props import BOOL, I32, PATH, SIZE, STR, U32, prop
from vmmd.options.fields import COUNT, NUMBER
from vmmd.options.netdev_base import NetdevOptions
from vmmd.options.netdev_sockets import NetdevDgram, NetdevSocket, NetdevStream
from vmmd.options.netdev_user import NetdevUser


class NetdevTap(NetdevOptions):
    kind = "tap"
    fd = prop(STR, None, "an open tap descriptor, or the name of a passed one")
    fds = prop(STR, None, "several, with ':' between")
    ifname = prop(STR, None, "host interface")
    script = prop(PATH, None, "script that sets it up, or no")
    downscript = prop(PATH, None, "script that takes it down, or no")
    br = prop(STR, None, "bridge for the helper (br0)")
    helper = prop(PATH, None, "bridge helper, which makes the interface")
    sndbuf = prop(SIZE, None, "limit of the send buffer")
    vnet_hdr = prop(BOOL, None, "use the offload header", wire="vnet_hdr")
    vhost = prop(BOOL, None, "data path in the kernel")
    vhostfd = prop(STR, None, "an open /dev/vhost-net descriptor")
    vhostfds = prop(STR, None, "several, with ':' between")
    vhostforce = prop(BOOL, None, "fail without vhost")
    queues = prop(COUNT, None, "number of queues")
    poll_us = prop(U32, None, "microseconds of busy polling by vhost")


class NetdevBridge(NetdevOptions):
    kind = "bridge"
    br = prop(STR, "br0", "bridge that the interface becomes a port of")
    helper = prop(PATH, "/usr/lib/qemu/qemu-bridge-helper", "program that makes the interface")


class NetdevHubport(NetdevOptions):
    kind = "hubport"
    hubid = prop(I32, 0, "number of the hub", required=True)
    netdev = prop(STR, None, "network backend at this port, instead of a network device")


class NetdevVhostUser(NetdevOptions):
    kind = "vhost-user"
    chardev = prop(STR, "", "id of the socket chardev that leads to the back end", required=True)
    vhostforce = prop(BOOL, None, "use it for guests without MSI-X too; always so")
    queues = prop(NUMBER, None, "number of pairs of queues")


NETDEVS: dict[str, type[NetdevOptions]] = {
    cls.kind: cls
    for cls in (
        NetdevBridge,
        NetdevDgram,
        NetdevHubport,
        NetdevSocket,
        NetdevStream,
        NetdevTap,
        NetdevUser,
        NetdevVhostUser,
    )
}
NETDEVS_LATER = ("l2tpv3", "netmap", "vde", "vhost-vdpa")

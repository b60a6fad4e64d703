# SPDX-License-Identifier: Apache-2.0
"""virtio-net: feature bits (virtio 1.2 §5.1.3), and which of them a netdev and a driver allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.backend import NetOffload

if TYPE_CHECKING:
    from vmmd.core.backend import NetBackend

F_CSUM = 1 << 0
F_GUEST_CSUM = 1 << 1
F_CTRL_GUEST_OFFLOADS = 1 << 2
F_MTU = 1 << 3
F_MAC = 1 << 5
F_GSO = 1 << 6  # legacy interface only
F_GUEST_TSO4 = 1 << 7
F_GUEST_TSO6 = 1 << 8
F_GUEST_ECN = 1 << 9
F_GUEST_UFO = 1 << 10
F_HOST_TSO4 = 1 << 11
F_HOST_TSO6 = 1 << 12
F_HOST_ECN = 1 << 13
F_HOST_UFO = 1 << 14
F_MRG_RXBUF = 1 << 15
F_STATUS = 1 << 16
F_CTRL_VQ = 1 << 17
F_CTRL_RX = 1 << 18
F_CTRL_VLAN = 1 << 19
F_CTRL_RX_EXTRA = 1 << 20
F_GUEST_ANNOUNCE = 1 << 21
F_MQ = 1 << 22
F_CTRL_MAC_ADDR = 1 << 23
F_GUEST_USO4 = 1 << 54
F_GUEST_USO6 = 1 << 55
F_HOST_USO = 1 << 56
F_SPEED_DUPLEX = 1 << 63

#: what a netdev must be able to do with frames that the guest sends
_HOST_NEEDS = {
    F_CSUM: NetOffload.CSUM,
    F_HOST_TSO4: NetOffload.TSO4,
    F_HOST_TSO6: NetOffload.TSO6,
    F_HOST_ECN: NetOffload.TSO_ECN,
    F_HOST_UFO: NetOffload.UFO,
    F_HOST_USO: NetOffload.USO4 | NetOffload.USO6,
}
#: what the guest takes in frames that it receives
_GUEST_TAKES = {
    F_GUEST_CSUM: NetOffload.CSUM,
    F_GUEST_TSO4: NetOffload.TSO4,
    F_GUEST_TSO6: NetOffload.TSO6,
    F_GUEST_ECN: NetOffload.TSO_ECN,
    F_GUEST_UFO: NetOffload.UFO,
    F_GUEST_USO4: NetOffload.USO4,
    F_GUEST_USO6: NetOffload.USO6,
}
#: what CTRL_GUEST_OFFLOADS_SET may name (§5.1.6.5.6)
GUEST_OFFLOADS = sum(_GUEST_TAKES)


def masked(wanted: int, backend: NetBackend | None) -> int:
    """``wanted`` without the bits that the netdev cannot serve. QEMU-COMPAT: nor those that it might, of a netdev that
    has no vnet header. Frames that we never see are the business of who serves the rings (``VhostBackend``)."""
    if backend is not None and backend.vhost is not None and not backend.header_lengths:
        return wanted & ~F_CTRL_GUEST_OFFLOADS  # nobody could be told of a change
    able = backend.offloads if backend is not None and backend.header_lengths else NetOffload(0)
    for table in (_HOST_NEEDS, _GUEST_TAKES):
        for bit, needed in table.items():
            if needed & ~able:
                wanted &= ~bit
    return wanted


def accepted_offloads(bits: int) -> NetOffload:
    """What the guest takes, of negotiated feature bits. Without checksums nothing: all others rest on it (§5.1.3.1)."""
    taken = NetOffload(0)
    if bits & F_GUEST_CSUM:
        for bit, offload in _GUEST_TAKES.items():
            if bits & bit:
                taken |= offload
    return taken

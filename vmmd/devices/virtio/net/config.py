# SPDX-License-Identifier: Apache-2.0
"""virtio-net: device configuration (virtio 1.2 §5.1.4), and the checks of its properties."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.devices.virtio.net import features as f
from vmmd.errors import UsageError
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from vmmd.devices.virtio.net.pci import VirtioNetPci

#: config.status (§5.1.4)
STATUS_LINK_UP = 1
STATUS_ANNOUNCE = 2

#: mac, status, max_virtqueue_pairs, mtu, speed, duplex
_LAYOUT = struct.Struct("<6sHHHIB")
MAC_BYTES = 6
#: (features, bytes of the configuration that one of them makes visible)
_VISIBLE = ((f.F_MAC, 6), (f.F_STATUS, 8), (f.F_MQ, 10), (f.F_MTU, 12), (f.F_SPEED_DUPLEX, 17))

QUEUE_SIZE_MIN, QUEUE_SIZE_MAX = 256, 1024
#: QEMU-COMPAT: a longer transmit queue is for vhost-user only
TX_QUEUE_SIZE_MAX = 256
CONTROL_QUEUE_SIZE = 64
SPEED_UNKNOWN = -1
_SPEED_MAX = 0x7FFF_FFFF
_DUPLEX = {None: 0xFF, "half": 0, "full": 1}
#: QEMU-COMPAT: properties' names -> the bit that each offers
PROPERTY_BITS = {
    "csum": f.F_CSUM,
    "guest_csum": f.F_GUEST_CSUM,
    "gso": f.F_GSO,
    "guest_tso4": f.F_GUEST_TSO4,
    "guest_tso6": f.F_GUEST_TSO6,
    "guest_ecn": f.F_GUEST_ECN,
    "guest_ufo": f.F_GUEST_UFO,
    "guest_announce": f.F_GUEST_ANNOUNCE,
    "host_tso4": f.F_HOST_TSO4,
    "host_tso6": f.F_HOST_TSO6,
    "host_ecn": f.F_HOST_ECN,
    "host_ufo": f.F_HOST_UFO,
    "mrg_rxbuf": f.F_MRG_RXBUF,
    "status": f.F_STATUS,
    "ctrl_vq": f.F_CTRL_VQ,
    "ctrl_rx": f.F_CTRL_RX,
    "ctrl_vlan": f.F_CTRL_VLAN,
    "ctrl_rx_extra": f.F_CTRL_RX_EXTRA,
    "ctrl_mac_addr": f.F_CTRL_MAC_ADDR,
    "ctrl_guest_offloads": f.F_CTRL_GUEST_OFFLOADS,
    "mq": f.F_MQ,
    "host_uso": f.F_HOST_USO,
    "guest_uso4": f.F_GUEST_USO4,
    "guest_uso6": f.F_GUEST_USO6,
}


class NetOptions(NamedTuple):
    """The device as its properties make it; checked."""

    rx_queue_size: int
    tx_queue_size: int
    pairs: int  # queue pairs that the netdev has
    mtu: int  # told to the guest; 0: none is
    speed: int  # Mbit/s, or SPEED_UNKNOWN
    duplex: int
    tx_delay_ns: int  # tx=timer: how long frames are collected; 0: not at all
    tx_burst: int  # frames sent without a look at others
    wanted: int  # feature bits as the properties say, before the netdev is asked

    @property
    def config_bytes(self) -> int:
        return max(length for bit, length in _VISIBLE if self.wanted & bit)

    @property
    def vectors(self) -> int:
        """MSI-X vectors that serve every queue, and the configuration."""
        return 2 * self.pairs + 2

    def config(self, mac: bytes, status: int) -> bytes:
        """The device configuration."""
        packed = _LAYOUT.pack(mac, status, self.pairs, self.mtu, self.speed & 0xFFFF_FFFF, self.duplex)
        return packed[: self.config_bytes]


def resolve(device: VirtioNetPci, pairs: int, *, long_tx: bool = False) -> NetOptions:
    """Check the properties. ``long_tx``: the netdev is one that QEMU takes longer transmit queues for. Raises
    UsageError in QEMU's words."""
    props = device.props
    _check_queue_size("rx_queue_size", props.rx_queue_size, ".")
    _check_queue_size("tx_queue_size", props.tx_queue_size, "")
    if props.duplex not in _DUPLEX:
        raise UsageError("'duplex' must be 'half' or 'full'")
    if not SPEED_UNKNOWN <= props.speed <= _SPEED_MAX:
        raise UsageError("'speed' must be between 0 and INT_MAX", "it is in Mbit/s; -1: not told")
    if props.x_txtimer > NS_PER_S:
        raise UsageError("'x-txtimer' must be at most one second", "it is in nanoseconds")
    wanted = f.F_MAC
    for name, bit in PROPERTY_BITS.items():
        if getattr(props, name):
            wanted |= bit
    if props.host_mtu:
        wanted |= f.F_MTU
    if props.duplex or props.speed >= 0:
        wanted |= f.F_SPEED_DUPLEX
    return NetOptions(
        rx_queue_size=props.rx_queue_size,
        tx_queue_size=props.tx_queue_size if long_tx else min(props.tx_queue_size, TX_QUEUE_SIZE_MAX),
        pairs=pairs,
        mtu=props.host_mtu,
        speed=props.speed,
        duplex=_DUPLEX[props.duplex or None],
        tx_delay_ns=max(props.x_txtimer, 1) if props.tx == "timer" else 0,
        tx_burst=props.x_txburst if props.x_txburst > 0 else QUEUE_SIZE_MAX,
        wanted=wanted,
    )


def _check_queue_size(name: str, size: int, end: str) -> None:
    if not QUEUE_SIZE_MIN <= size <= QUEUE_SIZE_MAX or size & (size - 1):
        raise UsageError(
            f"Invalid {name} (= {size}), must be a power of 2 between {QUEUE_SIZE_MIN} and {QUEUE_SIZE_MAX}{end}"
        )

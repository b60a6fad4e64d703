# SPDX-License-Identifier: Apache-2.0
"""``virtio-net-pci`` and its -transitional and -non-transitional names: properties, and the place in the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.props import BOOL, BOOT_INDEX, I32, MACADDR, NETDEV, STR, U16, U32, prop
from vmmd.devices.virtio.net import features as f
from vmmd.devices.virtio.net.config import NetOptions, resolve
from vmmd.devices.virtio.net.device import VirtioNet
from vmmd.devices.virtio.pci_transport import VirtioPciDevice, variants

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import NetBackend, ReceiveFilter

TX_DELAY_NS = 150_000
TX_BURST = 256
RSC_INTERVAL_NS = 300_000
_BITS = 0xFFFF_FFFF


class VirtioNetPci(VirtioPciDevice):
    """A virtio NIC on PCI; transitional unless the properties say otherwise. ``core.backend.Nic``."""

    type_name = "virtio-net-pci"
    description = "virtio network card"
    category = "network"
    user_creatable = True
    transitional_id = 0x1000
    global_types = ("virtio-pci", "virtio-device", "virtio-net-device")
    class_code = 0x020000
    default_romfile = "efi-virtio.rom"
    inner_type = "virtio-net-device"
    parent_type = "virtio-net-pci-base"
    KEPT_AT_RESET = (
        *VirtioPciDevice.KEPT_AT_RESET,
        "virtio._all_counters",
        "virtio.tells_changes",
    )

    class Props(VirtioPciDevice.Props):
        """Names and defaults as QEMU 7.2 shows them; those of USO as QEMU 8.1 does, but off."""

        netdev = prop(NETDEV, None, "ID of a netdev to use as a backend")
        mac = prop(MACADDR, None, "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56")
        bootindex = prop(BOOT_INDEX, None, "place in the boot order, 0 first", live=True)
        csum = prop(BOOL, True, "the host completes checksums")
        guest_csum = prop(BOOL, True, "the guest takes frames without checksums", wire="guest_csum")
        gso = prop(BOOL, True, "the old name of segmentation offload (legacy)")
        guest_tso4 = prop(BOOL, True, "the guest takes large TCP segments over IPv4", wire="guest_tso4")
        guest_tso6 = prop(BOOL, True, "the guest takes large TCP segments over IPv6", wire="guest_tso6")
        guest_ecn = prop(BOOL, True, "the guest takes large TCP segments with ECN", wire="guest_ecn")
        guest_ufo = prop(BOOL, True, "the guest takes large UDP datagrams to be fragmented", wire="guest_ufo")
        guest_announce = prop(BOOL, True, "the guest announces itself when asked to", wire="guest_announce")
        host_tso4 = prop(BOOL, True, "the host takes large TCP segments over IPv4", wire="host_tso4")
        host_tso6 = prop(BOOL, True, "the host takes large TCP segments over IPv6", wire="host_tso6")
        host_ecn = prop(BOOL, True, "the host takes large TCP segments with ECN", wire="host_ecn")
        host_ufo = prop(BOOL, True, "the host takes large UDP datagrams to be fragmented", wire="host_ufo")
        mrg_rxbuf = prop(BOOL, True, "a received frame may need several buffers", wire="mrg_rxbuf")
        status = prop(BOOL, True, "the guest sees the state of the link")
        ctrl_vq = prop(BOOL, True, "offer the control queue", wire="ctrl_vq")
        ctrl_rx = prop(BOOL, True, "the guest sets the receive mode", wire="ctrl_rx")
        ctrl_vlan = prop(BOOL, True, "the guest filters by VLAN", wire="ctrl_vlan")
        ctrl_rx_extra = prop(BOOL, True, "more receive modes", wire="ctrl_rx_extra")
        ctrl_mac_addr = prop(BOOL, True, "the guest sets its address by the control queue", wire="ctrl_mac_addr")
        ctrl_guest_offloads = prop(BOOL, True, "the guest switches its offloads", wire="ctrl_guest_offloads")
        mq = prop(BOOL, False, "as many queue pairs as the netdev has")
        rx_queue_size = prop(U16, 256, "descriptors in each receive queue, a power of two", wire="rx_queue_size")
        tx_queue_size = prop(U16, 256, "descriptors in each transmit queue, a power of two", wire="tx_queue_size")
        host_mtu = prop(U16, 0, "MTU that the guest is told; 0: none", wire="host_mtu")
        speed = prop(I32, -1, "speed that the guest is told, in Mbit/s; -1: none")
        duplex = prop(STR, None, "what the guest is told: half or full")
        tx = prop(STR, None, "timer: collect frames for x-txtimer before they are sent; bh: send at once")
        x_txtimer = prop(U32, TX_DELAY_NS, "nanoseconds for tx=timer")
        x_txburst = prop(I32, TX_BURST, "frames sent before others have their turn")
        guest_uso4 = prop(BOOL, False, "the guest takes large UDP segments over IPv4", wire="guest_uso4")
        guest_uso6 = prop(BOOL, False, "the guest takes large UDP segments over IPv6", wire="guest_uso6")
        host_uso = prop(BOOL, False, "the host takes large UDP segments", wire="host_uso")
        rss = prop(BOOL, False, "not available in this version")
        hash = prop(BOOL, False, "not available in this version")
        guest_rsc_ext = prop(BOOL, False, "not available in this version", wire="guest_rsc_ext")
        rsc_interval = prop(U32, RSC_INTERVAL_NS, "not available in this version", wire="rsc_interval")
        failover = prop(BOOL, False, "not available in this version")

    UNAVAILABLE = (*VirtioPciDevice.UNAVAILABLE, "rss", "hash", "guest_rsc_ext", "rsc_interval", "failover")

    props: VirtioNetPci.Props
    virtio: VirtioNet
    options: NetOptions

    def make_virtio(self) -> VirtioNet:
        props, ctx = self.props, self.ctx
        resolve(self, 1)  # everything that can be wrong, before the netdev is taken
        port = ctx.backends.nic(self, props.netdev, props.mac)
        self.on_undo(lambda: ctx.backends.release(port))
        vhost = port.backend.vhost if port.backend is not None else None
        self.options = resolve(self, queue_pairs(port.backend), long_tx=vhost is not None and vhost.in_user_space)
        if props.tx not in (None, "", "timer", "bh"):
            # QEMU-COMPAT: the sentence
            self.log.warning('virtio-net: Unknown option tx=%s, valid options: "timer" "bh"; using bh', props.tx)
        virtio = VirtioNet(ctx, self.log, port, self.options)
        self.on_undo(virtio.detach)
        virtio.id, virtio.qom_path = self.id, f"{self.qom_path}/{self.inner_name}"
        modern, legacy = self.features(f.masked(self.options.wanted, port.backend))
        if vhost is not None:
            vhost.join(ctx.memory)
            modern, legacy = vhost.mask_features(modern), vhost.mask_features(legacy)
            if self.options.mtu:
                vhost.set_mtu(self.options.mtu)
        virtio.offered, virtio.offered_legacy = modern & ~f.F_GSO, legacy & _BITS
        self.resolved |= {
            "mac": port.mac,
            "tx_queue_size": self.options.tx_queue_size,
        }
        self.claim_boot_index(props.bootindex)
        return virtio

    @property
    def virtio_config_bytes(self) -> int:
        return self.options.config_bytes

    @property
    def default_vectors(self) -> int:
        return self.options.vectors

    # -- core.backend.Nic ------------------------------------------------------------------------------------

    @property
    def current_mac(self) -> bytes:
        return self.virtio.mac

    def link_changed(self, up: bool) -> None:
        self.virtio.link_changed(up)

    def backend_removed(self) -> None:
        self.virtio.detach()
        self.virtio.link_changed(False)

    def take_rings_back(self, done: Callable[[], None]) -> None:
        self.virtio.take_rings_back(done)

    def announce(self) -> None:
        self.virtio.announce()

    def rx_filter(self) -> ReceiveFilter:
        return self.virtio.rx_filter()


def queue_pairs(backend: NetBackend | None) -> int:
    """How many the netdev has."""
    return max(1, len(backend.queues)) if backend is not None else 1


VirtioNetPciTransitional, VirtioNetPciNonTransitional = variants(VirtioNetPci)

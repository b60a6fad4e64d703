# SPDX-License-Identifier: Apache-2.0
"""virtio-net (virtio 1.2 §5.1), behind its transport.

Implemented: mergeable receive buffers, checksum and segmentation offloads (TSO, UFO, USO) as far as the netdev has
them, the control queue (receive filter, MAC address, VLANs, announcement, queue pairs, offloads), several queue pairs,
MTU, speed and duplex, link state. Not implemented, and not offered: RSS, hash reports, receive segment coalescing,
failover (STANDBY), notification coalescing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.affinity import locked, on_loop
from vmmd.core.backend import DirectNetQueue, ReceiveFilter
from vmmd.core.events import NicRxFilterChangedEvent
from vmmd.devices.virtio.device import F_VERSION_1, QueueCounters, QueueState, Status, VirtioDevice
from vmmd.devices.virtio.net import features as f
from vmmd.devices.virtio.net.config import CONTROL_QUEUE_SIZE, MAC_BYTES, STATUS_ANNOUNCE, STATUS_LINK_UP, NetOptions
from vmmd.devices.virtio.net.control import ControlWorker
from vmmd.devices.virtio.net.filter import RxFilter
from vmmd.devices.virtio.net.header import driver_header_bytes, netdev_header_bytes
from vmmd.devices.virtio.net.receive import RxWorker
from vmmd.devices.virtio.net.transmit import DelayedTxWorker, TxWorker
from vmmd.devices.virtio.net.worker import NetWorker
from vmmd.devices.virtio.vhost import VhostWorker, pause_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import NetBackend, NetQueue, NicPort
    from vmmd.core.device import DeviceContext
    from vmmd.devices.virtio.device import QueueWorker
    from vmmd.devices.virtio.queue import VirtQueue
    from vmmd.log import Logger


#: Ethernet type 8035h; Ethernet, IPv4, 6 and 4 bytes of address, «request reverse» (RFC 903)
_RARP = bytes.fromhex("8035 0001 0800 0604 0003")
_FRAME_BYTES_MIN = 60


def rarp_frame(mac: bytes) -> bytes:
    """A frame from which switches learn where ``mac`` is."""
    no_address = bytes(4)
    return (b"\xff" * 6 + mac + _RARP + mac + no_address + mac + no_address).ljust(_FRAME_BYTES_MIN, b"\0")


class _Pair:
    """NetFrontend of one queue pair: tells the workers of the moment."""

    def __init__(self, net: VirtioNet, index: int) -> None:
        self._net = net
        self._index = index

    def readable(self) -> None:
        worker = self._net.workers.get(2 * self._index)
        if isinstance(worker, RxWorker):
            worker.readable()

    def writable(self) -> None:
        worker = self._net.workers.get(2 * self._index + 1)
        if isinstance(worker, TxWorker):
            worker.writable()


class VirtioNet(VirtioDevice):
    """A NIC. The link's state and the address are guarded by the DeviceLock; the filter, the netdev and ``paused``
    belong to the loop."""

    virtio_id = 1

    def __init__(self, ctx: DeviceContext, log: Logger, port: NicPort, options: NetOptions) -> None:
        sizes = [options.rx_queue_size, options.tx_queue_size] * options.pairs
        super().__init__(ctx, log, [*sizes, CONTROL_QUEUE_SIZE])
        self.options = options
        self.port = port
        self.backend: NetBackend | None = port.backend
        self.mac = port.mac
        self.link_status = STATUS_LINK_UP if port.link_up else 0
        self.filter = RxFilter(port.mac)
        #: path and id for NIC_RX_FILTER_CHANGED
        self.qom_path = ""
        self.id: str | None = None
        #: the next change of the filter is told; again when it was asked for
        self.tells_changes = True
        self.pairs = 1  # in use by the driver
        #: of the header that the driver uses, those that the netdev knows nothing of
        self.header_bytes = driver_header_bytes(0)
        self.added_header_bytes = self.header_bytes
        self._set_up = False  # the netdev is told what the driver negotiated
        self._told_bytes = 0  # length of header that it was told last
        self._all_queues: list[QueueState] = self.queues
        self._all_counters: list[QueueCounters] = self.counters
        self._queues = list(port.backend.queues[: options.pairs]) if port.backend is not None else []
        self._direct = [queue if isinstance(queue, DirectNetQueue) else None for queue in self._queues]
        for index, queue in enumerate(self._queues):
            queue.attach(_Pair(self, index))

    # -- VirtioDevice --------------------------------------------------------------------------------------

    def make_worker(self, index: int, ring: VirtQueue) -> QueueWorker:
        if index == len(self.queues) - 1:
            return ControlWorker(self, index, ring)
        if self.backend is not None and self.backend.vhost is not None:
            self.ctx.loop.post(self._prepare)  # before the ring goes
            return VhostWorker(self, index, ring, self.backend.vhost, paused=self.paused)
        if not index % 2:
            return RxWorker(self, index, ring)
        return (DelayedTxWorker if self.options.tx_delay_ns else TxWorker)(self, index, ring)

    def read_config(self, offset: int, size: int) -> int:
        data = self.options.config(self.mac, self.link_status)[offset : offset + size]
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Legacy drivers set the address here, unless they have the control queue for it (§5.1.4.2)."""
        if self.accepted_features & (F_VERSION_1 | f.F_CTRL_MAC_ADDR) or offset >= MAC_BYTES:
            return
        image = bytearray(self.mac)
        image[offset : offset + size] = value.to_bytes(size, "little")
        self.mac = bytes(image[:MAC_BYTES])
        self.ctx.loop.post(self._filter_own_address)

    @on_loop
    def _filter_own_address(self) -> None:
        """A reset may have changed it again."""
        self.filter.set_mac(self.mac)

    def features_written(self) -> None:
        """Without VIRTIO_NET_F_MQ there is one queue pair, and the control queue comes right behind it (§5.1.2)."""
        self.filter.filters_vlans = self.negotiated(f.F_CTRL_VLAN)
        if self.accepted_features & f.F_MQ or self.options.pairs == 1:
            self.queues, self.counters = self._all_queues, self._all_counters
        else:
            self.queues = [*self._all_queues[:2], self._all_queues[-1]]
            self.counters = [*self._all_counters[:2], self._all_counters[-1]]

    def driver_ready(self) -> None:
        self.header_bytes = driver_header_bytes(self.accepted_features)
        self._set_up = False

    def reset_device(self) -> None:
        self.mac = self.port.mac
        self.link_status &= ~STATUS_ANNOUNCE
        self.pairs = 1
        self.filter.reset(self.mac)
        self.features_written()

    def negotiated(self, feature: int) -> bool:
        return bool(self.accepted_features & feature)

    # -- what the workers ask; on the loop, without the lock -------------------------------------------------

    def serves(self, pair: int) -> bool:
        """Whether queues of ``pair`` work now."""
        if self.paused or pair >= self.pairs:
            return False
        if not self._set_up:
            self._set_up = True
            self._tell_backend()
        return True

    def queue(self, pair: int) -> NetQueue | None:
        """Where frames come from and go to; None without a netdev."""
        return self._queues[pair] if self._queues else None

    def answers_to(self, pair: int) -> TxWorker | None:
        """Who sends what the driver answers to frames of ``pair``."""
        worker = self.workers.get(2 * pair + 1)
        return worker if isinstance(worker, TxWorker) else None

    def direct_fd(self, pair: int) -> int | None:
        """A descriptor that takes and gives frames of ``pair`` now, if there is one."""
        queue = self._direct[pair] if self._direct else None
        return queue.direct_fd if queue is not None else None

    def _prepare(self) -> None:
        """The netdev is to know what was negotiated."""
        self.serves(0)

    def _tell_backend(self) -> None:
        backend = self.backend
        self.added_header_bytes = self.header_bytes
        if backend is not None:
            length = netdev_header_bytes(backend, self.header_bytes)
            self.added_header_bytes -= length
            self._told_bytes = length
            if backend.header_lengths:
                backend.set_header(length)
            if length:
                backend.set_offloads(f.accepted_offloads(self.accepted_features))
            backend.enable_queues(self.pairs)

    # -- commands of the control queue; on the loop, without the lock ----------------------------------------

    @on_loop
    def set_mac(self, mac: bytes) -> None:
        with self.ctx.lock:
            self.mac = mac
        self.filter.set_mac(mac)

    @on_loop
    def use_pairs(self, pairs: int) -> None:
        """The driver uses the first ``pairs`` queue pairs from now on."""
        self.pairs = pairs
        if self.backend is not None:
            self.backend.enable_queues(pairs)
        for worker in self._workers():
            if worker.pair >= pairs:
                worker.rest()
            else:
                worker.look()

    @on_loop
    def set_guest_offloads(self, bits: int) -> None:
        """What frames may leave to the driver from now on."""
        if self.backend is not None and self.added_header_bytes == 0:
            self.backend.set_offloads(f.accepted_offloads(bits))

    @on_loop
    def announced(self) -> None:
        """The driver has announced itself to the network (§5.1.6.5.4)."""
        with self.ctx.lock:
            self.link_status &= ~STATUS_ANNOUNCE

    @on_loop
    def filter_changed(self) -> None:
        """Managers are told once, until they ask for the filter."""
        if self.tells_changes:
            self.tells_changes = False
            self.ctx.events.emit(NicRxFilterChangedEvent(name=self.id, path=self.qom_path))

    # -- the network -----------------------------------------------------------------------------------------

    @locked
    def link_changed(self, up: bool) -> None:
        old = self.link_status
        self.link_status = old & ~STATUS_LINK_UP | (STATUS_LINK_UP if up else 0)
        if self.link_status != old:
            self.config_changed()

    @on_loop
    def announce(self) -> None:
        """Send a RARP frame, and have the driver announce itself, where it can (§5.1.6.5.4)."""
        queue = self.queue(0)
        if queue is not None:
            queue.write([memoryview(bytes(self._told_bytes) + rarp_frame(self.mac))])
        with self.ctx.lock:
            if self.status & Status.DRIVER_OK and self.negotiated(f.F_GUEST_ANNOUNCE) and self.negotiated(f.F_CTRL_VQ):
                self.link_status |= STATUS_ANNOUNCE
                self.config_changed()

    @on_loop
    def rx_filter(self) -> ReceiveFilter:
        """What it is now; its next change is told."""
        self.tells_changes = True
        return self.filter.shown()

    @locked
    def detach(self) -> None:
        """The netdev goes, or the device does: nothing of it is used from now on."""
        queues, self._queues, self._direct, self.backend = self._queues, [], [], None
        for worker in self._workers():
            worker.rest()
            self.ctx.loop.post(worker.look)  # what waited for room goes nowhere now
        for queue in queues:
            queue.watch(False)
            queue.detach()

    @on_loop
    def take_rings_back(self, done: Callable[[], None]) -> None:
        """The netdev was taken away, which had the rings: they are this device's again. ``done()`` when the netdev is
        not needed any more."""

        def back() -> None:
            with self.ctx.lock:
                self._serve_here()
            done()

        # ORDERING: only one of the two may touch a ring, and a back end may be another process
        pause_all(list(self.workers.values()), back)

    @locked
    def _serve_here(self) -> None:
        """The rings that were served outside are at rest."""
        outside = {index: each for index, each in self.workers.items() if isinstance(each, VhostWorker)}
        for index, worker in outside.items():
            self.transport.detach_doorbell(index)
            worker.abandon()
            self.queues[index].position = worker.ring.last_avail, worker.ring.used_index
            del self.workers[index]
        if outside and not self.busy:
            self.activate()

    def _workers(self) -> list[NetWorker]:
        """Of the queues that are served here."""
        return [each for each in list(self.workers.values()) if isinstance(each, NetWorker)]

    # -- the VM stops and runs; on the loop, without the lock ------------------------------------------------

    def quiesce(self, done: Callable[[], None]) -> None:
        self.paused = True
        for worker in self._workers():
            worker.rest()
        pause_all(list(self.workers.values()), done)

    def resume(self) -> None:
        self.paused = False
        if self.workers:
            self._prepare()
        for worker in list(self.workers.values()):
            if not isinstance(worker, VhostWorker):
                worker.look()
            elif self.backend is not None:
                worker.resume()

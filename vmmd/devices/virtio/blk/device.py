# SPDX-License-Identifier: Apache-2.0
"""virtio-blk (virtio 1.2 §5.2) on PCI: ``virtio-blk-pci`` and its -transitional and -non-transitional names.

Implemented: read, write, flush, get-id, discard, write-zeroes, several queues, the switchable write cache, resizing.
Not implemented: SCSI pass-through (answered UNSUPP), zoned storage, secure erase, lifetime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.props import BOOL, BOOT_INDEX, DRIVE, IOTHREAD, ON_OFF_AUTO, SIZE, STR, U16, U32, prop
from vmmd.devices.disk_props import AUTO_GRANULARITY, ERROR_POLICY, error_policy
from vmmd.devices.virtio.blk import traced
from vmmd.devices.virtio.blk.config import (
    AUTO_QUEUES,
    F_CONFIG_WCE,
    F_FLUSH,
    SECTORS_PER_COMMAND_MAX,
    WRITEBACK_OFFSET,
    BlkOptions,
    resolve,
)
from vmmd.devices.virtio.blk.request import ID_BYTES, Limits
from vmmd.devices.virtio.blk.worker import BlkWorker
from vmmd.devices.virtio.device import VirtioDevice
from vmmd.devices.virtio.pci_transport import VirtioPciDevice, variants
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import DriveHandle
    from vmmd.core.device import DeviceContext
    from vmmd.devices.virtio.queue import VirtQueue
    from vmmd.log import Logger


class VirtioBlk(VirtioDevice):
    """A disk. What the loop's workers use (``backend`` … ``paused``) belongs to the loop while queues are active."""

    virtio_id = 2

    def __init__(self, ctx: DeviceContext, log: Logger, drive: DriveHandle, options: BlkOptions) -> None:
        super().__init__(ctx, log, [options.queue_size] * options.queues)
        self.drive = drive
        self.options = options
        self.backend = drive.backend
        self.stats = drive.stats
        self.serial = b"\0" * ID_BYTES
        self.rerror = self.werror = "report"
        self.block_mask = options.block_bytes - 1
        self.write_cache = options.write_cache
        self.flush_after_write = False
        #: every worker that may have requests in flight: the active ones, and those being handed back
        self.live: list[BlkWorker] = []
        self._quiesced: Callable[[], None] | None = None
        self._gone = False
        self._measure()

    def _measure(self) -> None:
        """Take over the disk's size."""
        options = self.options
        self.size_bytes = self.backend.size_bytes
        self.limits = Limits(
            self.size_bytes,
            options.block_bytes,
            options.discard,
            options.write_zeroes,
            options.max_discard_sectors,
            options.max_write_zeroes_sectors,
        )
        self._set_write_cache(self.write_cache)

    def _set_write_cache(self, on: bool) -> None:
        self.write_cache = on
        self.flush_after_write = not on and not self.backend.writes_through
        self._config = self.options.config(self.size_bytes, on)

    # -- VirtioDevice --------------------------------------------------------------------------------------

    def make_worker(self, index: int, ring: VirtQueue) -> BlkWorker:
        worker = self._worker_class()(self, index, ring)
        self.live.append(worker)
        return worker

    def read_config(self, offset: int, size: int) -> int:
        data = self._config[offset : offset + size]
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Only ``writeback`` can be written, where it is offered (§5.2.5)."""
        if offset <= WRITEBACK_OFFSET < offset + size and self.options.config_wce:
            self._set_write_cache(bool(value >> (8 * (WRITEBACK_OFFSET - offset)) & 0xFF))

    def driver_ready(self) -> None:
        """§5.2.5.2: a driver that can neither flush nor switch the cache needs durable writes."""
        if not self.driver_features & F_CONFIG_WCE:
            self._set_write_cache(self.options.write_cache and bool(self.driver_features & F_FLUSH))

    def reset_device(self) -> None:
        self._set_write_cache(self.options.write_cache)

    def reset_by_machine(self) -> None:
        super().reset_by_machine()
        for worker in self.live:
            worker.pin(self.backend)
        self.live.clear()
        self._quiesced = None

    # -- the VM stops, runs, and the disk grows; on the loop, without the lock ------------------------------

    def quiesce(self, done: Callable[[], None]) -> None:
        """Take no more chains; ``done()`` when nothing is in flight."""
        self.paused = True
        self._quiesced = done
        self.check_idle()

    def check_idle(self) -> None:
        """Tell the quiescer once every queue is idle."""
        if self._quiesced is not None and not any(worker.in_flight for worker in self.live):
            done, self._quiesced = self._quiesced, None
            done()

    def resume(self) -> None:
        self.paused = False
        if self.drive.io_status is not None:
            self.drive.io_status = "ok"
        for worker in list(self.live):
            worker.resume()

    def resized(self) -> None:
        """The backend has another size."""
        if not self._gone:
            with self.ctx.lock:
                self._measure()
                self.config_changed()

    def lost_medium(self) -> None:
        """The drive was taken away (drive_del): from now on every request fails, and the guest is told so."""
        self.backend = self.drive.backend
        self.rerror = self.werror = "report"

    def requests_switched(self) -> None:
        """Reports of requests are wanted, or no longer. On the loop."""
        cls = self._worker_class()
        for worker in self.live:
            worker.__class__ = cls  # same layout

    def _worker_class(self) -> type[BlkWorker]:
        wanted = any(event.is_on(self.transport.name) for event in traced.EVENTS)
        return traced.TracedBlkWorker if wanted else BlkWorker

    def detach(self) -> None:
        """The device is unplugged: the backend's later calls mean nothing."""
        self._gone = True


class VirtioBlkPci(VirtioPciDevice):
    """A virtio disk on PCI; transitional unless the properties say otherwise."""

    type_name = "virtio-blk-pci"
    description = "virtio block device"
    category = "storage"
    user_creatable = True
    transitional_id = 0x1001
    global_types = ("virtio-pci", "virtio-device", "virtio-blk-device")
    class_code = 0x010000

    class Props(VirtioPciDevice.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        drive = prop(DRIVE, None, "Node name or ID of a block device to use as a backend", required=True)
        serial = prop(STR, None, "serial number, 20 bytes of it reach the guest")
        bootindex = prop(BOOT_INDEX, None, "place in the boot order, 0 first", live=True)
        num_queues = prop(U16, AUTO_QUEUES, "request queues; default: one for each vCPU")
        queue_size = prop(U16, 256, "descriptors in each queue, a power of two")
        seg_max_adjust = prop(BOOL, True, "segments of a request follow the queue size")
        config_wce = prop(BOOL, True, "the guest may switch the write cache")
        write_cache = prop(ON_OFF_AUTO, "auto", "volatile write cache; auto: as the drive's cache mode says")
        scsi = prop(BOOL, False, "SCSI pass-through; only off")
        discard = prop(BOOL, True, "offer VIRTIO_BLK_F_DISCARD")
        write_zeroes = prop(BOOL, True, "offer VIRTIO_BLK_F_WRITE_ZEROES")
        max_discard_sectors = prop(U32, SECTORS_PER_COMMAND_MAX, "most sectors of one discard")
        max_write_zeroes_sectors = prop(U32, SECTORS_PER_COMMAND_MAX, "most sectors of one write-zeroes")
        logical_block_size = prop(SIZE, 0, "A power of two between 512 B and 2 MiB", wire="logical_block_size")
        physical_block_size = prop(SIZE, 0, "A power of two between 512 B and 2 MiB", wire="physical_block_size")
        min_io_size = prop(SIZE, 0, "smallest good transfer in bytes", wire="min_io_size")
        opt_io_size = prop(SIZE, 0, "best transfer in bytes", wire="opt_io_size")
        discard_granularity = prop(SIZE, AUTO_GRANULARITY, "alignment of discards", wire="discard_granularity")
        cyls = prop(U32, 0, "cylinders shown to the guest; 0: computed")
        heads = prop(U32, 0, "heads shown to the guest")
        secs = prop(U32, 0, "sectors a track shown to the guest")
        rerror = prop(ERROR_POLICY, "auto", "Error handling policy, report/ignore/enospc/stop/auto")
        werror = prop(ERROR_POLICY, "auto", "Error handling policy, report/ignore/enospc/stop/auto")
        share_rw = prop(BOOL, False, "others may write to the image")
        request_merging = prop(BOOL, True, "neighbouring requests become one")
        iothread = prop(IOTHREAD, None, "not available in this version")

    UNAVAILABLE = (*VirtioPciDevice.UNAVAILABLE, "iothread")
    inner_type = "virtio-blk-device"
    parent_type = "virtio-blk-pci-base"

    props: VirtioBlkPci.Props
    virtio: VirtioBlk

    def make_virtio(self) -> VirtioBlk:
        props, ctx = self.props, self.ctx
        if props.scsi:
            raise UsageError("Please set scsi=off for virtio-blk devices in order to use virtio 1.0")
        if not props.drive:
            raise UsageError("drive property not set")
        drive = ctx.backends.drive(props.drive, "virtio-blk-device", share_rw=props.share_rw)
        self.on_undo(lambda: ctx.backends.release(drive))
        self.options = resolve(self, drive)
        self.resolved |= self.options.shown(drive.backend.size_bytes)
        virtio = VirtioBlk(ctx, self.log, drive, self.options)
        drive.qdev = f"{self.qom_path}/{self.inner_name}"
        virtio.offered, virtio.offered_legacy = self.features(self.options.features)
        virtio.serial = (props.serial or drive.serial or "").encode()[:ID_BYTES].ljust(ID_BYTES, b"\0")
        virtio.rerror = error_policy(props.rerror, drive.rerror, "report")
        virtio.werror = error_policy(props.werror, drive.werror, "enospc")
        if {"stop", "enospc"} & {virtio.rerror, virtio.werror}:  # else nothing ever stops, and there is nothing to show
            drive.io_status = "ok"
            self.on_undo(lambda: setattr(drive, "io_status", None))
        self.claim_boot_index(props.bootindex)
        self.on_undo(virtio.detach)
        for event in traced.EVENTS:
            self.on_undo(event.watch(virtio.requests_switched))
        drive.on_lost(virtio.lost_medium)
        drive.backend.on_resize(virtio.resized)
        return virtio

    @property
    def virtio_config_bytes(self) -> int:
        return self.options.config_bytes


VirtioBlkPciTransitional, VirtioBlkPciNonTransitional = variants(VirtioBlkPci)

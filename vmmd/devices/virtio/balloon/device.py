# SPDX-License-Identifier: Apache-2.0
"""virtio-balloon (virtio 1.2 §5.5) on PCI: the guest gives memory back to the host when it is asked to.

Queues: inflate, deflate, statistics, and free page reporting if ``free-page-reporting=on``. What the guest gives is
given to the host (``GuestPages``). The target is set by QMP ``balloon``; how far the guest has come is in its
configuration. Statistics come every ``guest-stats-polling-interval`` seconds of virtual time, when the guest answers.

Not implemented: free page hints (of use to migration only), an iothread. MUST_TELL_HOST is not offered: a page is there
again as soon as the guest touches it. QEMU-COMPAT: no MSI-X, as there.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from vmmd.core.events import BalloonChangeEvent
from vmmd.core.props import BOOL, IOTHREAD, int_type, prop
from vmmd.core.trace_events import VIRTIO_BALLOON_SET_CONFIG, VIRTIO_BALLOON_TO_TARGET
from vmmd.core.tree import Property
from vmmd.devices.virtio.balloon.pages import PAGE_SHIFT, GuestPages
from vmmd.devices.virtio.balloon.worker import BalloonWorker, PageWorker, StatisticsWorker
from vmmd.devices.virtio.device import VirtioDevice
from vmmd.devices.virtio.pci_transport import VirtioPciDevice, variants
from vmmd.errors import UsageError
from vmmd.units import NS_PER_S, U64_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vmmd.core.device import DeviceContext
    from vmmd.core.props import Prop
    from vmmd.core.tree import Node
    from vmmd.devices.virtio.chain import Pairs
    from vmmd.devices.virtio.queue import VirtQueue
    from vmmd.log import Logger

# feature bits (§5.5.3)
F_STATS_VQ = 1 << 1
F_DEFLATE_ON_OOM = 1 << 2
F_PAGE_POISON = 1 << 4
F_PAGE_REPORTING = 1 << 5

INFLATE, DEFLATE, STATISTICS, REPORTING = range(4)
QUEUE_SIZE = 128
REPORTING_QUEUE_SIZE = 32

#: num_pages, actual, free_page_hint_cmd_id, poison_val (§5.5.4)
_CONFIG = struct.Struct("<IIII")
_CONFIG_BYTES_BASE = 8  # num_pages and actual
_U32_MAX = 0xFFFF_FFFF

#: names of the statistics by their tags (§5.5.6.3.1), as QEMU has them
STATISTICS_NAMES = (
    "stat-swap-in", "stat-swap-out", "stat-major-faults", "stat-minor-faults", "stat-free-memory",
    "stat-total-memory", "stat-available-memory", "stat-disk-caches", "stat-htlb-pgalloc", "stat-htlb-pgfail",
)  # fmt: skip
UNKNOWN = U64_MAX  # of a statistic that the guest has not told

SECONDS = int_type("int", -(1 << 63), (1 << 63) - 1)
INTERVAL_MAX_S = 0xFFFF_FFFF


def check_interval(seconds: int) -> None:
    """Raises UsageError."""
    # QEMU-COMPAT: the sentences
    if seconds < 0:
        raise UsageError("timer value must be greater than zero", "0 switches the statistics off")
    if seconds > INTERVAL_MAX_S:
        raise UsageError("timer value is too big", f"it is in seconds, {INTERVAL_MAX_S} at most")


class VirtioBalloon(VirtioDevice):
    """The device behind the transport. ``paused`` and ``pages`` belong to the loop, the rest is under the
    DeviceLock."""

    virtio_id = 5

    def __init__(self, ctx: DeviceContext, log: Logger, pages: GuestPages, config_bytes: int, reporting: bool) -> None:
        sizes = [QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE]
        super().__init__(ctx, log, [*sizes, REPORTING_QUEUE_SIZE] if reporting else sizes)
        self.pages = pages
        self.target_pages = 0  # in the balloon, as the host wants it
        self.actual_pages = 0  # as the guest says
        self.poison = 0  # what the guest fills free pages with
        self._config_bytes = config_bytes
        self.interval_s = 0
        self._poll = ctx.clock.timer(self._poll_guest)
        self._statistics = dict.fromkeys(STATISTICS_NAMES, UNKNOWN)
        self._updated_s = 0

    # -- queues --------------------------------------------------------------------------------------------

    def make_worker(self, index: int, ring: VirtQueue) -> BalloonWorker:
        if index == STATISTICS:
            return StatisticsWorker(self, index, ring)
        memory, pages = self.transport.dma, self.pages

        def report(readable: Pairs, writable: Pairs) -> Iterator[None]:
            return pages.report([] if self.poison else writable)  # a page that comes anew would not be poisoned

        serve: dict[int, Callable[[Pairs, Pairs], Iterator[None]]] = {
            INFLATE: lambda readable, _: pages.inflate(memory, readable),
            DEFLATE: lambda readable, _: pages.deflate(memory, readable),
            REPORTING: report,
        }
        return PageWorker(self, index, ring, serve[index])

    def reset_device(self) -> None:
        """QEMU-COMPAT: the target, what the guest said, and the last statistics stay."""
        self.poison = 0
        self.pages.forget()

    # -- configuration -------------------------------------------------------------------------------------

    def _config(self) -> bytearray:
        return bytearray(_CONFIG.pack(self.target_pages, self.actual_pages, 0, self.poison)[: self._config_bytes])

    def read_config(self, offset: int, size: int) -> int:
        data = self._config()[offset : offset + size] if offset >= 0 else b""
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        config = self._config()
        part = value.to_bytes(size, "little")[: max(0, len(config) - offset)]
        config[offset : offset + len(part)] = part
        _, actual, _, poison = _CONFIG.unpack(config.ljust(_CONFIG.size, b"\0"))
        if self.driver_features & F_PAGE_POISON:
            self.poison = poison
        if VIRTIO_BALLOON_SET_CONFIG.on:
            VIRTIO_BALLOON_SET_CONFIG(self.transport.name, actual, self.actual_pages)
        if actual != self.actual_pages:
            self.actual_pages = actual
            self.ctx.events.emit(BalloonChangeEvent(self.actual_bytes))

    # -- the commands' side (core.balloon.Balloon) ---------------------------------------------------------

    @property
    def actual_bytes(self) -> int:
        return max(0, self.ctx.memory.size_bytes - (self.actual_pages << PAGE_SHIFT))

    def set_target(self, left_bytes: int) -> None:
        ram_bytes = self.ctx.memory.size_bytes
        self.target_pages = min((ram_bytes - min(left_bytes, ram_bytes)) >> PAGE_SHIFT, _U32_MAX)
        if VIRTIO_BALLOON_TO_TARGET.on:
            VIRTIO_BALLOON_TO_TARGET(self.transport.name, left_bytes, self.target_pages)
        self.config_changed()

    # -- statistics ----------------------------------------------------------------------------------------

    def poll_every(self, seconds: int) -> None:
        """Ask the guest for statistics so often; 0: never. QEMU-COMPAT: when it begins, at once."""
        if seconds == self.interval_s:
            return
        wait_s = seconds if self.interval_s else 0
        self.interval_s = seconds
        if seconds:
            self._poll.arm(self.ctx.clock.now_ns() + wait_s * NS_PER_S)
        else:
            self._poll.cancel()

    def _poll_guest(self) -> None:
        """It is time. A guest that does not answer is not asked again before it has."""
        worker = self.workers.get(STATISTICS)
        if isinstance(worker, StatisticsWorker) and worker.waiting and self.driver_features & F_STATS_VQ:
            self.ctx.loop.post(worker.want)
        else:
            self._poll_later()

    def _poll_later(self) -> None:
        if self.interval_s:
            self._poll.arm(self.ctx.clock.now_ns() + self.interval_s * NS_PER_S)

    def statistics_arrived(self, statistics: Iterable[tuple[int, int]]) -> None:
        """(tag, value) of the guest; tags that nobody knows are left out. Loop, without the lock."""
        found = dict.fromkeys(STATISTICS_NAMES, UNKNOWN)
        for tag, value in statistics:
            if tag < len(STATISTICS_NAMES):
                found[STATISTICS_NAMES[tag]] = value
        with self.ctx.lock:
            self._statistics = found
            self._updated_s = self.ctx.clock.host_ns() // NS_PER_S
            self._poll_later()

    def guest_stats(self) -> dict[str, object]:
        """``guest-stats``: the last statistics, and when they came. Loop, without the lock."""
        with self.ctx.lock:
            return {"stats": dict(self._statistics), "last-update": self._updated_s}

    def detach(self) -> None:
        """The device is unplugged."""
        self._poll.cancel()


class VirtioBalloonPci(VirtioPciDevice):
    """A memory balloon on PCI; transitional unless the properties say otherwise. A machine has one at most."""

    type_name = "virtio-balloon-pci"
    description = "virtio memory balloon"
    category = "misc"
    user_creatable = True
    transitional_id = 0x1002
    global_types = ("virtio-pci", "virtio-device", "virtio-balloon-device")
    class_code = 0x00FF00
    inner_type = "virtio-balloon-device"
    parent_type = "virtio-balloon-pci-base"
    KEPT_AT_RESET = (
        *VirtioPciDevice.KEPT_AT_RESET,
        *(f"virtio.{name}" for name in ("target_pages", "actual_pages", "_statistics", "_updated_s", "_poll")),
        "virtio.pages._told",
    )
    UNAVAILABLE = (*VirtioPciDevice.UNAVAILABLE, "iothread", "free-page-hint")

    class Props(VirtioPciDevice.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        deflate_on_oom = prop(BOOL, False, "the guest may take memory back before it runs out of it")
        free_page_hint = prop(BOOL, False, "not available in this version")
        free_page_reporting = prop(BOOL, False, "the guest tells of memory that it does not use")
        page_poison = prop(BOOL, True, "the guest tells what it fills free pages with")
        qemu_4_0_config_size = prop(BOOL, False, "device configuration has its full length whatever is offered")
        guest_stats_polling_interval = prop(
            SECONDS, 0, "seconds between two requests for statistics; 0: none", live=True
        )
        iothread = prop(IOTHREAD, None, "not available in this version")
        dropped = ("vectors", "ioeventfd")

    props: VirtioBalloonPci.Props
    virtio: VirtioBalloon

    def make_virtio(self) -> VirtioBalloon:
        props, ctx = self.props, self.ctx
        check_interval(props.guest_stats_polling_interval)
        pages = GuestPages(self.name, ctx.memory, self.log)
        virtio = VirtioBalloon(ctx, self.log, pages, self.virtio_config_bytes, props.free_page_reporting)
        self.on_undo(ctx.balloon.connect(virtio))
        self.on_undo(virtio.detach)
        virtio.offered, virtio.offered_legacy = self.features(
            F_STATS_VQ
            | (F_DEFLATE_ON_OOM if props.deflate_on_oom else 0)
            | (F_PAGE_POISON if props.page_poison else 0)
            | (F_PAGE_REPORTING if props.free_page_reporting else 0)
        )
        virtio.poll_every(props.guest_stats_polling_interval)
        return virtio

    def _add_msix(self) -> None:
        """There is none."""

    @property
    def virtio_config_bytes(self) -> int:
        full = self.props.page_poison or self.props.qemu_4_0_config_size
        return _CONFIG.size if full else _CONFIG_BYTES_BASE

    def change_property(self, declared: Prop[Any], value: object) -> None:
        if declared.name == "guest_stats_polling_interval":
            assert isinstance(value, int)  # its type
            check_interval(value)
            with self.ctx.lock:
                self.virtio.poll_every(value)
        super().change_property(declared, value)

    # -- the object tree -----------------------------------------------------------------------------------

    def extra_properties(self) -> Iterable[Property]:
        yield from super().extra_properties()
        yield from self._statistics_property()

    def _statistics_property(self) -> Iterable[Property]:
        yield Property("guest-stats", "guest statistics", self._guest_stats)

    def _guest_stats(self) -> object:
        return self.virtio.guest_stats()

    def parts(self) -> Iterable[tuple[str, Node]]:
        for name, node in super().parts():
            if node.type_name == self.inner_type:
                node.extend(self._statistics_property)
            yield name, node


VirtioBalloonPciTransitional, VirtioBalloonPciNonTransitional = variants(VirtioBalloonPci)

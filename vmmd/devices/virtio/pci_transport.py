# SPDX-License-Identifier: Apache-2.0
"""virtio over PCI (virtio 1.2 §4.1): the function that carries a VirtioDevice.

BAR 0: legacy registers (I/O). BAR 1: MSI-X table and pending bits. BAR 4: 16 KiB of 64-bit prefetchable memory with one
page each for common configuration, ISR, device configuration and notifications. Five vendor capabilities point there;
the fifth (PCI configuration access) is a window for firmware that cannot reach the BAR.

Not implemented: notification data, MMIO notifications by queue pages (page-per-vq), the shared-memory capability.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from vmmd.core.device_tree import device_node
from vmmd.core.props import BOOL, ON_OFF_AUTO, STR, U32, prop
from vmmd.core.trace_events import VIRTIO_NOTIFY, VIRTIO_SET_STATUS
from vmmd.core.tree import BusNode
from vmmd.devices.pci import regs
from vmmd.devices.pci.device import PciDevice
from vmmd.devices.pci.msix import ENTRY_BYTES, MAX_VECTORS, Msix
from vmmd.devices.virtio.common_layout import CommonRegisters
from vmmd.devices.virtio.device import (
    F_ANY_LAYOUT,
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    F_NOTIFY_ON_EMPTY,
    F_RING_RESET,
    F_VERSION_1,
    NO_VECTOR,
    OutsideWorker,
    Status,
)
from vmmd.devices.virtio.legacy_layout import CONFIG_OFFSET, CONFIG_OFFSET_MSIX, LegacyRegisters
from vmmd.devices.virtio.legacy_layout import Reg as LegacyReg
from vmmd.errors import BackendError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.notify import Doorbell
    from vmmd.core.props import Prop, PropSet
    from vmmd.core.tree import Node
    from vmmd.devices.virtio.device import QueueState, VirtioDevice

VENDOR_VIRTIO = 0x1AF4
#: modern device id = 0x1040 + virtio id (§4.1.2.1)
MODERN_ID_BASE = 0x1040
MODERN_SUBSYSTEM = 0x1100

BAR_LEGACY, BAR_MSIX, BAR_MODERN = 0, 1, 4
MODERN_BAR_BYTES = 0x4000
PAGE_BYTES = 0x1000
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
NOTIFY_MULTIPLIER = 4
MSIX_PBA_OFFSET = 0x800
AUTO_VECTORS = 0xFFFF_FFFF


class Cap(enum.IntEnum):
    """cfg_type of the vendor capabilities (§4.1.4)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


CAP_VENDOR = 0x09
# fields of a vendor capability
CAP_LENGTH, CAP_TYPE, CAP_BAR, CAP_OFFSET, CAP_SIZE, CAP_EXTRA = 2, 3, 4, 8, 12, 16

ISR_QUEUE, ISR_CONFIG = 1, 2


class VirtioPciDevice(PciDevice):
    """Base of the virtio-*-pci types: registers, interrupts and doorbells around ``self.virtio``."""

    vendor_id = VENDOR_VIRTIO
    #: counters, and what tells one configuration from another (a driver may have read it before the reset)
    KEPT_AT_RESET: ClassVar[tuple[str, ...]] = ("virtio.counters", "virtio.config_generation", "virtio._warned")
    inner_name = "virtio-backend"
    #: device id of the transitional form (§4.1.2.3)
    transitional_id = 0
    #: "transitional" or "non-transitional" where the type's name says so
    forced_interface: str | None = None

    class Props(PciDevice.Props):
        """Properties of every virtio PCI function, as QEMU names them."""

        disable_legacy = prop(ON_OFF_AUTO, "auto", "on: no legacy interface")
        disable_modern = prop(BOOL, False, "on: no virtio 1.0 interface")
        ioeventfd = prop(BOOL, True, "on: notifications do not leave the kernel")
        vectors = prop(U32, AUTO_VECTORS, "MSI-X vectors; 0: none; default: one for each queue and one")
        event_idx = prop(BOOL, True, "offer VIRTIO_F_EVENT_IDX", wire="event_idx")
        indirect_desc = prop(BOOL, True, "offer VIRTIO_F_INDIRECT_DESC", wire="indirect_desc")
        notify_on_empty = prop(BOOL, True, "offer VIRTIO_F_NOTIFY_ON_EMPTY (legacy)", wire="notify_on_empty")
        any_layout = prop(BOOL, True, "offer VIRTIO_F_ANY_LAYOUT (legacy)", wire="any_layout")
        queue_reset = prop(BOOL, True, "offer VIRTIO_F_RING_RESET", wire="queue_reset")
        iommu_platform = prop(BOOL, False, "not available in this version", wire="iommu_platform")
        packed = prop(BOOL, False, "not available in this version")
        ats = prop(BOOL, False, "not available in this version")
        aer = prop(BOOL, False, "not available in this version")
        page_per_vq = prop(BOOL, False, "not available in this version")
        modern_pio_notify = prop(BOOL, False, "not available in this version")
        failover_pair_id = prop(STR, None, "not available in this version", wire="failover_pair_id")

    #: properties that the device behind the transport has, whatever its type
    INNER: ClassVar[tuple[str, ...]] = (
        "event_idx",
        "indirect_desc",
        "notify_on_empty",
        "any_layout",
        "queue_reset",
        "iommu_platform",
        "packed",
    )

    UNAVAILABLE: ClassVar[tuple[str, ...]] = (
        "iommu_platform",
        "packed",
        "ats",
        "aer",
        "page-per-vq",
        "modern-pio-notify",
        "failover_pair_id",
    )

    props: VirtioPciDevice.Props
    virtio: VirtioDevice

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.isr = 0
        self.queue_select = 0
        self.config_vector = NO_VECTOR
        self.msix: Msix | None = None
        #: which interface the driver set the queues up with: only that one gets doorbells
        self.uses_legacy = False
        self._doorbells: dict[int, Doorbell] = {}
        self._pci_cap = 0  # offset of the PCI configuration access capability

    # -- life ----------------------------------------------------------------------------------------------

    def make_virtio(self) -> VirtioDevice:
        """The device itself; claims backends. Raises VmmdError. Lock held."""
        raise NotImplementedError

    def realize(self) -> None:
        self._check_props()
        super().realize()
        self.virtio = self.make_virtio()
        self.virtio.transport = self
        self.on_undo(self.ctx.requests.on_quiesce(self.virtio.quiesce))
        self.on_undo(self.ctx.requests.on_resume(self.virtio.resume))
        modern, legacy = self._interfaces()
        config = self.config
        virtio_id = self.virtio.virtio_id
        config.define(regs.REG_DEVICE_ID, 2, self.transitional_id if legacy else MODERN_ID_BASE + virtio_id)
        config.define(regs.REG_REVISION, 1, 0 if legacy else 1)
        config.define(regs.REG_SUBSYSTEM_VENDOR_ID, 2, VENDOR_VIRTIO)
        config.define(regs.REG_SUBSYSTEM_ID, 2, virtio_id if legacy else MODERN_SUBSYSTEM)
        self.use_intx()
        self._common = CommonRegisters(self)
        if modern:
            self._add_modern()
        self._add_msix()
        if legacy:
            self._add_legacy()
        self._link_newest_first()
        self.resolved |= {
            "disable_legacy": "off" if legacy else "on",
            "disable_modern": not modern,
            "vectors": self.msix.vectors if self.msix is not None else 0,
        }
        self.on_undo(self.virtio.reset_by_machine)

    def wind_down(self, done: Callable[[], None]) -> None:
        self.virtio.wind_down(done)

    def _check_props(self) -> None:
        for name in self.UNAVAILABLE:
            declared = self.props.declared[name]
            if self.props.values.get(declared.name, declared.default) != declared.default:
                raise UsageError(f"{self.type_name}: property '{name}' is not available in this version")
        if self.props.vectors > MAX_VECTORS and self.props.vectors != AUTO_VECTORS:
            self.log.warning("unable to init msix vectors to %d", self.props.vectors)  # QEMU-COMPAT: goes on without

    def features(self, device_bits: int) -> tuple[int, int]:
        """Bits offered through the modern and through the legacy interface: the device's own, and what the properties
        say."""
        props = self.props
        common = device_bits
        if props.indirect_desc:
            common |= F_INDIRECT_DESC
        if props.event_idx:
            common |= F_EVENT_IDX
        modern = common | F_VERSION_1 | (F_RING_RESET if props.queue_reset else 0)
        legacy = common | (F_ANY_LAYOUT if props.any_layout else 0)
        return modern, legacy | (F_NOTIFY_ON_EMPTY if props.notify_on_empty else 0)

    # -- the object tree -----------------------------------------------------------------------------------

    def parts(self) -> Iterable[tuple[str, Node]]:
        """The inner device on its bus, as ``virtio-backend`` and ``virtio-bus``."""
        bus = BusNode("virtio-pci-bus")
        inner = device_node(self, bus, self.inner_type, self.is_inner)
        bus.attach(inner)
        return (("virtio-bus", bus), ("virtio-backend", inner))

    @classmethod
    def is_inner(cls, declared: Prop[Any]) -> bool:
        return declared.wire_name in cls.INNER or declared.wire_name not in VirtioPciDevice.Props.declared

    def _interfaces(self) -> tuple[bool, bool]:
        """(modern, legacy)."""
        if self.forced_interface is not None:
            return True, self.forced_interface == "transitional"
        modern, legacy = not self.props.disable_modern, self.props.disable_legacy != "on"
        if not (modern or legacy):
            raise UsageError(
                f"{self.name}: device cannot work as neither modern nor legacy mode is enabled",
                "Set either disable-modern or disable-legacy to off",
            )
        return modern, legacy

    def reset(self, kind: ResetKind) -> None:
        self.virtio.reset_by_machine()  # first: it must not wait for the loop when bus mastering goes off
        super().reset(kind)
        if self.msix is not None:
            self.msix.reset()

    def reset_registers(self) -> None:
        """The registers of this side that a reset of the device clears. Lock held."""
        self._common.reset()
        self.isr = 0
        self.intx.lower()
        self.queue_select = 0
        self.config_vector = NO_VECTOR
        self.uses_legacy = False

    # -- BARs and capabilities -----------------------------------------------------------------------------

    def _add_modern(self) -> None:
        self.add_bar(
            BAR_MODERN,
            MODERN_BAR_BYTES,
            "mem64",
            self._modern_read,
            self._modern_write,
            name=f"{self.type_name} modern",
            max_width=8,
            prefetch=True,
        )
        for kind, offset, length in (
            (Cap.COMMON, COMMON, 16),
            (Cap.ISR, ISR, 16),
            (Cap.DEVICE, DEVICE, 16),
            (Cap.NOTIFY, NOTIFY, 20),
        ):
            self._add_vendor_cap(kind, offset, length)
        at = self._pci_cap = self._add_vendor_cap(Cap.PCI, 0, 20)
        self.config.define(at + CAP_BAR, 1, 0, 0xFF)
        self.config.define(at + CAP_OFFSET, 4, 0, 0xFFFF_FFFF)
        self.config.define(at + CAP_SIZE, 4, 0, 0xFFFF_FFFF)
        self.config.define(at + CAP_EXTRA, 4, 0, 0xFFFF_FFFF)
        self.watch_config(at + CAP_EXTRA, 4, self._pci_window_written)

    def _add_vendor_cap(self, kind: Cap, offset: int, length: int) -> int:
        at = self.add_capability(CAP_VENDOR, length)
        config = self.config
        config.define(at + CAP_LENGTH, 1, length)
        config.define(at + CAP_TYPE, 1, kind)
        config.define(at + CAP_BAR, 1, BAR_MODERN)
        config.define(at + CAP_OFFSET, 4, offset)
        config.define(at + CAP_SIZE, 4, PAGE_BYTES)
        if kind == Cap.NOTIFY:
            config.define(at + CAP_EXTRA, 4, NOTIFY_MULTIPLIER)
        return at

    def _add_msix(self) -> None:
        vectors = self.props.vectors
        if vectors == AUTO_VECTORS:
            vectors = min(self.default_vectors, MAX_VECTORS)
        if not 0 < vectors <= MAX_VECTORS:
            return
        pba_offset = max(MSIX_PBA_OFFSET, vectors * ENTRY_BYTES)
        end = pba_offset + (vectors + 63) // 64 * 8
        size_bytes = max(PAGE_BYTES, 1 << (end - 1).bit_length())
        self.add_bar(BAR_MSIX, size_bytes, "mem32", name=f"{self.type_name} msix")
        self.msix = Msix(self, BAR_MSIX, vectors, 0, pba_offset)
        self.msix.on_change = self._vectors_changed

    @property
    def default_vectors(self) -> int:
        """MSI-X vectors when ``vectors`` is not given."""
        return len(self.virtio.queues) + 1

    def _add_legacy(self) -> None:
        legacy = LegacyRegisters(self)
        end = (CONFIG_OFFSET if self.msix is None else CONFIG_OFFSET_MSIX) + self.virtio_config_bytes
        size_bytes = 1 << (end - 1).bit_length()
        self.add_bar(
            BAR_LEGACY, size_bytes, "io", legacy.read, legacy.write, name=f"{self.type_name} legacy", max_width=4
        )

    @property
    def virtio_config_bytes(self) -> int:
        """Length of the device configuration."""
        raise NotImplementedError

    def _link_newest_first(self) -> None:
        """QEMU-COMPAT: each new capability is linked in front; configuration spaces are compared byte by byte."""
        config = self.config
        chain: list[int] = []
        at = config.get(regs.REG_CAPABILITIES, 1)
        while at:
            chain.append(at)
            at = config.get(at + 1, 1)
        if chain:
            config.define(regs.REG_CAPABILITIES, 1, chain[-1])
            for before, at in zip([0, *chain], chain, strict=False):
                config.define(at + 1, 1, before)

    # -- registers -----------------------------------------------------------------------------------------

    @property
    def selected_queue(self) -> QueueState | None:
        queues = self.virtio.queues
        return queues[self.queue_select] if self.queue_select < len(queues) else None

    @property
    def msix_enabled(self) -> bool:
        return self.msix is not None and self.msix.enabled

    def read_isr(self) -> int:
        """Read and acknowledge (§4.1.4.5)."""
        value = self.isr
        self.isr = 0
        self.intx.lower()
        return value

    def _valid_vector(self, vector: int) -> int:
        return vector if self.msix is not None and vector < self.msix.vectors else NO_VECTOR

    def set_config_vector(self, vector: int) -> None:
        self.config_vector = self._valid_vector(vector)

    def set_queue_vector(self, vector: int) -> None:
        queue = self.selected_queue
        if queue is not None:
            queue.vector = self._valid_vector(vector)
            self._vectors_changed()

    def write_status(self, value: int) -> None:
        """Device status, from either interface."""
        if value:
            self.virtio.set_status(value)
        else:
            if VIRTIO_SET_STATUS.on:
                VIRTIO_SET_STATUS(self.name, value)
            self.virtio.reset_by_driver()

    def _modern_read(self, offset: int, size: int) -> int:
        page = offset & ~(PAGE_BYTES - 1)
        if page == COMMON:
            return self._common.read(offset, size)
        if page == DEVICE:
            return self.virtio.read_config(offset - DEVICE, size)
        if offset == ISR:
            return self.read_isr()
        return 0

    def _modern_write(self, offset: int, size: int, value: int) -> None:
        page = offset & ~(PAGE_BYTES - 1)
        if self.virtio.busy:
            return
        if page == COMMON:
            self._common.write(offset, size, value)
        elif page == NOTIFY:
            self.virtio.kick_queue((offset - NOTIFY) // NOTIFY_MULTIPLIER)
        elif page == DEVICE:
            self.virtio.write_config(offset - DEVICE, size, value)

    # -- PCI configuration access capability (§4.1.4.9) ----------------------------------------------------

    def _pci_window(self) -> tuple[int, int] | None:
        """(offset in BAR 4, width) that the window shows, when that is a lawful access."""
        at, config = self._pci_cap, self.config
        offset, width = config.get(at + CAP_OFFSET, 4), config.get(at + CAP_SIZE, 4)
        if config.get(at + CAP_BAR, 1) != BAR_MODERN or width not in (1, 2, 4) or offset % width:
            return None
        return (offset, width) if offset + width <= MODERN_BAR_BYTES else None

    def config_read(self, offset: int, size: int) -> int:
        data = self._pci_cap + CAP_EXTRA
        if self._pci_cap and offset < data + 4 and offset + size > data:
            window = self._pci_window()
            if window is not None:
                self.config.set(data, 4, self._modern_read(*window) & ((1 << (8 * window[1])) - 1))
        return super().config_read(offset, size)

    def _pci_window_written(self, offset: int, size: int) -> None:
        window = self._pci_window()
        if window is not None:
            start, width = window
            value = self.config.get(self._pci_cap + CAP_EXTRA, 4) & ((1 << (8 * width)) - 1)
            self._modern_write(start, width, value)

    # -- interrupts ----------------------------------------------------------------------------------------

    def interrupt_queue(self, index: int) -> None:
        """Used buffers in queue ``index``. Loop, without the lock."""
        if VIRTIO_NOTIFY.on:
            VIRTIO_NOTIFY(self.name, index)
        msix = self.msix
        vector = self.virtio.queues[index].vector
        if msix is not None and msix.enabled and msix.notify(vector):
            return
        with self.ctx.lock:  # off, or switched at this moment: under the lock it stays as it is
            if msix is not None and msix.enabled:
                msix.notify(vector)
                return
            self.isr |= ISR_QUEUE
            self.intx.raise_()

    def queue_message(self, index: int) -> tuple[int, int] | None:
        return self.msix.ready(self.virtio.queues[index].vector) if self.msix is not None else None

    def _vectors_changed(self) -> None:
        """The guest has changed MSI-X, or a queue's vector. Lock held."""
        if hasattr(self, "virtio"):
            for worker in self.virtio.workers.values():
                if isinstance(worker, OutsideWorker):
                    worker.interrupt_changed()

    def interrupt_config(self) -> None:
        """Configuration changed. QEMU-COMPAT: sets the queue bit too. Lock held."""
        if self.msix is not None and self.msix.enabled:
            self.msix.notify(self.config_vector)
        else:
            self.isr |= ISR_QUEUE | ISR_CONFIG
            self.intx.raise_()

    # -- doorbells -----------------------------------------------------------------------------------------

    def attach_doorbell(self, index: int, ring: Callable[[], None] | int) -> None:
        self.detach_doorbell(index)
        if self.props.ioeventfd:
            doorbell = self._ring_legacy(index, ring) if self.uses_legacy else self._ring_modern(index, ring)
            if doorbell is not None:
                self._doorbells[index] = doorbell

    def detach_doorbell(self, index: int) -> None:
        doorbell = self._doorbells.pop(index, None)
        if doorbell is not None:
            doorbell.close()

    def _ring_legacy(self, index: int, ring: Callable[[], None] | int) -> Doorbell | None:
        bar = self.bars.get(BAR_LEGACY)
        if bar is None or bar.address is None:
            return None
        return self._ring("pio", bar.address + LegacyReg.QUEUE_NOTIFY, 2, index, ring)

    def _ring_modern(self, index: int, ring: Callable[[], None] | int) -> Doorbell | None:
        bar = self.bars.get(BAR_MODERN)
        if bar is None or bar.address is None:
            return None
        address = bar.address + NOTIFY + NOTIFY_MULTIPLIER * index
        # any width (KVM's fast path); where the kernel cannot do that, the 16 bits that drivers write
        return self._ring("mmio", address, 0, None, ring) or self._ring("mmio", address, 2, None, ring)

    def _ring(
        self, space: str, address: int, size: int, datamatch: int | None, ring: Callable[[], None] | int
    ) -> Doorbell | None:
        try:
            return self.ctx.doorbells.attach(space, address, size, datamatch, ring)
        except BackendError:
            return None  # served by exits

    # -- PCI hooks -----------------------------------------------------------------------------------------

    def bar_mapped(self, index: int, address: int | None) -> None:
        if index == (BAR_LEGACY if self.uses_legacy else BAR_MODERN) and hasattr(self, "virtio"):
            for each, worker in self.virtio.workers.items():
                self.virtio.attach_doorbell(each, worker)
                self.virtio.kick_queue(each)  # a ring at the old place may be lost

    def end_dma(self) -> None:
        self.virtio.suspend()

    def command_changed(self, old: int, new: int) -> None:
        if not hasattr(self, "virtio"):
            return  # still being realized
        if old & ~new & regs.CMD_BUS_MASTER:
            self.virtio.suspend()
        elif new & ~old & regs.CMD_BUS_MASTER and self.virtio.status & Status.DRIVER_OK and not self.virtio.busy:
            self.virtio.activate()


T = TypeVar("T", bound=VirtioPciDevice)


def variants(base: type[T]) -> tuple[type[T], type[T]]:
    """The types of a device whose names end in ``-transitional`` and ``-non-transitional``: which interfaces they have
    is no property of theirs."""

    def variant(suffix: str, interface: str) -> type[T]:
        members = {
            "__module__": base.__module__,
            "type_name": f"{base.type_name}-{interface}",
            "forced_interface": interface,
            "Props": type("Props", (base.Props,), {"dropped": ("disable-legacy", "disable-modern")}),
        }
        return cast("type[T]", type(base.__name__ + suffix, (base,), members))

    return variant("Transitional", "transitional"), variant("NonTransitional", "non-transitional")

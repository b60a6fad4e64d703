# SPDX-License-Identifier: Apache-2.0
"""Exactly what the monitor uses of the machine. ``machine.vm.Vm`` and the test's FakeVm satisfy ``VmApi``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from vmmd.block.graph import BlockGraph
    from vmmd.core.address_space import AddressSpace
    from vmmd.core.backend import BlockStats
    from vmmd.core.balloon import BalloonSlot
    from vmmd.core.device import Device
    from vmmd.core.event_ring import EventRing
    from vmmd.core.events import EventSink
    from vmmd.core.fdsets import FdSets
    from vmmd.core.input import InputRouter
    from vmmd.core.irq import Chips, GsiFanIn
    from vmmd.core.jobs import Job
    from vmmd.core.memory import GuestMemory
    from vmmd.core.notify import LoopPort
    from vmmd.core.tree import ObjectTree
    from vmmd.devices.pci.bus import PciDeviceInfo
    from vmmd.kvm.abi import Sregs
    from vmmd.kvm.cpu_query import CpuModels
    from vmmd.kvm.stats import Statistic
    from vmmd.machine.chardevs import Chardevs
    from vmmd.machine.exit_meter import ExitReport
    from vmmd.machine.hotplug import Plugger
    from vmmd.machine.objects.store import ObjectStore
    from vmmd.net.network import Network
    from vmmd.runstate import RunStateMachine


class VcpuInfoApi(Protocol):
    """machine.cpus.VcpuInfo."""

    @property
    def index(self) -> int: ...
    @property
    def thread_id(self) -> int: ...
    @property
    def qom_path(self) -> str: ...
    @property
    def halted(self) -> bool: ...
    @property
    def node_id(self) -> int | None: ...
    @property
    def socket_id(self) -> int: ...
    @property
    def die_id(self) -> int | None: ...
    @property
    def core_id(self) -> int: ...
    @property
    def core_thread_id(self) -> int: ...


class ExitMeterApi(Protocol):
    """machine.exit_meter.ExitMeter."""

    def report(self) -> ExitReport: ...


class CpusApi(Protocol):
    """machine.cpus.VcpuManager."""

    @property
    def exit_meter(self) -> ExitMeterApi: ...
    @property
    def typename(self) -> str: ...
    @property
    def infos(self) -> Sequence[VcpuInfoApi]: ...
    @property
    def all_parked(self) -> bool: ...

    def registers(self, index: int) -> dict[str, int]: ...

    def registers_text(self, index: int) -> str: ...

    def control_registers(self, index: int) -> Sregs: ...

    def translate(self, index: int, gva: int) -> int | None: ...

    def statistics(self, index: int) -> list[Statistic]: ...

    def vm_statistics(self) -> list[Statistic]: ...

    def run_on_vcpu(
        self, index: int, function: Callable[..., object], done: Callable[[object, Exception | None], None]
    ) -> None: ...

    def inject_nmi(self, done: Callable[[Exception | None], None]) -> None: ...


class ImageApi(Protocol):
    """What a node of the block graph, or the disk on top of one, tells of its image."""

    @property
    def node_name(self) -> str:
        """The node's name; ``#blockNNN`` when the user gave none."""

    @property
    def driver(self) -> str:
        """Name of the driver: "raw", "file", "null-co"."""

    @property
    def filename(self) -> str: ...
    @property
    def virtual_size(self) -> int: ...
    @property
    def actual_size(self) -> int | None: ...
    @property
    def may_be_dirty(self) -> bool: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def cache_direct(self) -> bool: ...
    @property
    def cache_no_flush(self) -> bool: ...
    @property
    def cache_writeback(self) -> bool: ...
    @property
    def detect_zeroes(self) -> str: ...


class NodeApi(ImageApi, Protocol):
    """block.base.BlockNode."""

    @property
    def file(self) -> NodeApi | None:
        """The node below."""

    @property
    def discards(self) -> tuple[int, int, int] | None:
        """Of an image on the host: discards that succeeded, that failed, and bytes of the first."""


class DiskApi(ImageApi, Protocol):
    """One disk that a guest device, or a ``-drive`` without one, holds: what query-block and query-blockstats show."""

    @property
    def name(self) -> str:
        """The ``-drive`` id, "" for a ``-blockdev`` node."""

    @property
    def node(self) -> NodeApi | None: ...

    @property
    def qdev(self) -> str | None:
        """QOM path of the device that has it (``/machine/peripheral/disk0/virtio-backend``)."""

    @property
    def inserted(self) -> bool: ...
    @property
    def removable(self) -> bool: ...
    @property
    def tray_open(self) -> bool | None:
        """None without a tray."""

    @property
    def medium_locked(self) -> bool: ...

    @property
    def io_status(self) -> str | None:
        """ "ok", "failed", "nospace"; None when rerror/werror never stop."""

    @property
    def stats(self) -> BlockStats: ...


class BlockApi(Protocol):
    """block.graph.BlockGraph: what queries see of it."""

    def query(self) -> Sequence[DiskApi]: ...

    def all_nodes(self) -> Sequence[NodeApi]:
        """In the order in which they were added."""


class PciApi(Protocol):
    """devices.pci.bus.PciBus."""

    def query(self) -> Sequence[PciDeviceInfo]: ...


class SlotApi(Protocol):
    """machine.memory_map.Slot."""

    @property
    def gpa(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def hva(self) -> int: ...
    @property
    def readonly(self) -> bool: ...
    @property
    def name(self) -> str: ...


class RomApi(Protocol):
    """machine.ram.RamBlock."""

    @property
    def hva(self) -> int: ...
    @property
    def view(self) -> memoryview: ...


class MemoryMapApi(Protocol):
    """machine.memory_map.MemoryMap."""

    @property
    def rom(self) -> RomApi | None: ...
    @property
    def rom_file(self) -> str: ...
    @property
    def roms(self) -> Sequence[RomApi]: ...

    def slots(self) -> Sequence[SlotApi]: ...


class VmApi(Protocol):
    """machine.vm.Vm."""

    @property
    def name(self) -> str | None: ...
    @property
    def uuid(self) -> str | None: ...
    @property
    def loop(self) -> LoopPort: ...
    @property
    def lock(self) -> threading.Lock: ...
    @property
    def runstate(self) -> RunStateMachine: ...
    @property
    def accelerator(self) -> str | None: ...
    @property
    def kvm_enabled(self) -> bool: ...
    @property
    def cpu_models(self) -> CpuModels: ...
    @property
    def ram_bytes(self) -> int: ...
    @property
    def jobs(self) -> Mapping[str, Job]: ...

    migration_events: bool

    @property
    def events(self) -> EventSink: ...

    @property
    def cpus(self) -> CpusApi | None: ...
    @property
    def chardevs(self) -> Chardevs: ...
    @property
    def event_ring(self) -> EventRing: ...
    @property
    def preconfig(self) -> bool: ...
    @property
    def fdsets(self) -> FdSets: ...
    @property
    def block(self) -> BlockApi | None: ...

    @property
    def plugger(self) -> Plugger | None: ...
    @property
    def balloon(self) -> BalloonSlot | None: ...

    @property
    def net(self) -> Network | None: ...

    def network(self) -> Network:
        """Netdevs and NICs, to add and remove some."""

    def block_graph(self) -> BlockGraph:
        """The disks, to add and remove some."""

    @property
    def pci(self) -> PciApi | None: ...
    @property
    def chips(self) -> Chips | None: ...
    @property
    def irqs(self) -> GsiFanIn | None: ...
    @property
    def inputs(self) -> InputRouter: ...
    @property
    def devices(self) -> Sequence[Device]: ...
    @property
    def qom(self) -> ObjectTree: ...
    @property
    def objects(self) -> ObjectStore: ...
    @property
    def memory(self) -> GuestMemory: ...
    @property
    def memory_map(self) -> MemoryMapApi | None: ...
    @property
    def pio(self) -> AddressSpace: ...
    @property
    def mmio(self) -> AddressSpace: ...

    on_end: Callable[[int], None] | None

    def exit_preconfig(self) -> None: ...

    async def stop(self) -> None: ...

    async def cont(self) -> None: ...

    async def system_reset(self) -> None: ...

    def system_powerdown(self) -> None: ...

    def set_action(self, name: str, action: str) -> None: ...

    def forget_lost_ticks(self) -> None: ...

    def at_rest(self) -> AbstractAsyncContextManager[None]: ...

    async def quit(self) -> None: ...

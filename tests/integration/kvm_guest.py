# SPDX-License-Identifier: Apache-2.0
"""Flat guests of a few bytes for tests of vmmd.kvm: real mode, entered at 0x1000, on real KVM."""

from __future__ import annotations

import ctypes
import mmap
import queue
import threading
import time
from typing import TYPE_CHECKING

from tests.unit.fakes import RecordingRequests
from vmmd.core.address_space import AddressSpace, IoRange
from vmmd.core.bootstate import BootState, SegmentState
from vmmd.core.memory import GuestAddressError, GuestMemory, make_region
from vmmd.kvm.cpuid import Topology
from vmmd.kvm.irqchip import KvmInterrupts
from vmmd.kvm.system import Kvm
from vmmd.machine.cpus import VcpuManager
from vmmd.machine.user_chips import SplitChips, UserChips

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.kvm.cpuid_entry import CpuidEntry

ENTRY = 0x1000
REAL_MODE = {
    "cs": SegmentState(0, 0, 0xFFFF, 0x9B),
    **{name: SegmentState(0, 0, 0xFFFF, 0x93) for name in ("ds", "es", "ss")},
}
#: 32-bit protected mode, flat, no paging, no interrupt table
PROTECTED_MODE = BootState(
    {"rip": ENTRY, "rsp": 0x8000, "rflags": 2},
    {
        "cs": SegmentState(8, 0, 0xFFFF_FFFF, 0xC09B),
        **{name: SegmentState(16, 0, 0xFFFF_FFFF, 0xC093) for name in ("ds", "es", "ss")},
    },
    idt=(0, 0),
    cr0=0x11,
)


class QueueLoop:
    """LoopPort whose posts the test runs with ``serve``."""

    def __init__(self) -> None:
        self.posted: queue.SimpleQueue[tuple[Callable[..., None], tuple[object, ...]]] = queue.SimpleQueue()

    def post(self, callback: Callable[..., None], *args: object) -> None:
        self.posted.put((callback, args))

    def serve(self, until: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Run posted callbacks until the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not until():
            callback, args = self.posted.get(timeout=max(0.01, deadline - time.monotonic()))
            callback(*args)


class PlainCpus:
    """CPU configuration for tests of everything but CPUID: what KVM supports, as it is."""

    model = "qemu64"
    topology = Topology()
    kvmclock = False
    signature = 0x600
    machine_check = True

    def __init__(self, kvm: Kvm) -> None:
        self._entries = kvm.supported_cpuid()

    def apic_id(self, index: int) -> int:
        return index

    def topology_ids(self, index: int) -> tuple[int, int, int, int]:
        return (index, 0, 0, 0)

    def cpuid(self, index: int, tsc_khz: int) -> tuple[CpuidEntry, ...]:
        return self._entries

    def msrs(self) -> dict[int, int]:
        return {}


class HiddenRam:
    """What a machine's memory map does for accesses that no slot shows: all of it is plain RAM."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def read_hidden(self, gpa: int, length: int) -> bytes | None:
        try:
            return self._memory.read(gpa, length)
        except GuestAddressError:
            return None

    def write_hidden(self, gpa: int, data: bytes) -> bool:
        try:
            self._memory.write(gpa, data)
        except GuestAddressError:
            return False
        return True


class TinyVm:
    """1 MiB of RAM, irqchip, ``count`` vCPUs, and code for the first one. With ``chips`` no controller is in the
    kernel, or local APICs only."""

    def __init__(
        self,
        code: bytes,
        *,
        count: int = 1,
        ram_bytes: int = 1 << 20,
        boot: BootState | None = None,
        chips: UserChips | type[SplitChips] | None = None,
    ) -> None:
        self.kvm = Kvm.open()
        self.vm = self.kvm.create_vm()
        self.loops: UserChips | SplitChips | None
        if chips is None:
            self.vm.create_irqchip()
            self.loops = None
            self.interrupts = KvmInterrupts(self.vm)
        elif isinstance(chips, UserChips):
            self.vm.reserve_pages()
            self.loops = chips
        else:
            self.vm.create_split_irqchip()
            self.loops = chips(self.vm)
        self.map = mmap.mmap(-1, ram_bytes)
        # SAFETY: the mapping lives as long as this object; close() deletes the machine first
        self.hva = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.memory = GuestMemory([make_region(0, memoryview(self.map), self.hva, "ram")])
        self.vm.set_memory_slot(0, 0, ram_bytes, self.hva)
        self.memory.write(ENTRY, code)
        self.pio = AddressSpace("io", 1 << 16)
        self.mmio = AddressSpace("memory", 1 << 52)
        self.lock = threading.Lock()
        self.requests = RecordingRequests()
        self.loop = QueueLoop()
        self.cpus = VcpuManager(
            self.vm, count=count, pio=self.pio, mmio=self.mmio, lock=self.lock,
            requests=self.requests, loop=self.loop, cpu_config=PlainCpus(self.kvm), debug_threads=True,
            hidden=HiddenRam(self.memory), loops=self.loops,
        )  # fmt: skip
        self.cpus.set_boot_state(boot or BootState({"rip": ENTRY, "rsp": 0x8000, "rflags": 2}, REAL_MODE))
        self.cpus.start()
        self.finished = threading.Event()
        self.pio.add(IoRange(0xF4, 1, lambda offset, size: 0, lambda *_: self.finished.set(), name="finish"))

    def run(self, timeout_s: float = 10.0) -> None:
        """Run until the guest writes to port 0xF4, then pause."""
        self.cpus.resume()
        assert self.finished.wait(timeout_s), self.requests.asked
        self.pause()

    def pause(self) -> None:
        """Pause and wait until that is done."""
        paused: list[bool] = []
        self.cpus.pause(lambda: paused.append(True))
        self.loop.serve(lambda: bool(paused))

    def wait_request(self, timeout_s: float = 10.0) -> tuple[str, object]:
        """Run until a request comes and every vCPU has parked."""
        self.cpus.resume()
        deadline = time.monotonic() + timeout_s
        while not (self.requests.asked and self.cpus.all_parked):
            assert time.monotonic() < deadline, "no request came"
            time.sleep(0.001)
        return self.requests.asked[0]

    def close(self) -> None:
        self.cpus.stop()
        self.vm.close()
        self.kvm.close()

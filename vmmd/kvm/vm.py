# SPDX-License-Identifier: Apache-2.0
"""One virtual machine of KVM: memory slots, interrupt controllers, event descriptors, statistics.

Methods may be called from any thread; those that change the machine's shape are called with the DeviceLock held or
before the vCPUs run.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.trace_events import KVM_SET_IOEVENTFD_MMIO, KVM_SET_IOEVENTFD_PIO, KVM_SET_USER_MEMORY
from vmmd.kvm import abi
from vmmd.kvm.ioctl import KvmError, ioctl, short_ioctl
from vmmd.units import PAGE_BYTES

if TYPE_CHECKING:
    from vmmd.kvm.stats import Statistic, StatsFile
    from vmmd.kvm.system import Kvm
    from vmmd.kvm.vcpu import Vcpu

#: three pages for the task state segment and one for the identity page table, which KVM needs on old Intel hosts in a
#: place the guest has nothing at: below the largest (16 MiB) BIOS ROM that ends at 4 GiB.
IDENTITY_MAP_GPA = 0xFEFF_C000
TSS_GPA = 0xFEFF_D000

#: argument blocks kept for messages that were sent before; the guest chooses address and data
_MSI_BLOCKS = 4096


class RoutingEntry(NamedTuple):
    """One line of the GSI routing table: to a pin of a chip, or (``chip`` None) a message."""

    gsi: int
    chip: int | None
    pin: int = 0
    address: int = 0
    data: int = 0


class KvmVm:
    """The file descriptor of a virtual machine. Owns it until ``close``; close the vCPUs first."""

    def __init__(self, kvm: Kvm, fd: int) -> None:
        self.kvm = kvm
        self.fd = fd
        self.vcpus: list[Vcpu] = []
        #: zones whose writes KVM collects in a ring; shared with the run loops, which drain while it is not empty
        self.coalesced_zones: list[tuple[int, int, bool]] = []
        self._slots: dict[int, int] = {}  # slot -> size in bytes
        # SAFETY: argument block of the hot ioctl, made once; used with the DeviceLock held, so by one thread at a time
        self._irq_level = abi.IrqLevel()
        self._irq_level_ref = ctypes.byref(self._irq_level)
        self._msi_blocks: dict[tuple[int, int], tuple[abi.Msi, object]] = {}
        self._msr_indices: tuple[int, ...] | None = None
        self._stats_file: StatsFile | None = None
        self.has_xcrs = bool(kvm.check_extension(abi.KVM_CAP_XCRS))

    @property
    def msr_indices(self) -> tuple[int, ...]:
        """MSRs that make up a vCPU's state."""
        if self._msr_indices is None:
            self._msr_indices = self.kvm.msr_list()
        return self._msr_indices

    def close(self) -> None:
        """Release the machine."""
        for vcpu in self.vcpus:
            vcpu.close()
        if self._stats_file is not None:
            self._stats_file.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def check_extension(self, capability: int) -> int:
        """The value of a capability for this machine."""
        return ioctl(self.fd, abi.KVM_CHECK_EXTENSION, capability, name="KVM_CHECK_EXTENSION")

    def enable_capability(self, capability: int, argument: int = 0, *, name: str) -> None:
        """KVM_ENABLE_CAP with one argument. Raises KvmError."""
        block = abi.EnableCap(cap=capability)
        block.args[0] = argument
        ioctl(self.fd, abi.KVM_ENABLE_CAP, ctypes.byref(block), name=f"KVM_ENABLE_CAP({name})")

    # --- memory ---
    def set_memory_slot(
        self, slot: int, gpa: int, size_bytes: int, hva: int, *, readonly: bool = False, log_dirty: bool = False
    ) -> None:
        """Map host memory into the guest; ``size_bytes`` 0 deletes the slot. Raises KvmError.

        SAFETY: the caller keeps the host mapping alive until the slot is deleted or the machine closed.
        """
        flags = (abi.KVM_MEM_READONLY if readonly else 0) | (abi.KVM_MEM_LOG_DIRTY_PAGES if log_dirty else 0)
        block = abi.UserspaceMemoryRegion(slot, flags, gpa, size_bytes, hva)
        if KVM_SET_USER_MEMORY.on:
            KVM_SET_USER_MEMORY(slot, flags, gpa, size_bytes, hva)
        ioctl(self.fd, abi.KVM_SET_USER_MEMORY_REGION, ctypes.byref(block), name="KVM_SET_USER_MEMORY_REGION")
        if size_bytes:
            self._slots[slot] = size_bytes
        else:
            self._slots.pop(slot, None)

    def dirty_log(self, slot: int) -> bytes:
        """The bitmap of pages written since the last call (bit 0 of byte 0: first page), cleared in the kernel."""
        pages = self._slots[slot] // PAGE_BYTES
        length = (pages + 63) // 64 * 8
        bitmap = ctypes.create_string_buffer(length)
        # SAFETY: KVM writes one bit per page rounded up to 64 pages, which is the size of bitmap
        block = abi.DirtyLog(slot, 0, ctypes.addressof(bitmap))
        ioctl(self.fd, abi.KVM_GET_DIRTY_LOG, ctypes.byref(block), name="KVM_GET_DIRTY_LOG")
        return bitmap.raw

    # --- interrupt controllers ---
    def reserve_pages(self) -> None:
        """Tell KVM where the guest has nothing, for what old Intel hosts need. Before the first vCPU."""
        if self.kvm.check_extension(abi.KVM_CAP_SET_IDENTITY_MAP_ADDR):
            address = ctypes.c_uint64(IDENTITY_MAP_GPA)
            ioctl(self.fd, abi.KVM_SET_IDENTITY_MAP_ADDR, ctypes.byref(address), name="KVM_SET_IDENTITY_MAP_ADDR")
        if self.kvm.check_extension(abi.KVM_CAP_SET_TSS_ADDR):
            ioctl(self.fd, abi.KVM_SET_TSS_ADDR, TSS_GPA, name="KVM_SET_TSS_ADDR")

    def create_irqchip(self) -> None:
        """8259 pair, I/O APIC and local APICs in the kernel. Before the first vCPU. Raises KvmError."""
        self.reserve_pages()
        self.kvm.require(abi.KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP")
        ioctl(self.fd, abi.KVM_CREATE_IRQCHIP, name="KVM_CREATE_IRQCHIP")

    def create_split_irqchip(self) -> None:
        """Local APICs in the kernel, which says when an interrupt of an I/O APIC outside has ended. Before the first
        vCPU. Raises KvmError, MissingKvmCapError."""
        self.reserve_pages()
        self.kvm.require(abi.KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP")
        self.enable_capability(abi.KVM_CAP_SPLIT_IRQCHIP, abi.KVM_IOAPIC_NUM_PINS, name="KVM_CAP_SPLIT_IRQCHIP")

    def create_pit(self, lost_tick_policy: str = "delay") -> None:
        """8254 in the kernel. Policy ``delay``: lost ticks are injected later; ``discard``: they are dropped."""
        self.kvm.require(abi.KVM_CAP_PIT2, "KVM_CAP_PIT2")
        config = abi.PitConfig(flags=abi.KVM_PIT_SPEAKER_DUMMY)
        ioctl(self.fd, abi.KVM_CREATE_PIT2, ctypes.byref(config), name="KVM_CREATE_PIT2")
        if lost_tick_policy == "discard":
            control = abi.ReinjectControl(pit_reinject=0)
            ioctl(self.fd, abi.KVM_REINJECT_CONTROL, ctypes.byref(control), name="KVM_REINJECT_CONTROL")
        elif lost_tick_policy != "delay":
            raise ValueError(f"kvm-pit knows the lost tick policies delay and discard, not {lost_tick_policy}")

    def irq_line(self, gsi: int, level: int) -> None:
        """Drive a GSI. DeviceLock held. Hot: keeps the GIL."""
        block = self._irq_level
        block.irq = gsi
        block.level = level
        if short_ioctl(self.fd, abi.KVM_IRQ_LINE, self._irq_level_ref) < 0:
            raise KvmError("KVM_IRQ_LINE", ctypes.get_errno())

    def signal_msi(self, address: int, data: int) -> int:
        """Deliver a message; >0: delivered, 0: blocked by the guest. Hot: keeps the GIL. Raises KvmError."""
        key = (address, data)
        block = self._msi_blocks.get(key)
        if block is None:
            if len(self._msi_blocks) >= _MSI_BLOCKS:
                self._msi_blocks = {}
            message = abi.Msi(address_lo=address & 0xFFFF_FFFF, address_hi=address >> 32, data=data)
            # SAFETY: never changed after it is made, so any thread may hand it to the kernel
            block = self._msi_blocks[key] = (message, ctypes.byref(message))
        result: int = short_ioctl(self.fd, abi.KVM_SIGNAL_MSI, block[1])
        if result < 0:
            raise KvmError("KVM_SIGNAL_MSI", ctypes.get_errno())
        return result

    def set_gsi_routing(self, entries: list[RoutingEntry]) -> None:
        """Replace the whole routing table. Raises KvmError."""
        header, size = ctypes.sizeof(abi.IrqRouting), ctypes.sizeof(abi.IrqRoutingEntry)
        buffer = bytearray(header + size * len(entries))
        words = memoryview(buffer).cast("I")
        words[0] = len(entries)
        for position, entry in enumerate(entries):
            start = (header + size * position) // 4
            words[start] = entry.gsi
            if entry.chip is None:
                words[start + 1] = abi.KVM_IRQ_ROUTING_MSI
                words[start + 4] = entry.address & 0xFFFF_FFFF
                words[start + 5] = entry.address >> 32
                words[start + 6] = entry.data
            else:
                words[start + 1] = abi.KVM_IRQ_ROUTING_IRQCHIP
                words[start + 4] = entry.chip
                words[start + 5] = entry.pin
        # SAFETY: the kernel reads nr entries, all in the buffer, which lives until the call returns
        block = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        ioctl(self.fd, abi.KVM_SET_GSI_ROUTING, ctypes.byref(block), name="KVM_SET_GSI_ROUTING")

    def irqfd(self, fd: int, gsi: int, deassign: bool = False, resample_fd: int | None = None) -> None:
        """Bind an eventfd to a GSI (or unbind); with ``resample_fd`` as a level that EOI resamples. Raises KvmError."""
        flags = abi.KVM_IRQFD_FLAG_DEASSIGN if deassign else 0
        if resample_fd is not None:
            flags |= abi.KVM_IRQFD_FLAG_RESAMPLE
        block = abi.Irqfd(fd, gsi, flags, 0 if resample_fd is None else resample_fd)
        ioctl(self.fd, abi.KVM_IRQFD, ctypes.byref(block), name="KVM_IRQFD")

    # --- guest writes that do not leave the kernel ---
    def ioeventfd(
        self,
        fd: int,
        address: int,
        size: int,
        *,
        pio: bool,
        datamatch: int | None = None,
        deassign: bool = False,
    ) -> None:
        """Signal ``fd`` on guest writes of ``size`` bytes (0: any) at ``address``. Raises KvmError."""
        flags = abi.KVM_IOEVENTFD_FLAG_PIO if pio else 0
        if datamatch is not None:
            flags |= abi.KVM_IOEVENTFD_FLAG_DATAMATCH
        if deassign:
            flags |= abi.KVM_IOEVENTFD_FLAG_DEASSIGN
        block = abi.Ioeventfd(datamatch or 0, address, size, fd, flags)
        event = KVM_SET_IOEVENTFD_PIO if pio else KVM_SET_IOEVENTFD_MMIO
        if event.on:
            event(fd, address, datamatch or 0, int(not deassign), size, int(datamatch is not None))
        ioctl(self.fd, abi.KVM_IOEVENTFD, ctypes.byref(block), name="KVM_IOEVENTFD")

    def register_coalesced(self, address: int, size: int, *, pio: bool = False) -> None:
        """Collect guest writes to a range in the ring; only registers without side effects. Raises KvmError."""
        zone = abi.CoalescedMmioZone(address, size, 1 if pio else 0)
        ioctl(self.fd, abi.KVM_REGISTER_COALESCED_MMIO, ctypes.byref(zone), name="KVM_REGISTER_COALESCED_MMIO")
        self.coalesced_zones.append((address, size, pio))

    def unregister_coalesced(self, address: int, size: int, *, pio: bool = False) -> None:
        """Undo ``register_coalesced``. What is in the ring stays there for the next drain."""
        zone = abi.CoalescedMmioZone(address, size, 1 if pio else 0)
        ioctl(self.fd, abi.KVM_UNREGISTER_COALESCED_MMIO, ctypes.byref(zone), name="KVM_UNREGISTER_COALESCED_MMIO")
        self.coalesced_zones.remove((address, size, pio))

    # --- clock ---
    def clock_ns(self) -> int:
        """kvmclock of the guest, nanoseconds."""
        block = abi.ClockData()
        ioctl(self.fd, abi.KVM_GET_CLOCK, ctypes.byref(block), name="KVM_GET_CLOCK")
        return int(block.clock)

    def set_clock_ns(self, clock_ns: int) -> None:
        """Set kvmclock: after a pause, so that the guest's time did not run on."""
        block = abi.ClockData(clock=clock_ns)
        ioctl(self.fd, abi.KVM_SET_CLOCK, ctypes.byref(block), name="KVM_SET_CLOCK")

    # --- vCPUs, statistics ---
    def create_vcpu(self, index: int) -> Vcpu:
        """A vCPU with APIC id ``index``. Raises KvmError."""
        from vmmd.kvm.vcpu import Vcpu

        vcpu = Vcpu(self, index, ioctl(self.fd, abi.KVM_CREATE_VCPU, index, name="KVM_CREATE_VCPU"))
        self.vcpus.append(vcpu)
        return vcpu

    def stats(self) -> list[Statistic]:
        """The machine's statistics (KVM_GET_STATS_FD); none on kernels without. Any thread, never waits."""
        from vmmd.kvm.stats import open_stats

        if self._stats_file is None:
            self._stats_file = open_stats(self.fd)
        return self._stats_file.read() if self._stats_file is not None else []

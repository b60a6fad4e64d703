# SPDX-License-Identifier: Apache-2.0
"""One virtual CPU of KVM: its descriptor, its mapped ``kvm_run`` pages, its state ioctls.

Apart from ``kick_page``, everything is used by the vCPU's own thread, or by the loop while that thread is parked.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import TYPE_CHECKING, TypeVar

from vmmd.kvm import abi
from vmmd.kvm.ioctl import KvmError, ioctl
from vmmd.kvm.msr import MCE_BANKS, MCG_CAP_FLAGS
from vmmd.kvm.system import pack_cpuid, read_cpuid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.kvm.cpuid_entry import CpuidEntry
    from vmmd.kvm.stats import Statistic, StatsFile
    from vmmd.kvm.userloop import UserApic
    from vmmd.kvm.vm import KvmVm

_Block = TypeVar("_Block", bound="ctypes.Structure")

#: MSRs of one KVM_GET_MSRS/KVM_SET_MSRS call
_MSR_BATCH = 256


class Vcpu:
    """The file descriptor and run page of one vCPU. Owned by its KvmVm."""

    def __init__(self, vm: KvmVm, apic_id: int, fd: int) -> None:
        self.vm = vm
        self.apic_id = apic_id
        self.mce_banks = 0
        self.fd = fd
        self.stats_file: StatsFile | None = None
        #: None: it is in the kernel
        self.local_apic: UserApic | None = None
        # SAFETY: the kernel guarantees vcpu_mmap_size bytes behind the descriptor; the casts pin the mapping, and
        # close() drops them before unmapping
        self.page = mmap.mmap(fd, vm.kvm.vcpu_mmap_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.bytes_ = memoryview(self.page)
        self.words = self.bytes_.cast("H")
        self.dwords = self.bytes_.cast("I")
        self.qwords = self.bytes_.cast("Q")

    def close(self) -> None:
        """Unmap and close. The run loop must have ended."""
        if self.fd < 0:
            return
        for view in (self.words, self.dwords, self.qwords, self.bytes_):
            view.release()
        try:
            self.page.close()
        except BufferError:  # a run loop still holds views: the mapping goes when they do
            pass
        if self.stats_file is not None:
            self.stats_file.close()
        os.close(self.fd)
        self.fd = -1

    # --- generic state access ---
    def _get(self, request: int, block: _Block, name: str) -> _Block:
        ioctl(self.fd, request, ctypes.byref(block), name=name)
        return block

    def _set(self, request: int, block: ctypes.Structure, name: str) -> None:
        ioctl(self.fd, request, ctypes.byref(block), name=name)

    def regs(self) -> abi.Regs:
        return self._get(abi.KVM_GET_REGS, abi.Regs(), "KVM_GET_REGS")

    def set_regs(self, regs: abi.Regs) -> None:
        self._set(abi.KVM_SET_REGS, regs, "KVM_SET_REGS")

    def sregs(self) -> abi.Sregs:
        return self._get(abi.KVM_GET_SREGS, abi.Sregs(), "KVM_GET_SREGS")

    def set_sregs(self, sregs: abi.Sregs) -> None:
        self._set(abi.KVM_SET_SREGS, sregs, "KVM_SET_SREGS")

    def fpu(self) -> abi.Fpu:
        return self._get(abi.KVM_GET_FPU, abi.Fpu(), "KVM_GET_FPU")

    def set_fpu(self, fpu: abi.Fpu) -> None:
        self._set(abi.KVM_SET_FPU, fpu, "KVM_SET_FPU")

    def debugregs(self) -> abi.Debugregs:
        return self._get(abi.KVM_GET_DEBUGREGS, abi.Debugregs(), "KVM_GET_DEBUGREGS")

    def set_debugregs(self, debugregs: abi.Debugregs) -> None:
        self._set(abi.KVM_SET_DEBUGREGS, debugregs, "KVM_SET_DEBUGREGS")

    def events(self) -> abi.VcpuEvents:
        return self._get(abi.KVM_GET_VCPU_EVENTS, abi.VcpuEvents(), "KVM_GET_VCPU_EVENTS")

    def set_events(self, events: abi.VcpuEvents) -> None:
        self._set(abi.KVM_SET_VCPU_EVENTS, events, "KVM_SET_VCPU_EVENTS")

    def lapic(self) -> abi.LapicState:
        return self._get(abi.KVM_GET_LAPIC, abi.LapicState(), "KVM_GET_LAPIC")

    def set_lapic(self, lapic: abi.LapicState) -> None:
        self._set(abi.KVM_SET_LAPIC, lapic, "KVM_SET_LAPIC")

    def xcrs(self) -> abi.Xcrs:
        return self._get(abi.KVM_GET_XCRS, abi.Xcrs(), "KVM_GET_XCRS")

    def set_xcr0(self, value: int) -> None:
        """Set XCR0 alone."""
        xcrs = abi.Xcrs(nr_xcrs=1)
        xcrs.xcrs[0].xcr = 0
        xcrs.xcrs[0].value = value
        self._set(abi.KVM_SET_XCRS, xcrs, "KVM_SET_XCRS")

    def xsave(self) -> bytes:
        """The first 4096 bytes of the extended state, standard format (SDM vol. 1 §13.4)."""
        return bytes(self._get(abi.KVM_GET_XSAVE, abi.Xsave(), "KVM_GET_XSAVE"))

    def set_xsave(self, area: bytes) -> None:
        """Set the extended state from a 4096-byte XSAVE area in standard format."""
        block = abi.Xsave.from_buffer_copy(area)
        self._set(abi.KVM_SET_XSAVE, block, "KVM_SET_XSAVE")

    def mp_state(self) -> int:
        """KVM_MP_STATE_*. With the in-kernel APIC this also shows HALTED."""
        return int(self._get(abi.KVM_GET_MP_STATE, abi.MpState(), "KVM_GET_MP_STATE").mp_state)

    def set_mp_state(self, state: int) -> None:
        self._set(abi.KVM_SET_MP_STATE, abi.MpState(state), "KVM_SET_MP_STATE")

    def translate(self, gva: int) -> int | None:
        """The guest-physical address of a linear one, or None (KVM_TRANSLATE)."""
        block = self._get(abi.KVM_TRANSLATE, abi.Translation(linear_address=gva), "KVM_TRANSLATE")
        return int(block.physical_address) if block.valid else None

    def is_halted(self) -> bool:
        """True when it waits for an interrupt."""
        if self.local_apic is not None:
            return self.local_apic.halted
        return self.mp_state() == abi.KVM_MP_STATE_HALTED

    def interrupt(self, vector: int) -> None:
        """Queue a maskable interrupt, without controllers in the kernel. Its own thread."""
        ioctl(self.fd, abi.KVM_INTERRUPT, ctypes.byref(ctypes.c_uint32(vector)), name="KVM_INTERRUPT")

    def inject_nmi(self) -> None:
        """Queue a non-maskable interrupt. Waits while the vCPU is in the guest: for its own thread."""
        ioctl(self.fd, abi.KVM_NMI, name="KVM_NMI")

    # --- CPUID and MSRs ---
    def set_cpuid(self, entries: tuple[CpuidEntry, ...]) -> None:
        """What CPUID shows. Before the first KVM_RUN. Raises KvmError."""
        ioctl(self.fd, abi.KVM_SET_CPUID2, pack_cpuid(entries), name="KVM_SET_CPUID2")

    def cpuid(self) -> tuple[CpuidEntry, ...]:
        """What was set, with KVM's run-time adjustments."""
        return read_cpuid(self.fd, abi.KVM_GET_CPUID2, 256, "KVM_GET_CPUID2")

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Values of MSRs; those that KVM refuses to read are left out."""
        wanted = list(indices)
        values: dict[int, int] = {}
        while wanted:
            batch = wanted[:_MSR_BATCH]
            buffer = _pack_msrs([(index, 0) for index in batch])
            done = ioctl(self.fd, abi.KVM_GET_MSRS, buffer, name="KVM_GET_MSRS")
            for position in range(done):
                low, high = buffer[4 + 4 * position], buffer[5 + 4 * position]
                values[batch[position]] = high << 32 | low
            # the call stops at the first MSR it does not like: step over that one
            wanted = wanted[done + 1 :] if done < len(batch) else wanted[_MSR_BATCH:]
        return values

    def set_msrs(self, values: dict[int, int]) -> list[int]:
        """Write MSRs; returns the indices that KVM refused."""
        wanted = list(values.items())
        refused: list[int] = []
        while wanted:
            batch = wanted[:_MSR_BATCH]
            done = ioctl(self.fd, abi.KVM_SET_MSRS, _pack_msrs(batch), name="KVM_SET_MSRS")
            if done < len(batch):
                refused.append(batch[done][0])
                wanted = wanted[done + 1 :]
            else:
                wanted = wanted[_MSR_BATCH:]
        return refused

    def setup_mce(self) -> None:
        """Give the guest machine-check banks. Before the first KVM_RUN, for CPU models with MCE and MCA."""
        kvm = self.vm.kvm
        banks = min(kvm.check_extension(abi.KVM_CAP_MCE), MCE_BANKS)
        if not banks:
            return
        supported = ctypes.c_uint64()
        ioctl(kvm.fd, abi.KVM_X86_GET_MCE_CAP_SUPPORTED, ctypes.byref(supported), name="KVM_X86_GET_MCE_CAP_SUPPORTED")
        capability = ctypes.c_uint64(supported.value & MCG_CAP_FLAGS | banks)
        ioctl(self.fd, abi.KVM_X86_SETUP_MCE, ctypes.byref(capability), name="KVM_X86_SETUP_MCE")
        self.mce_banks = banks

    def tsc_khz(self) -> int:
        """Frequency of the guest's time stamp counter; 0: not known."""
        try:
            return ioctl(self.fd, abi.KVM_GET_TSC_KHZ, name="KVM_GET_TSC_KHZ")
        except KvmError:
            return 0

    def kvmclock_paused(self) -> None:
        """Tell the guest's soft-lockup watchdog that it was stopped; harmless where there is no kvmclock."""
        try:
            ioctl(self.fd, abi.KVM_KVMCLOCK_CTRL, name="KVM_KVMCLOCK_CTRL")
        except KvmError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise

    def open_stats(self, like: Vcpu | None = None) -> None:
        """Open this vCPU's statistics; before it first runs. ``like``: a vCPU whose statistics are open already."""
        from vmmd.kvm.stats import open_stats

        self.stats_file = open_stats(self.fd, like.stats_file if like is not None else None)

    def stats(self) -> list[Statistic]:
        """This vCPU's statistics (KVM_GET_STATS_FD); none before ``open_stats``. Any thread, never waits."""
        return self.stats_file.read() if self.stats_file is not None else []


def _pack_msrs(entries: list[tuple[int, int]]) -> ctypes.Array[ctypes.c_uint32]:
    words = [len(entries), 0]
    for index, value in entries:
        words += (index, 0, value & 0xFFFF_FFFF, value >> 32)
    return (ctypes.c_uint32 * len(words))(*words)

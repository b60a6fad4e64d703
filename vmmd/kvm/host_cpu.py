# SPDX-License-Identifier: Apache-2.0
"""The host's processor as KVM offers it to guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.kvm.cpu_features import EBX, ECX, EDX, MSR, NOT_BUILT, WORDS, bits_by_name
from vmmd.kvm.cpuid_entry import CpuidEntry

if TYPE_CHECKING:
    from vmmd.kvm.system import Kvm

#: KVM's own, or nothing but numbers in CPUID: there whether or not KVM_GET_SUPPORTED_CPUID says so
_NO_SUPPORT_NEEDED = frozenset({"hypervisor", "arat", "topoext"})
#: what KVM offers with its own local APIC only
_KERNEL_APIC = (
    "x2apic", "tsc-deadline", "kvm-pv-unhalt", "kvm-pv-ipi", "kvm-pv-sched-yield", "kvm-asyncpf-int",
)  # fmt: skip
#: CPUID.1:EDX bits that AMD repeats in 0x80000001:EDX; KVM leaves them out on Intel hosts
AMD_ALIASES = 0x0183_F3FF
#: index of the word 0x80000001:EDX
_AMD_FEATURES = next(i for i, word in enumerate(WORDS) if (word.leaf, word.register) == (0x8000_0001, EDX))


class HostCpu:
    """What the host's KVM offers. ``supported[i]``: features of WORDS[i]."""

    #: KVM runs the guest: models get what it adds, and the host's vendor
    is_kvm = True
    #: its local APICs are KVM's
    has_kernel_apic = True

    def __init__(self, entries: tuple[CpuidEntry, ...], feature_msrs: dict[int, int], model_id: str) -> None:
        self.entries = {(entry.function, entry.index): entry for entry in entries}
        self.feature_msrs = feature_msrs
        self.model_id = model_id
        self.supported = self._supported()
        leaf0, leaf1 = self.registers(0), self.registers(1)
        self.vendor = b"".join(leaf0[i].to_bytes(4, "little") for i in (EBX, EDX, ECX)).decode("latin-1")
        self.signature = leaf1[0]
        self.level = leaf0[0]
        self.xlevel = self.registers(0x8000_0000)[0]
        self.phys_bits = self.registers(0x8000_0008)[0] & 0xFF or 36

    @classmethod
    def read(cls, kvm: Kvm) -> HostCpu:
        """Ask KVM and /proc/cpuinfo."""
        return cls(kvm.supported_cpuid(), kvm.feature_msrs((0x10A, 0xCF)), _cpuinfo("model name"))

    def without_kernel_apic(self) -> HostCpu:
        """What remains when local APICs are not in the kernel: KVM would offer some of it, with nothing behind."""
        self.has_kernel_apic = False
        for name in _KERNEL_APIC:
            for index, mask in bits_by_name()[name]:
                self.supported[index] &= ~mask
        return self

    @classmethod
    def without_kvm(cls) -> HostCpu:
        """All that is known of this host without KVM: who made its processor."""
        vendor = _cpuinfo("vendor_id").encode("ascii", "replace").ljust(12, b"\0")
        ebx, edx, ecx = (int.from_bytes(vendor[at : at + 4], "little") for at in (0, 4, 8))
        return cls((CpuidEntry(0, 0, False, 0, ebx, ecx, edx),), {}, "")

    def registers(self, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
        """(eax, ebx, ecx, edx) of a leaf; zeroes when there is none."""
        entry = self.entries.get((leaf, subleaf))
        return (0, 0, 0, 0) if entry is None else (entry.eax, entry.ebx, entry.ecx, entry.edx)

    def _supported(self) -> list[int]:
        """What is supported by KVM and by vmmd."""
        found = [
            self.feature_msrs.get(word.leaf, 0)
            if word.register == MSR
            else self.registers(word.leaf, word.subleaf)[word.register]
            for word in WORDS
        ]
        found[_AMD_FEATURES] |= self.registers(1)[EDX] & AMD_ALIASES
        bits = bits_by_name()
        for name in _NO_SUPPORT_NEEDED:
            for index, mask in bits[name]:
                found[index] |= mask
        for name in NOT_BUILT:
            for index, mask in bits.get(name, ()):
                found[index] &= ~mask
        return found


class AnyHost(HostCpu):
    """A host that can give whatever a model asks for, since nothing is ever executed (qtest)."""

    is_kvm = False

    def __init__(self) -> None:
        state_components = CpuidEntry(0xD, 0, True, 0xFFFF_FFFF, 0, 0, 0)
        address_sizes = CpuidEntry(0x8000_0008, 0, False, 40, 0, 0, 0)
        super().__init__((state_components, address_sizes), {}, "")

    def _supported(self) -> list[int]:
        return [(1 << 64) - 1 if word.register == MSR else (1 << 32) - 1 for word in WORDS]


def _cpuinfo(key: str) -> str:
    """A line of /proc/cpuinfo, of the first processor."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(key):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""

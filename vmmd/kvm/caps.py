# SPDX-License-Identifier: Apache-2.0
"""What vmmd needs of the host's KVM, checked once at start, so that a lacking kernel is named and not met half-way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import MissingKvmCapError, UsageError
from vmmd.kvm import abi

if TYPE_CHECKING:
    from vmmd.kvm.system import Kvm

#: without these nothing runs
REQUIRED = (
    "KVM_CAP_IRQCHIP", "KVM_CAP_USER_MEMORY", "KVM_CAP_SET_TSS_ADDR", "KVM_CAP_EXT_CPUID", "KVM_CAP_MP_STATE",
    "KVM_CAP_DESTROY_MEMORY_REGION_WORKS", "KVM_CAP_IRQ_ROUTING", "KVM_CAP_IRQFD", "KVM_CAP_IOEVENTFD",
    "KVM_CAP_VCPU_EVENTS", "KVM_CAP_DEBUGREGS", "KVM_CAP_XSAVE", "KVM_CAP_SIGNAL_MSI", "KVM_CAP_READONLY_MEM",
    "KVM_CAP_IMMEDIATE_EXIT", "KVM_CAP_ADJUST_CLOCK",
)  # fmt: skip


def check_required(kvm: Kvm) -> None:
    """Raises MissingKvmCapError naming every capability that is lacking."""
    lacking = [name for name in REQUIRED if not kvm.check_extension(getattr(abi, name))]
    if lacking:
        raise MissingKvmCapError(f"The host's KVM lacks {', '.join(lacking)}")


def check_vcpu_count(kvm: Kvm, count: int, maximum: int) -> list[str]:
    """Warnings about more vCPUs than the host has processors. Raises UsageError beyond what KVM can do."""
    recommended = kvm.check_extension(abi.KVM_CAP_NR_VCPUS) or 4
    largest = kvm.check_extension(abi.KVM_CAP_MAX_VCPUS) or recommended
    warnings = []
    # QEMU-COMPAT: the sentences
    for number, kind, plural in ((count, "SMP cpus", "SMP CPUs"), (maximum, "hotpluggable cpus", "hotpluggable CPUs")):
        if number > largest:
            raise UsageError(f"Number of {plural} requested ({number}) exceeds max CPUs supported by KVM ({largest})")
        if number > recommended:
            warnings.append(
                f"Number of {kind} requested ({number}) exceeds the recommended cpus supported by KVM ({recommended})"
            )
    return warnings

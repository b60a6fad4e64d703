# SPDX-License-Identifier: Apache-2.0
"""Model-specific registers: indices (Intel SDM vol. 4, AMD APM vol. 2 app. A, kernel's msr.rst) and reset values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MSR_TSC = 0x10
MSR_APIC_BASE = 0x1B
MSR_FEATURE_CONTROL = 0x3A
MSR_TSC_ADJUST = 0x3B
MSR_SPEC_CTRL = 0x48
MSR_SMI_COUNT = 0x34
MSR_UCODE_REV = 0x8B
MSR_MTRR_CAP = 0xFE
MSR_ARCH_CAPABILITIES = 0x10A
MSR_SYSENTER_CS = 0x174
MSR_SYSENTER_ESP = 0x175
MSR_SYSENTER_EIP = 0x176
MSR_MCG_STATUS = 0x17A
MSR_MCG_CTL = 0x17B
MSR_MISC_ENABLE = 0x1A0
MSR_DEBUGCTL = 0x1D9
MSR_MTRR_PHYS_BASE0 = 0x200  # base and mask alternate
MSR_MTRR_VARIABLE_COUNT = 8
MSR_MTRR_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))
MSR_PAT = 0x277
MSR_MTRR_DEF_TYPE = 0x2FF
MSR_TSC_DEADLINE = 0x6E0
MSR_MC0_CTL = 0x400  # CTL, STATUS, ADDR, MISC of each bank
MSR_BNDCFGS = 0xD90
MSR_XSS = 0xDA0
MSR_STAR = 0xC000_0081
MSR_LSTAR = 0xC000_0082
MSR_CSTAR = 0xC000_0083
MSR_FMASK = 0xC000_0084
MSR_KERNEL_GS_BASE = 0xC000_0102
MSR_TSC_AUX = 0xC000_0103
MSR_VM_HSAVE_PA = 0xC001_0117
MSR_KVM_WALL_CLOCK = 0x4B56_4D00
MSR_KVM_SYSTEM_TIME = 0x4B56_4D01
MSR_KVM_ASYNC_PF_EN = 0x4B56_4D02
MSR_KVM_STEAL_TIME = 0x4B56_4D03
MSR_KVM_PV_EOI_EN = 0x4B56_4D04
MSR_KVM_POLL_CONTROL = 0x4B56_4D05
MSR_KVM_ASYNC_PF_INT = 0x4B56_4D06

#: write-back, write-through, uncached-, uncached, twice (SDM vol. 3 §12.12.4)
PAT_RESET = 0x0007_0406_0007_0406

#: values at power-on, in the order of writing. MTRRs off: everything is uncached by architecture, which KVM ignores.
_RESET: tuple[tuple[int, int], ...] = (
    (MSR_SYSENTER_CS, 0), (MSR_SYSENTER_ESP, 0), (MSR_SYSENTER_EIP, 0),
    (MSR_PAT, PAT_RESET),
    (MSR_STAR, 0), (MSR_LSTAR, 0), (MSR_CSTAR, 0), (MSR_FMASK, 0), (MSR_KERNEL_GS_BASE, 0), (MSR_TSC_AUX, 0),
    (MSR_TSC_ADJUST, 0), (MSR_TSC, 0), (MSR_TSC_DEADLINE, 0),
    (MSR_SPEC_CTRL, 0), (MSR_FEATURE_CONTROL, 0), (MSR_MCG_STATUS, 0), (MSR_MISC_ENABLE, 1), (MSR_BNDCFGS, 0),
    (MSR_XSS, 0), (MSR_VM_HSAVE_PA, 0), (MSR_SMI_COUNT, 0),
    (MSR_KVM_SYSTEM_TIME, 0), (MSR_KVM_WALL_CLOCK, 0), (MSR_KVM_ASYNC_PF_EN, 0), (MSR_KVM_ASYNC_PF_INT, 0),
    (MSR_KVM_STEAL_TIME, 0), (MSR_KVM_PV_EOI_EN, 0), (MSR_KVM_POLL_CONTROL, 1),
    (MSR_MTRR_DEF_TYPE, 0),
    *((index, 0) for index in MSR_MTRR_FIXED),
    *((MSR_MTRR_PHYS_BASE0 + number, 0) for number in range(2 * MSR_MTRR_VARIABLE_COUNT)),
)  # fmt: skip

#: kept by KVM although KVM_GET_MSR_INDEX_LIST of older kernels leaves them out
_ALWAYS = frozenset({MSR_PAT, MSR_MTRR_DEF_TYPE, *MSR_MTRR_FIXED, *range(0x200, 0x200 + 2 * MSR_MTRR_VARIABLE_COUNT)})


#: machine-check banks of a guest, and what MCG_CAP says besides their number: MCG_CTL exists, software error recovery
MCE_BANKS = 10
MCG_CAP_FLAGS = 1 << 8 | 1 << 24


def reset_values(known: Iterable[int], mce_banks: int) -> dict[int, int]:
    """Power-on values of the MSRs that this KVM has, with ``mce_banks`` machine-check banks (all errors enabled)."""
    available = _ALWAYS.union(known)
    values = {index: value for index, value in _RESET if index in available}
    if mce_banks:
        all_ones = (1 << 64) - 1
        values[MSR_MCG_CTL] = all_ones
        for index in range(MSR_MC0_CTL, MSR_MC0_CTL + 4 * mce_banks):
            values[index] = all_ones if index % 4 == 0 else 0
    return values

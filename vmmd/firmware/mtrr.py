# SPDX-License-Identifier: Apache-2.0
"""Memory type range registers as firmware leaves them (Intel SDM vol. 3 §12.11); kernels check or copy them.

RAM is write-back by default, 0xa0000-0xbffff uncached, 0xc0000-0xfffff write-protected, and one variable range makes
the PCI window up to 4 GiB uncached: the values that SeaBIOS 1.16.2 writes on KVM.
"""

from __future__ import annotations

MSR_PHYS_BASE0, MSR_PHYS_MASK0 = 0x200, 0x201
MSR_FIX_64K, MSR_FIX_16K_80000, MSR_FIX_16K_A0000 = 0x250, 0x258, 0x259
MSR_FIX_4K_C0000, MSR_FIX_4K_LAST = 0x268, 0x26F
MSR_DEF_TYPE = 0x2FF

_WRITE_BACK = 0x0606_0606_0606_0606
_WRITE_PROTECTED = 0x0505_0505_0505_0505
_UNCACHED = 0
_MASK_VALID = 1 << 11
_ENABLE_ALL_DEFAULT_WRITE_BACK = 0xC06
#: where the uncached range may begin: it ends at 4 GiB and its size is a power of two
_WINDOW_STARTS = (0x8000_0000, 0xC000_0000, 0xE000_0000)


def values(ram_below_4g: int, physical_bits: int) -> tuple[tuple[int, int], ...]:
    """(MSR, value) for every CPU. ``physical_bits`` is the width of physical addresses that CPUID tells."""
    start = next((each for each in _WINDOW_STARTS if ram_below_4g <= each), _WINDOW_STARTS[-1])
    mask = (1 << physical_bits) - (1 << 32) + start | _MASK_VALID
    protected = ((index, _WRITE_PROTECTED) for index in range(MSR_FIX_4K_C0000, MSR_FIX_4K_LAST + 1))
    return (
        (MSR_FIX_64K, _WRITE_BACK),
        (MSR_FIX_16K_80000, _WRITE_BACK),
        (MSR_FIX_16K_A0000, _UNCACHED),
        *protected,
        (MSR_PHYS_BASE0, start),
        (MSR_PHYS_MASK0, mask),
        (MSR_DEF_TYPE, _ENABLE_ALL_DEFAULT_WRITE_BACK),
    )

# SPDX-License-Identifier: Apache-2.0
"""One leaf of CPUID, apart from KVM's structures: whoever only thinks about CPU models need not load these."""

from __future__ import annotations

from typing import NamedTuple


class CpuidEntry(NamedTuple):
    """One CPUID leaf. ``indexed``: it is one of several sub-leaves chosen by ECX."""

    function: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    indexed: bool
    eax: int
    ebx: int
    ecx: int
    edx: int

# SPDX-License-Identifier: Apache-2.0
"""QAPI types of what is vmmd's own: names begin with ``__org.vmmd_``."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class KvmCounter(TypedDict):
    """A counter of KVM's own."""

    name: str
    value: int


ExitReason = TypedDict("ExitReason", {"reason": str, "count": int, "per-second": float})
"""How often a vCPU left the guest for one reason, since it was made and in the window."""

VcpuInsight = TypedDict(
    "VcpuInsight",
    {
        "cpu-index": int,
        "exits": int,
        "exits-per-second": float,
        "reasons": list[ExitReason],
        "counters": list[KvmCounter],
    },
)
"""What one vCPU does."""

KvmInsight = TypedDict(
    "KvmInsight",
    {
        "vendor": Literal["vmx", "svm", "other"],
        "module": str,
        "paging": Literal["ept", "npt", "shadow", "unknown"],
        "uptime-ns": int,
        "window-ns": int,
        "vcpus": list[VcpuInsight],
        "counters": list[KvmCounter],
    },
)
"""What KVM is on this host, and what the vCPUs do with it. Rates are over the last ``window-ns``."""

# SPDX-License-Identifier: Apache-2.0
"""QAPI types of what is vmmd's own: names begin with ``__org.vmmd_``."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

OutputFileInfo = TypedDict("OutputFileInfo", {"path": str, "lost-bytes": int, "moved": int})
"""A file that a character device writes: bytes that it did not take, and how often it was full and moved away."""

ChardevTraffic = TypedDict(
    "ChardevTraffic",
    {
        "label": str,
        "backend": str,
        "filename": str,
        "connected": bool,
        "frontend-open": bool,
        "waiting-bytes": int,
        "kept-bytes": int,
        "dropped-bytes": int,
        "dropped-input-bytes": int,
        "logfile": NotRequired[OutputFileInfo],
        "file": NotRequired[OutputFileInfo],
    },
)
"""A character device: output that its peer has not taken yet, that is kept for its next peer (``replay=``), that nobody
got; and input that the guest did not get."""


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

VirtqueueInfo = TypedDict(
    "VirtqueueInfo",
    {
        "index": int,
        "size": int,
        "enabled": bool,
        "notifications": int,
        "requests": int,
        "interrupts": int,
        "in-flight": int,
    },
)
"""One virtqueue; the counts are since the device was made."""


class VirtioDeviceInfo(TypedDict):
    """A virtio device and its queues; ``qdev`` is its QOM path."""

    qdev: str
    id: NotRequired[str]
    driver: str
    queues: list[VirtqueueInfo]


class VhostInfo(TypedDict):
    """Whether the queues of a NIC at ``netdev`` are served outside vmmd, and why, or why not."""

    netdev: str
    type: str
    on: bool
    reason: str


class NumberedEvent(TypedDict):
    """An event as it was sent, and its number: the first one of the process has 1."""

    number: int
    event: object


class EventLog(TypedDict):
    """Events that are kept. ``next``: what to ask for later; ``lost``: how many that were asked for are gone."""

    events: list[NumberedEvent]
    next: int
    lost: int

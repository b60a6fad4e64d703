# SPDX-License-Identifier: Apache-2.0
"""QAPI types of disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.options.backends import BLOCK_CHILD, BLOCKDEVS
from vmmd.qmp.models.options import option_union
from vmmd.qmp.models.unions import Alternate, Tagged

if TYPE_CHECKING:
    BlockdevOptions = dict[str, Any]
else:
    BlockdevOptions = option_union(__name__, "driver", BLOCKDEVS, {BLOCK_CHILD: "BlockdevRef"})
    """A node of the block graph, as -blockdev."""
BlockdevRef = Annotated[str | BlockdevOptions, Alternate("BlockdevRef")]
"""A node: the name of one that exists, or the options of a new one."""

ImageInfo = TypedDict(
    "ImageInfo",
    {
        "filename": str,
        "format": str,
        "virtual-size": int,
        "actual-size": NotRequired[int],
        "dirty-flag": NotRequired[bool],
    },
)
"""The image behind a node."""

BlockdevCacheInfo = TypedDict("BlockdevCacheInfo", {"writeback": bool, "direct": bool, "no-flush": bool})
"""Cache mode of a disk."""

BlockDeviceInfo = TypedDict(
    "BlockDeviceInfo",
    {
        "file": str,
        "node-name": NotRequired[str],
        "ro": bool,
        "drv": str,
        "backing_file_depth": int,
        "encrypted": bool,
        "detect_zeroes": Literal["off", "on", "unmap"],
        "bps": int,
        "bps_rd": int,
        "bps_wr": int,
        "iops": int,
        "iops_rd": int,
        "iops_wr": int,
        "image": ImageInfo,
        "cache": BlockdevCacheInfo,
        "write_threshold": int,
    },
)
"""What is in a drive."""

BlockInfo = TypedDict(
    "BlockInfo",
    {
        "device": str,
        "qdev": NotRequired[str],
        "type": str,
        "removable": bool,
        "locked": bool,
        "inserted": NotRequired[BlockDeviceInfo],
        "io-status": NotRequired[Literal["ok", "failed", "nospace"]],
        "tray_open": NotRequired[bool],
    },
)
"""A drive and what is in it."""

BlockdevChangeReadOnlyMode = Literal["retain", "read-only", "read-write"]
"""Whether a new medium can be written: ``retain`` for as the last one."""


class BlockDeviceTimedStats(TypedDict):
    """Statistics over an interval; none is kept, so lists of them are empty."""

    interval_length: int
    min_rd_latency_ns: int
    max_rd_latency_ns: int
    avg_rd_latency_ns: int
    min_wr_latency_ns: int
    max_wr_latency_ns: int
    avg_wr_latency_ns: int
    min_flush_latency_ns: int
    max_flush_latency_ns: int
    avg_flush_latency_ns: int
    avg_rd_queue_depth: float
    avg_wr_queue_depth: float


class BlockDeviceStats(TypedDict):
    """Counters of a disk since the start."""

    rd_bytes: int
    wr_bytes: int
    unmap_bytes: int
    rd_operations: int
    wr_operations: int
    flush_operations: int
    unmap_operations: int
    rd_total_time_ns: int
    wr_total_time_ns: int
    flush_total_time_ns: int
    unmap_total_time_ns: int
    wr_highest_offset: int
    rd_merged: int
    wr_merged: int
    unmap_merged: int
    idle_time_ns: NotRequired[int]
    failed_rd_operations: int
    failed_wr_operations: int
    failed_flush_operations: int
    failed_unmap_operations: int
    invalid_rd_operations: int
    invalid_wr_operations: int
    invalid_flush_operations: int
    invalid_unmap_operations: int
    account_invalid: bool
    account_failed: bool
    timed_stats: list[BlockDeviceTimedStats]


FileDiscardStats = TypedDict(
    "FileDiscardStats",
    {
        "driver": Literal["file", "host_device"],
        "discard-nb-ok": int,
        "discard-nb-failed": int,
        "discard-bytes-ok": int,
    },
)
"""What the host has done with discards."""

BlockStatsSpecific = Annotated[FileDiscardStats, Tagged("driver")]

BlockStats = TypedDict(
    "BlockStats",
    {
        "device": NotRequired[str],
        "qdev": NotRequired[str],
        "node-name": NotRequired[str],
        "stats": BlockDeviceStats,
        "driver-specific": NotRequired[BlockStatsSpecific],
        "parent": NotRequired["BlockStats"],
    },
)
"""Counters of a disk and of the node below it."""

BlockJobInfo = TypedDict(
    "BlockJobInfo",
    {
        "type": str,
        "device": str,
        "len": int,
        "offset": int,
        "busy": bool,
        "paused": bool,
        "speed": int,
        "io-status": Literal["ok", "failed", "nospace"],
        "ready": bool,
        "status": Literal[
            "undefined", "created", "running", "paused", "ready", "standby", "waiting", "pending", "aborting",
            "concluded", "null",
        ],
        "auto-finalize": bool,
        "auto-dismiss": bool,
    },
)  # fmt: skip
"""A background job on a disk."""

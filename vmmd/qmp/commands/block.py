# SPDX-License-Identifier: Apache-2.0
"""Commands about disks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from typing import Literal

    from vmmd.core import backend
    from vmmd.qmp.models.block import BlockDeviceInfo, BlockDeviceStats, BlockInfo, BlockStats, ImageInfo
    from vmmd.qmp.vm_api import DiskApi


@command("query-block", since="0.14")
def query_block(ctx: Context) -> list[BlockInfo]:
    """The drives and what is in them."""
    block = ctx.vm.block
    return [] if block is None else [_drive(disk) for disk in block.query()]


@command("query-blockstats", since="0.14")
def query_blockstats(ctx: Context, *, query_nodes: bool = False) -> list[BlockStats]:
    """Counters of the drives, or with ``query-nodes`` of every node with a name."""
    block = ctx.vm.block
    disks = () if block is None else block.query()
    if query_nodes:
        return [_node_stats(disk) for disk in disks if disk.inserted]
    return [_drive_stats(disk) for disk in disks]


def _drive(disk: DiskApi) -> BlockInfo:
    info: BlockInfo = {"device": disk.name, "type": "unknown", "removable": disk.removable, "locked": False}
    if disk.qdev is not None:
        info["qdev"] = disk.qdev
    if disk.io_status is not None:
        info["io-status"] = cast("Literal['ok', 'failed', 'nospace']", disk.io_status)
    if disk.inserted:
        info["inserted"] = _inserted(disk)
    return info


def _inserted(disk: DiskApi) -> BlockDeviceInfo:
    image: ImageInfo = {
        "filename": disk.filename,
        "format": disk.driver,
        "virtual-size": disk.virtual_size,
    }
    if disk.actual_size is not None:
        image["actual-size"] = disk.actual_size
    return {
        "file": disk.filename,
        "node-name": disk.node_name,
        "ro": disk.read_only,
        "drv": disk.driver,
        "backing_file_depth": 0,
        "encrypted": False,
        "detect_zeroes": cast("Literal['off', 'on', 'unmap']", disk.detect_zeroes),
        "bps": 0,
        "bps_rd": 0,
        "bps_wr": 0,
        "iops": 0,
        "iops_rd": 0,
        "iops_wr": 0,
        "image": image,
        "cache": {"writeback": disk.cache_writeback, "direct": disk.cache_direct, "no-flush": disk.cache_no_flush},
        "write_threshold": 0,
    }


def _drive_stats(disk: DiskApi) -> BlockStats:
    stats: BlockStats = {"device": disk.name, "stats": _counters(disk.stats)}
    if disk.qdev is not None:
        stats["qdev"] = disk.qdev
    if disk.inserted:
        stats["node-name"] = disk.node_name
    if disk.protocol_driver is not None:
        stats["parent"] = _protocol_stats(disk)
    return stats


def _node_stats(disk: DiskApi) -> BlockStats:
    """QEMU-COMPAT: nodes have no request counters of their own, only the write high-water mark."""
    from vmmd.core.backend import BlockStats as Counters

    counters = Counters()
    counters.wr_highest_offset = disk.stats.wr_highest_offset
    stats: BlockStats = {"node-name": disk.node_name, "stats": _counters(counters, accounts=False)}
    if disk.protocol_driver is not None:
        stats["parent"] = _protocol_stats(disk)
    return stats


def _protocol_stats(disk: DiskApi) -> BlockStats:
    from vmmd.core.backend import BlockStats as Counters

    counters = Counters()
    counters.wr_highest_offset = disk.stats.wr_highest_offset
    stats: BlockStats = {"stats": _counters(counters, accounts=False)}
    if disk.protocol_node_name is not None:
        stats["node-name"] = disk.protocol_node_name
    return stats


def _counters(stats: backend.BlockStats, *, accounts: bool = True) -> BlockDeviceStats:
    counters: BlockDeviceStats = {
        "rd_bytes": stats.rd_bytes,
        "wr_bytes": stats.wr_bytes,
        "unmap_bytes": stats.unmap_bytes,
        "rd_operations": stats.rd_ops,
        "wr_operations": stats.wr_ops,
        "flush_operations": stats.flush_ops,
        "unmap_operations": stats.unmap_ops,
        "rd_total_time_ns": stats.rd_ns,
        "wr_total_time_ns": stats.wr_ns,
        "flush_total_time_ns": stats.flush_ns,
        "unmap_total_time_ns": stats.unmap_ns,
        "wr_highest_offset": stats.wr_highest_offset,
        "rd_merged": stats.rd_merged,
        "wr_merged": stats.wr_merged,
        "unmap_merged": 0,
        "failed_rd_operations": stats.failed_rd,
        "failed_wr_operations": stats.failed_wr,
        "failed_flush_operations": stats.failed_flush,
        "failed_unmap_operations": stats.failed_unmap,
        "invalid_rd_operations": stats.invalid_rd,
        "invalid_wr_operations": stats.invalid_wr,
        "invalid_flush_operations": 0,
        "invalid_unmap_operations": stats.invalid_unmap,
        "account_invalid": accounts,
        "account_failed": accounts,
        "timed_stats": [],
    }
    if accounts and stats.idle_since_ns:
        counters["idle_time_ns"] = max(0, time.monotonic_ns() - stats.idle_since_ns)
    return counters

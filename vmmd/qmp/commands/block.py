# SPDX-License-Identifier: Apache-2.0
"""Commands about disks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from vmmd.core.backend import BlockStats as Counters
from vmmd.core.background import on_thread
from vmmd.errors import DeviceNotFoundError, UsageError, did_you_mean
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from typing import Literal

    from vmmd.block.base import BlockNode
    from vmmd.block.drives import Drive
    from vmmd.block.graph import BlockGraph
    from vmmd.block.media import MediaChanger
    from vmmd.qmp.models.block import (
        BlockdevChangeReadOnlyMode,
        BlockDeviceInfo,
        BlockDeviceStats,
        BlockdevOptions,
        BlockInfo,
        BlockJobInfo,
        BlockStats,
        ImageInfo,
    )
    from vmmd.qmp.vm_api import DiskApi, ImageApi, NodeApi, VmApi

_NODE: dict[str, object] = {"driver": "null-co", "node-name": "disk0", "size": 1048576, "read-zeroes": True}
_ADDED = (("blockdev-add", _NODE),)


@command("query-block", since="0.14", preconfig=True)
def query_block(ctx: Context) -> list[BlockInfo]:
    """The drives and what is in them."""
    block = ctx.vm.block
    return [] if block is None else [_drive(disk) for disk in block.query()]


@command("query-named-block-nodes", since="2.0", preconfig=True, example=Example({"flat": True}, before=_ADDED))
def query_named_block_nodes(ctx: Context, *, flat: bool = False) -> list[BlockDeviceInfo]:
    """The nodes of the block graph, the newest first. ``flat`` leaves out the information about backing images, which
    no image of this version has."""
    block = ctx.vm.block
    return [] if block is None else [_inserted(node) for node in reversed(block.all_nodes())]


@command("query-blockstats", since="0.14", preconfig=True, example=Example({"query-nodes": True}, before=_ADDED))
def query_blockstats(ctx: Context, *, query_nodes: bool = False) -> list[BlockStats]:
    """Counters of the drives, or with ``query-nodes`` of every node."""
    block = ctx.vm.block
    if block is None:
        return []
    disks = block.query()
    if not query_nodes:
        return [_drive_stats(disk) for disk in disks]
    highest = {node.node_name: disk.stats.wr_highest_offset for disk in disks for node in _chain(disk.node)}
    return [_node_stats(node, highest.get(node.node_name, 0)) for node in block.all_nodes()]


@command("query-block-jobs", since="1.1", preconfig=True)
def query_block_jobs(ctx: Context) -> list[BlockJobInfo]:
    """Background jobs on disks; this version has none."""
    return []


@command("blockdev-add", since="2.9", example=Example(_NODE))
async def blockdev_add(ctx: Context, options: BlockdevOptions) -> dict[str, object]:
    """Add a node to the block graph, as -blockdev: a device can have it then, or another node. A node that is defined
    inside another comes and goes with that."""
    from vmmd.options.read_backends import block_node

    made = block_node(options, "blockdev-add")
    if made.node_name is None:
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError("'node-name' must be specified for the root node")
    await (await block_graph(ctx.vm)).add_later(made)
    return {}


@command("blockdev-del", since="2.9", example=Example({"node-name": "disk0"}, before=_ADDED))
async def blockdev_del(ctx: Context, *, node_name: str) -> dict[str, object]:
    """Remove a node that blockdev-add or -blockdev has added and nobody uses. When it returns, the image is free."""
    await (await block_graph(ctx.vm)).remove(node_name)
    return {}


@command(
    "block_resize",
    since="0.14",
    example=Example({"node-name": "disk0", "size": 1073741824}, before=_ADDED, error="GenericError"),
)
async def block_resize(
    ctx: Context, *, device: str | None = None, node_name: str | None = None, size: int
) -> dict[str, object]:
    """Give a disk another size, in bytes; the guest is told. ``device`` is the id of a drive, ``node-name`` a node;
    raw images on files can change. What is cut off is lost."""
    graph = await block_graph(ctx.vm)
    node = _named_node(graph, device, node_name)
    if size < 0:
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError("Parameter 'size' expects a >0 size")
    if size >= node.virtual_size:
        await graph.resize(node, size)
        return {}
    async with ctx.vm.at_rest():  # a request beyond the new end would make the file long again
        # another command may have removed the one we saw while we waited for our turn
        await graph.resize(_named_node(graph, device, node_name), size)
    return {}


@command("blockdev-open-tray", since="2.5", example=Example({"id": "cd0", "force": True}, error="DeviceNotFound"))
async def blockdev_open_tray(
    ctx: Context,
    *,
    device: str | None = None,
    id: str | None = None,  # noqa: A002  # the argument's name
    force: bool = False,
) -> dict[str, object]:
    """Open the tray of a drive, which is named by its ``device`` (the id of the drive) or by the ``id`` of the guest
    device. A guest that has locked it is asked to, and DEVICE_TRAY_MOVED comes when it has; ``force`` opens it now."""
    drive, label = _drive_named(await block_graph(ctx.vm), ctx.vm, device, id)
    (await _changer(ctx.vm)).open_tray(drive, label, force=force)
    return {}


@command("blockdev-close-tray", since="2.5", example=Example({"id": "cd0"}, error="DeviceNotFound"))
async def blockdev_close_tray(
    ctx: Context,
    *,
    device: str | None = None,
    id: str | None = None,  # noqa: A002  # the argument's name
) -> dict[str, object]:
    """Close the tray of a drive with what is in it. A drive without tray, or with a closed one, stays as it is."""
    drive, label = _drive_named(await block_graph(ctx.vm), ctx.vm, device, id)
    (await _changer(ctx.vm)).close_tray(drive, label)
    return {}


@command("blockdev-remove-medium", since="2.12", example=Example({"id": "cd0"}, error="DeviceNotFound"))
async def blockdev_remove_medium(ctx: Context, *, id: str) -> dict[str, object]:  # noqa: A002  # the argument's name
    """Take the medium out of a device whose tray is open. A node that blockdev-add has made stays; another goes."""
    drive, label = _drive_named(await block_graph(ctx.vm), ctx.vm, None, id)
    await (await _changer(ctx.vm)).remove(drive, label)
    return {}


@command(
    "blockdev-insert-medium",
    since="2.12",
    example=Example({"id": "cd0", "node-name": "disk0"}, before=_ADDED, error="DeviceNotFound"),
)
async def blockdev_insert_medium(
    ctx: Context,
    *,
    id: str,  # noqa: A002  # the argument's name
    node_name: str,
) -> dict[str, object]:
    """Put a node that nobody uses into a device whose tray is open and empty."""
    drive, label = _drive_named(await block_graph(ctx.vm), ctx.vm, None, id)
    changer = await _changer(ctx.vm)
    await changer.insert(drive, label, changer.free_node(node_name))
    return {}


@command(
    "blockdev-change-medium",
    since="2.5",
    example=Example({"id": "cd0", "filename": "/images/second.iso", "format": "raw"}, error="DeviceNotFound"),
)
async def blockdev_change_medium(  # noqa: PLR0913  # the command's arguments
    ctx: Context,
    *,
    device: str | None = None,
    id: str | None = None,  # noqa: A002  # the argument's name
    filename: str,
    format: str | None = None,  # noqa: A002  # the argument's name
    force: bool = False,
    read_only_mode: BlockdevChangeReadOnlyMode = "retain",
) -> dict[str, object]:
    """Open an image, take out the medium of a drive, put the image in, and close the tray: all of that in one. A tray
    that the guest has locked is opened with ``force`` only."""
    drive, label = _drive_named(await block_graph(ctx.vm), ctx.vm, device, id)
    read_only = {"retain": None, "read-only": True, "read-write": False}[read_only_mode]
    changer = await _changer(ctx.vm)
    await changer.change(drive, label, filename, format, read_only=read_only, force=force)
    return {}


@command("eject", since="0.14", example=Example({"id": "cd0", "force": True}, error="DeviceNotFound"))
async def eject(
    ctx: Context,
    *,
    device: str | None = None,
    id: str | None = None,  # noqa: A002  # the argument's name
    force: bool = False,
) -> dict[str, object]:
    """Open the tray of a drive and take its medium out. One that the guest has locked is opened with ``force`` only."""
    drive, label = _drive_named(await block_graph(ctx.vm), ctx.vm, device, id)
    await (await _changer(ctx.vm)).eject(drive, label, force=force)
    return {}


async def _changer(vm: VmApi) -> MediaChanger:
    from vmmd.block.media import MediaChanger

    return MediaChanger(await block_graph(vm), vm.lock, vm.events, vm.at_rest)


def _drive_named(graph: BlockGraph, vm: VmApi, device: str | None, id_: str | None) -> tuple[Drive, str]:
    """The drive of this id or guest device, and what errors call it. Raises UsageError, DeviceNotFoundError."""
    # QEMU-COMPAT: QEMU's sentences
    if device is not None and id_ is None:
        return graph.drive(device), device
    if id_ is None or device is not None:
        raise UsageError("Need exactly one of 'device' and 'id'", "a drive's id, or that of a guest device")
    node = vm.qom.resolve(id_) if id_.startswith("/") else vm.qom.peripheral.children.get(id_)
    if node is None:
        raise DeviceNotFoundError(f"Device '{id_}' not found", did_you_mean(id_, vm.qom.peripheral.children))
    names = {node.path, node.path.removeprefix(f"{vm.qom.peripheral.path}/")}
    for drive in graph.disks:
        if drive.qdev in names:
            return drive, id_
    raise UsageError("Device does not have a block device backend", f"{node.path} has no drive")


def _named_node(graph: BlockGraph, device: str | None, node_name: str | None) -> BlockNode:
    """The node of a drive, or of a name. Raises UsageError."""
    # QEMU-COMPAT: QEMU's sentences, and that a drive counts before a node
    drive = graph.drives.get(device or "")
    if drive is not None and drive.node is None:
        raise UsageError(f"Device '{device}' has no medium")
    node = graph.nodes.get(node_name or "") if drive is None else drive.node
    if node is None:
        hint = did_you_mean(device or node_name or "", [*graph.drives, *graph.nodes])
        raise UsageError(f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'", hint)
    return node


async def block_graph(vm: VmApi) -> BlockGraph:
    """The disks. The first of a machine that started without imports the block layer."""
    if vm.block is None:
        await on_thread(vm.loop, _import_block_layer, "import")
    return vm.block_graph()


def _import_block_layer() -> None:
    import vmmd.block.file
    import vmmd.block.graph
    import vmmd.block.media
    import vmmd.block.raw  # noqa: F401  # so that they are there


def _drive(disk: DiskApi) -> BlockInfo:
    info: BlockInfo = {
        "device": disk.name,
        "type": "unknown",
        "removable": disk.removable,
        "locked": disk.medium_locked,
    }
    if disk.tray_open is not None:
        info["tray_open"] = disk.tray_open
    if disk.qdev is not None:
        info["qdev"] = disk.qdev
    if disk.io_status is not None:
        info["io-status"] = cast("Literal['ok', 'failed', 'nospace']", disk.io_status)
    if disk.inserted:
        info["inserted"] = _inserted(disk)
    return info


def _inserted(disk: ImageApi) -> BlockDeviceInfo:
    image: ImageInfo = {
        "filename": disk.filename,
        "format": disk.driver,
        "virtual-size": disk.virtual_size,
    }
    if disk.actual_size is not None:
        image["actual-size"] = disk.actual_size
    if disk.may_be_dirty:
        image["dirty-flag"] = False
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


def _chain(node: NodeApi | None) -> list[NodeApi]:
    """A node and those below it."""
    return [] if node is None else [node, *_chain(node.file)]


def _drive_stats(disk: DiskApi) -> BlockStats:
    node = disk.node
    stats: BlockStats = {} if node is None else _node_stats(node, disk.stats.wr_highest_offset)  # type: ignore[typeddict-item]  # completed below
    stats["device"] = disk.name
    stats["stats"] = _counters(disk.stats)
    if disk.qdev is not None:
        stats["qdev"] = disk.qdev
    return stats


def _node_stats(node: NodeApi, highest_offset: int) -> BlockStats:
    """QEMU-COMPAT: nodes have no request counters of their own, only the write high-water mark."""
    counters = Counters()
    counters.wr_highest_offset = highest_offset
    stats: BlockStats = {"node-name": node.node_name, "stats": _counters(counters, accounts=False)}
    if node.discards is not None:
        succeeded, failed, discarded_bytes = node.discards
        stats["driver-specific"] = {
            "driver": cast("Literal['file', 'host_device']", node.driver),
            "discard-nb-ok": succeeded,
            "discard-nb-failed": failed,
            "discard-bytes-ok": discarded_bytes,
        }
    if node.file is not None:
        stats["parent"] = _node_stats(node.file, highest_offset)
    return stats


def _counters(stats: Counters, *, accounts: bool = True) -> BlockDeviceStats:
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

# SPDX-License-Identifier: Apache-2.0
"""Disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.vm_api import DiskApi, ImageApi


def _disk_ids(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return () if monitor.vm.block is None else (disk.name or disk.node_name for disk in monitor.vm.block.query())


@hmp(
    "info block",
    params="[-n] [-v] [device]",
    help="disks (-n: by node, -v: with image details)",
    complete=_disk_ids,
)
def info_block(monitor: HumanMonitor, arguments: Arguments) -> str:
    flags = arguments.flags("nv")
    wanted = arguments.word()
    arguments.done()
    block, verbose = monitor.vm.block, "v" in flags
    if block is None:
        return ""
    if "n" in flags:
        nodes = [node for node in reversed(block.all_nodes()) if wanted in ("", node.node_name)]
        return "\n".join(_lines([f"{node.node_name}: {_content(node)}", *_details(node, verbose)]) for node in nodes)
    disks = [disk for disk in block.query() if wanted in ("", disk.name, disk.node_name)]
    return "\n".join(_disk(disk, verbose=verbose) for disk in disks)


def _disk(disk: DiskApi, *, verbose: bool) -> str:
    # QEMU-COMPAT: without name and node it is known by its device
    label = disk.name or disk.node_name or disk.qdev or ""
    if disk.name and disk.inserted and disk.node_name:
        label = f"{disk.name} ({disk.node_name})"
    lines = [f"{label}: {_content(disk) if disk.inserted else '[not inserted]'}", *_drive(disk)]
    return _lines(lines + _details(disk, verbose) if disk.inserted else lines)


def _content(image: ImageApi) -> str:
    read_only = ", read-only" if image.read_only else ""
    return f"{image.filename} ({image.driver}{read_only})"


def _details(image: ImageApi, verbose: bool) -> list[str]:
    return [*_cache(image), *(_image(image) if verbose else ())]


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _drive(disk: DiskApi) -> list[str]:
    lines = []
    if disk.qdev is not None:
        lines.append(f"    Attached to:      {disk.qdev}")
    if disk.removable:
        locked = "" if disk.medium_locked else "not "
        tray = "open" if disk.tray_open else "closed"
        lines.append(f"    Removable device: {locked}locked, tray {tray}")
    if disk.io_status not in (None, "ok"):
        lines.append(f"    I/O status:       {disk.io_status}")
    return lines


def _cache(disk: ImageApi) -> list[str]:
    words = ["writeback" if disk.cache_writeback else "writethrough"]
    words += ["direct"] if disk.cache_direct else []
    words += ["ignore flushes"] if disk.cache_no_flush else []
    lines = [f"    Cache mode:       {', '.join(words)}"]
    if disk.detect_zeroes != "off":
        lines.append(f"    Detect zeroes:    {disk.detect_zeroes}")
    return lines


def _image(disk: ImageApi) -> list[str]:
    from vmmd.units import format_size

    lines = [
        "",
        "Images:",
        f"image: {disk.filename}",
        f"file format: {disk.driver}",
        f"virtual size: {format_size(disk.virtual_size)} ({disk.virtual_size} bytes)",
    ]
    if disk.actual_size is not None:
        lines.append(f"disk size: {format_size(disk.actual_size)}")
    return lines


@hmp(
    "eject",
    params="[-f] device",
    help="eject a removable medium (use -f to force it)",
    complete=_disk_ids,
)
async def eject(monitor: HumanMonitor, arguments: Arguments) -> str:
    force = "f" in arguments.flags("f")
    device = arguments.string("block device name")
    arguments.done()
    await monitor.qmp("eject", {"device": device, "force": force})
    return ""


@hmp(
    "change",
    params="device [-f] filename [format [read-only-mode]]",
    help="change a removable medium, optional format, use -f to force the operation",
    complete=_disk_ids,
)
async def change(monitor: HumanMonitor, arguments: Arguments) -> str:
    """LIMIT: only drives; ``change vnc password`` needs a display."""
    device = arguments.string("block device name")
    if device == "vnc":
        raise UsageError("change vnc: not available in this version", "there is no VNC display")
    force = "f" in arguments.flags("f")
    keys: dict[str, object] = {"device": device, "force": force, "filename": arguments.string("filename")}
    form, mode = arguments.word(), arguments.word()
    arguments.done()
    if form:
        keys["format"] = form
    if mode:
        if mode not in _READ_ONLY_MODES:
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError(f"invalid parameter value: {mode}", f"it is one of {', '.join(_READ_ONLY_MODES)}")
        keys["read-only-mode"] = mode
    await monitor.qmp("blockdev-change-medium", keys)
    return ""


_READ_ONLY_MODES = ("retain", "read-only", "read-write")


@hmp("info blockstats", help="counters of the disks")
async def info_blockstats(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    text = ""
    for disk in await monitor.qmp("query-blockstats"):
        stats = disk["stats"]
        counters = " ".join(f"{key}={stats.get(key, 0)}" for key in _COUNTERS)
        text += f"{disk.get('device', '')}: {counters}\n"
    return text


_COUNTERS = (
    "rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations", "wr_total_time_ns",
    "rd_total_time_ns", "flush_total_time_ns", "rd_merged", "wr_merged", "idle_time_ns",
)  # fmt: skip


@hmp("info block-jobs", help="background jobs on disks")
async def info_block_jobs(monitor: HumanMonitor, arguments: Arguments) -> str:
    """LIMIT: there are none yet, and so no text for one."""
    arguments.done()
    await monitor.qmp("query-block-jobs")
    return "No active jobs\n"

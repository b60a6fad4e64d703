# SPDX-License-Identifier: Apache-2.0
"""Commands about what is vmmd's own: names begin with ``__org.vmmd_``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError, VmmdError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.chardev.base import Chardev
    from vmmd.chardev.output_file import OutputFile
    from vmmd.devices.virtio.device import VirtioDevice
    from vmmd.kvm.stats import Statistic
    from vmmd.machine.exit_meter import ExitReport
    from vmmd.qmp.models.vmmd import (
        ChardevTraffic,
        EventLog,
        ExitReason,
        KvmCounter,
        KvmInsight,
        OutputFileInfo,
        VcpuInsight,
        VhostInfo,
        VirtioDeviceInfo,
        VirtqueueInfo,
    )


@command("__org.vmmd_query-kvm", since="7.2")
async def query_kvm_insight(ctx: Context) -> KvmInsight:
    """Tell what KVM is on this host and how the vCPUs use it: exits by reason with rates, and KVM's own counters.

    Rates are over ``window-ns``: the time since somebody last asked, a second at least, or since the vCPUs were made
    when nobody did. Histograms are left out; ``query-stats`` has them.
    """
    from vmmd.core.background import Turn
    from vmmd.kvm.host import host_kvm

    host, cpus = host_kvm(), ctx.vm.cpus
    insight: KvmInsight = {
        "vendor": host.vendor,
        "module": host.module,
        "paging": host.paging,
        "uptime-ns": 0,
        "window-ns": 0,
        "vcpus": [],
        "counters": [],
    }
    if cpus is None:
        return insight
    report = cpus.exit_meter.report()
    insight["uptime-ns"], insight["window-ns"] = report.uptime_ns, report.window_ns
    turn = Turn(ctx.vm.loop)
    for index in range(len(report.counts)):
        await turn.pause()
        insight["vcpus"].append(_vcpu(index, report, cpus.statistics(index)))
    insight["counters"] = _counters(cpus.vm_statistics())
    return insight


def _vcpu(index: int, report: ExitReport, statistics: Iterable[Statistic]) -> VcpuInsight:
    from vmmd.machine.cpus import EXIT_NAMES

    counts, recent = report.counts[index], report.recent(index)

    def rate(exits: int) -> float:
        return round(exits * 1e9 / report.window_ns, 1) if report.window_ns else 0.0

    reasons: list[ExitReason] = [
        {"reason": EXIT_NAMES.get(number, str(number)), "count": count, "per-second": rate(recent[number])}
        for number, count in enumerate(counts)
        if count
    ]
    reasons.sort(key=lambda each: each["count"], reverse=True)
    return {
        "cpu-index": index,
        "exits": sum(counts),
        "exits-per-second": rate(sum(recent)),
        "reasons": reasons,
        "counters": _counters(statistics),
    }


def _counters(statistics: Iterable[Statistic]) -> list[KvmCounter]:
    return [{"name": each.name, "value": each.values[0]} for each in statistics if len(each.values) == 1]


@command("__org.vmmd_query-virtqueues", since="7.2")
def query_virtqueues(ctx: Context) -> list[VirtioDeviceInfo]:
    """Show the queues of every virtio device: notifications by the driver, requests, interrupts, what is in flight."""
    from vmmd.devices.virtio.pci_transport import VirtioPciDevice

    found: list[VirtioDeviceInfo] = []
    with ctx.vm.lock:
        for device in ctx.vm.devices:
            if isinstance(device, VirtioPciDevice):
                info: VirtioDeviceInfo = {
                    "qdev": device.qom_path,
                    "driver": device.type_name,
                    "queues": _queues(device.virtio),
                }
                if device.id is not None:
                    info["id"] = device.id
                found.append(info)
    return found


def _queues(virtio: VirtioDevice) -> list[VirtqueueInfo]:
    """DeviceLock held, on the loop."""
    queues: list[VirtqueueInfo] = []
    for index, (state, counters) in enumerate(zip(virtio.queues, virtio.counters, strict=True)):
        worker = virtio.workers.get(index)
        queues.append(
            {
                "index": index,
                "size": state.size,
                "enabled": state.enabled,
                "notifications": counters.notifications,
                "requests": counters.requests,
                "interrupts": counters.interrupts,
                "in-flight": worker.ring.in_flight if worker is not None else 0,
            }
        )
    return queues


@command("__org.vmmd_query-vhost", since="7.2", example=Example())
def query_vhost(ctx: Context) -> list[VhostInfo]:
    """Tell of each network backend that was to have its queues served outside (``vhost=on``, ``vhost-user``) whether
    that is so, and the reason. Without vhost the frames of a tap go through vmmd."""
    netdevs = () if ctx.vm.net is None else ctx.vm.net.netdevs.values()
    return [
        {"netdev": netdev.id, "type": netdev.kind, "on": state.on, "reason": state.reason}
        for netdev in netdevs
        if (state := netdev.vhost_state) is not None
    ]


@command("__org.vmmd_query-events", since="7.2", example=Example({"since": 0}))
def query_events(ctx: Context, *, since: int, limit: int | None = None) -> EventLog:
    """The events from number ``since`` on, as they were sent: for a client that was away, or did not keep up. Some
    thousand are kept; a ``since`` from before a restart of the process is above ``next``."""
    ring = ctx.vm.event_ring
    if since < 0:
        raise UsageError("Parameter 'since' expects a non-negative value")
    if limit is not None and limit < 1:
        raise UsageError("Parameter 'limit' expects a value above 0")
    found = ring.since(since, ring.next if limit is None else limit)
    return {
        "events": [{"number": each.number, "event": each.message} for each in found],
        "next": found[-1].number + 1 if found else ring.next,
        "lost": ring.lost(since),
    }


@command("__org.vmmd_query-chardevs", since="7.2")
def query_chardev_traffic(ctx: Context) -> list[ChardevTraffic]:
    """Tell what became of the bytes of each character device, and of the files that they write. Listening sockets of
    monitors are not among them."""
    from vmmd.chardev.base import Chardev

    return [_traffic(each) for each in ctx.vm.chardevs.values() if isinstance(each, Chardev)]


def _traffic(device: Chardev) -> ChardevTraffic:
    from vmmd.chardev.file import FileChardev
    from vmmd.chardev.stream import StreamChardev

    stream = device if isinstance(device, StreamChardev) else None
    told: ChardevTraffic = {
        "label": device.label,
        "backend": device.config.backend,
        "filename": device.filename,
        "connected": device.connected,
        "frontend-open": device.frontend_open,
        "waiting-bytes": device.waiting_bytes,
        "kept-bytes": 0 if stream is None else stream.kept_bytes,
        "dropped-bytes": device.dropped_bytes,
        "dropped-input-bytes": 0 if stream is None else stream.dropped_input_bytes,
    }
    if device.log is not None:
        told["logfile"] = _file(device.log)
    if isinstance(device, FileChardev) and device.bounded is not None:
        told["file"] = _file(device.bounded)
    return told


def _file(file: OutputFile) -> OutputFileInfo:
    return {"path": file.path, "lost-bytes": file.lost_bytes, "moved": file.moved}


@command("__org.vmmd_reopen-logs", since="7.2")
def reopen_logs(ctx: Context, *, id: str | None = None) -> list[str]:  # noqa: A002
    """Open the files again that character devices write: of all of them, or of the device ``id``. For programs that
    rotate logs: move the file away, then ask for this; not a byte is lost. Tells which files were opened. One that
    cannot be opened stays in use as it is."""
    from vmmd.chardev.base import Chardev

    found = [each for each in ctx.vm.chardevs.values() if isinstance(each, Chardev) and id in (None, each.label)]
    if id is not None and not found:
        raise UsageError(f"Chardev '{id}' not found", "query-chardev lists them")
    opened: list[str] = []
    failed: VmmdError | None = None
    for device in found:
        try:
            opened += device.reopen()
        except VmmdError as error:
            failed = error
    if failed is not None:
        raise failed
    return opened

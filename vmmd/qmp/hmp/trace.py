# SPDX-License-Identifier: Apache-2.0
"""Trace events and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core import trace
from vmmd.core.background import on_thread
from vmmd.core.trace_output import output
from vmmd.errors import UsageError, VmmdError
from vmmd.qmp.commands.trace import device_names
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


def _event_names(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    if not words:
        return [event.name for event in trace.find("*")]
    return ("on", "off") if len(words) == 1 else ()


def _device_words(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    if not words:
        return sorted(device_names(monitor.vm))
    return _event_names(monitor, words[1:])


def _log_words(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return () if words else ("none", "help", *trace.LOG_ITEMS)


def _topic_names(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return () if words else _event_names(monitor, words)


async def _run(monitor: HumanMonitor, command: str, wanted: dict[str, object]) -> str:
    """QEMU-COMPAT: errors of these commands are shown without «Error:»."""
    try:
        await monitor.qmp(command, wanted)
    except VmmdError as error:
        return f"{error}\n"
    return ""


@hmp(
    "trace-event",
    params="name on|off [vcpu]",
    help="switch a trace event; name may be a pattern with * (vcpu: for this one)",
    complete=_event_names,
)
async def trace_event(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted: dict[str, object] = {"name": arguments.string(), "enable": arguments.on_off()}
    if not arguments.at_end:
        wanted["vcpu"] = arguments.expression()
    arguments.done()
    return await _run(monitor, "trace-event-set-state", wanted)


@hmp(
    "trace-device",
    params="device on|off name",
    help="switch a trace event for one device (vmmd's own); name may be a pattern with *",
    complete=_device_words,
)
async def trace_device(monitor: HumanMonitor, arguments: Arguments) -> str:
    device, enable = arguments.string(), arguments.on_off()
    name = arguments.string()
    arguments.done()
    return await _run(monitor, "__org.vmmd_trace-device", {"device": device, "name": name, "enable": enable})


@hmp(
    "info trace-events",
    params="[name] [vcpu]",
    help="trace events and whether they are on; name may be a pattern with *",
    complete=_topic_names,
)
async def info_trace_events(monitor: HumanMonitor, arguments: Arguments) -> str:
    wanted: dict[str, object] = {"name": arguments.word() or "*"}
    if not arguments.at_end:
        wanted["vcpu"] = arguments.expression()
    arguments.done()
    try:
        found = await monitor.qmp("trace-event-get-state", wanted)
    except VmmdError as error:
        return f"{error}\n"
    return "".join(f"{each['name']} : state {int(each['state'] == 'enabled')}\n" for each in found)


@hmp("log", params="item1[,...]|none", help="what to log; log help lists the items", complete=_log_words)
def log(monitor: HumanMonitor, arguments: Arguments) -> str:
    items = arguments.string()
    arguments.done()
    if items == "none":
        trace.log_nothing()
        return ""
    if items == "help":
        return trace.log_items_text("none            nothing of these\n")
    try:
        return "".join(f"warning: {warning}\n" for warning in trace.LogRequest(items).apply())
    except UsageError as error:
        return f"{error}\n"


@hmp("logfile", params="filename", help="write the log and trace events to this file")
async def logfile(monitor: HumanMonitor, arguments: Arguments) -> str:
    path = arguments.string("filename")
    arguments.done()
    try:
        await on_thread(monitor.vm.loop, lambda: output.set_file(path), "logfile")
    except VmmdError as error:
        return f"{error}\n"
    return ""

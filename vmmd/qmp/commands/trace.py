# SPDX-License-Identifier: Apache-2.0
"""Commands about trace events (``core.trace``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import DeviceNotFoundError, UsageError, did_you_mean
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.core.trace import TraceEvent
    from vmmd.qmp.models.trace import TraceEventInfo
    from vmmd.qmp.vm_api import VmApi


@command("trace-event-get-state", since="2.2", example=Example({"name": "virtio_*"}))
def trace_event_get_state(ctx: Context, *, name: str, vcpu: int | None = None) -> list[TraceEventInfo]:
    """Tell which trace events are on. ``name`` may be a pattern with ``*``; ``vcpu`` asks about one vCPU."""
    return [
        {
            "name": event.name,
            "state": "enabled" if (event.on if vcpu is None else event.is_on(vcpu)) else "disabled",
            "vcpu": event.per_vcpu,
        }
        for event in _events(ctx, name, vcpu)
    ]


@command("trace-event-set-state", since="2.2", example=Example({"name": "virtio_set_status", "enable": True}))
def trace_event_set_state(
    ctx: Context, *, name: str, enable: bool, ignore_unavailable: bool = False, vcpu: int | None = None
) -> dict[str, object]:
    """Switch trace events on or off. ``name`` may be a pattern with ``*``; ``vcpu`` switches them for one vCPU.

    They are written to standard error, or to the file of ``-D`` or ``logfile``. All of vmmd's events are always
    available, so ``ignore-unavailable`` has nothing to ignore.
    """
    everyone = range(len(_vcpus(ctx)))
    for event in _events(ctx, name, vcpu):
        event.switch(on=enable, subject=vcpu, everyone=everyone)
    return {}


@command(
    "__org.vmmd_trace-device", since="7.2", example=Example({"device": "disk0", "name": "virtio_*", "enable": True})
)
def trace_device(ctx: Context, *, device: str, name: str, enable: bool) -> dict[str, object]:
    """Switch trace events on or off for one device. ``name`` may be a pattern with ``*``.

    ``device`` is what the events call it: its id, or its type when it has none; a label of a character device; a name
    of ``info mtree`` for accesses. Events that are on for all devices are to be switched off before.
    """
    from vmmd.core import trace

    events = trace.find(name)
    known = device_names(ctx.vm)
    # one that is gone can still be switched off
    if device not in known and (enable or not any(event.only and device in event.only for event in events)):
        raise DeviceNotFoundError(f"Device '{device}' not found", did_you_mean(device, known))
    if "*" not in name and not events[0].per_device:
        raise UsageError(f'event "{name}" is not device-specific', "trace-event-set-state switches it for all")
    events = [event for event in events if event.per_device]
    for event in events:
        if not enable and event.on and event.only is None:
            raise UsageError(f'event "{event.name}" is on for all devices', "switch it off for all first")
    for event in events:
        event.switch(on=enable, subject=device)
    return {}


def device_names(vm: VmApi) -> set[str]:
    """What events call the devices, the character devices, and what answers at addresses."""
    ranges = (each.name for space in (vm.pio, vm.mmio) for each in space.ranges)
    return {*(device.name for device in vm.devices), *vm.chardevs, *ranges}


def _vcpus(ctx: Context) -> list[int]:
    return [] if ctx.vm.cpus is None else [each.index for each in ctx.vm.cpus.infos]


def _events(ctx: Context, name: str, vcpu: int | None) -> list[TraceEvent]:
    """The events meant. Raises UsageError."""
    from vmmd.core import trace

    events = trace.find(name)
    if vcpu is None:
        return events
    # QEMU-COMPAT: these phrases; a pattern leaves out what has no vCPU
    if "*" not in name and not events[0].per_vcpu:
        raise UsageError(f'event "{name}" is not vCPU-specific', "switch it without vcpu")
    if vcpu not in _vcpus(ctx):
        raise UsageError(f"invalid vCPU index {vcpu}", f"there are {len(_vcpus(ctx))} vCPUs, counted from 0")
    return [event for event in events if event.per_vcpu]

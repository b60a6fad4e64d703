# SPDX-License-Identifier: Apache-2.0
"""The queues of virtio devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.models.vmmd import VirtioDeviceInfo


@hmp("info virtqueues", help="queues of virtio devices and what happened on them (vmmd's own)")
async def info_virtqueues(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    devices: list[VirtioDeviceInfo] = await monitor.qmp("__org.vmmd_query-virtqueues")
    text = ""
    for device in devices:
        text += f"{device.get('id') or device['qdev']}: {device['driver']}\n"
        for queue in device["queues"]:
            state = "" if queue["enabled"] else " (off)"
            text += (
                f"    queue {queue['index']}{state}: size={queue['size']} notifications={queue['notifications']}"
                f" requests={queue['requests']} interrupts={queue['interrupts']} in-flight={queue['in-flight']}\n"
            )
    return text

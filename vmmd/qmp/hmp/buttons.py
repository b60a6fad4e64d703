# SPDX-License-Identifier: Apache-2.0
"""What is done to a guest from outside: NMI button, memory balloon, watchdog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.arguments import ArgumentError, signed
from vmmd.qmp.hmp.registry import forward, hmp
from vmmd.units import MiB

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


forward("nmi", to="inject-nmi", help="send a non-maskable interrupt to every vCPU")


@hmp("balloon", params="target", help="ask the guest to keep no more than target MiB of memory")
async def balloon(monitor: HumanMonitor, arguments: Arguments) -> str:
    target_mib = signed(arguments.expression())
    arguments.done()
    if target_mib < 0:
        raise ArgumentError("enter a positive value")
    if target_mib >= 1 << 43:
        raise ArgumentError("integer is too large")
    await monitor.qmp("balloon", {"value": target_mib * MiB})
    return ""


@hmp("info balloon", help="memory that the balloon has left to the guest")
async def info_balloon(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    found = await monitor.qmp("query-balloon")
    return f"balloon: actual={found['actual'] // MiB}\n"


@hmp("watchdog_action", params="action", help="what happens when a watchdog expires")
async def watchdog_action(monitor: HumanMonitor, arguments: Arguments) -> str:
    action = arguments.string()
    arguments.done()
    await monitor.qmp("watchdog-set-action", {"action": action})
    return ""

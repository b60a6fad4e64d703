# SPDX-License-Identifier: Apache-2.0
"""Running, stopping, resetting and ending the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import forward, hmp
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


@hmp("info status", help="run state")
def info_status(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    state = monitor.vm.runstate.state
    if state is RunState.RUNNING:
        return "VM status: running\n"
    detail = "" if state is RunState.PAUSED else f" ({state.value})"
    return f"VM status: paused{detail}\n"


forward("stop", "s", help="stop the guest")
forward("cont", "c", help="let the guest run")
forward("system_reset", help="reset the machine")
forward("system_wakeup", help="wake the guest up from suspend")
forward("system_powerdown", help="press the power button")
forward("exit_preconfig", to="x-exit-preconfig", help="build the machine that -preconfig has put off")


@hmp("quit", "q", help="end the emulator")
async def quit_(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    await monitor.qmp("quit")
    monitor.ended = True
    return ""

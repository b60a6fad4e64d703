# SPDX-License-Identifier: Apache-2.0
"""Running, stopping, resetting and ending the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp
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


@hmp("stop", "s", help="stop the guest")
async def stop(monitor: HumanMonitor, arguments: Arguments) -> str:
    return await _plain(monitor, arguments, "stop")


@hmp("cont", "c", help="let the guest run")
async def cont(monitor: HumanMonitor, arguments: Arguments) -> str:
    return await _plain(monitor, arguments, "cont")


@hmp("system_reset", help="reset the machine")
async def system_reset(monitor: HumanMonitor, arguments: Arguments) -> str:
    return await _plain(monitor, arguments, "system_reset")


@hmp("system_wakeup", help="wake the guest up from suspend")
async def system_wakeup(monitor: HumanMonitor, arguments: Arguments) -> str:
    return await _plain(monitor, arguments, "system_wakeup")


@hmp("system_powerdown", help="press the power button")
async def system_powerdown(monitor: HumanMonitor, arguments: Arguments) -> str:
    return await _plain(monitor, arguments, "system_powerdown")


@hmp("exit_preconfig", help="build the machine that -preconfig has put off")
async def exit_preconfig(monitor: HumanMonitor, arguments: Arguments) -> str:
    return await _plain(monitor, arguments, "x-exit-preconfig")


@hmp("quit", "q", help="end the emulator")
async def quit_(monitor: HumanMonitor, arguments: Arguments) -> str:
    text = await _plain(monitor, arguments, "quit")
    monitor.ended = True
    return text


async def _plain(monitor: HumanMonitor, arguments: Arguments, command: str) -> str:
    """A QMP command without arguments and without a result."""
    arguments.done()
    await monitor.qmp(command)
    return ""

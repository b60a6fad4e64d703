# SPDX-License-Identifier: Apache-2.0
"""Commands that show and change the run state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import VmmdError
from vmmd.qmp.registry import Context, Example, command
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from vmmd.qmp.models.run_state import PanicAction, RebootAction, ShutdownAction, StatusInfo, WatchdogAction

_RUNNING = RunState.RUNNING


@command("query-status", since="0.14", preconfig=True)
def query_status(ctx: Context) -> StatusInfo:
    """The run state."""
    state = ctx.vm.runstate.state
    return {"status": state.value, "singlestep": False, "running": state is _RUNNING}


@command("stop", since="0.14")
async def stop(ctx: Context) -> dict[str, object]:
    """Stop the vCPUs; when it returns, no request of the guest is in flight. Without effect when stopped."""
    await ctx.vm.stop()
    return {}


@command("cont", since="0.14")
async def cont(ctx: Context) -> dict[str, object]:
    """Let the vCPUs run. Fails when the machine must be reset first. Without effect when running."""
    await ctx.vm.cont()
    return {}


@command("system_reset", since="0.14")
async def system_reset(ctx: Context) -> dict[str, object]:
    """Reset the machine as its reset line would."""
    await ctx.vm.system_reset()
    return {}


@command("system_powerdown", since="0.14")
def system_powerdown(ctx: Context) -> dict[str, object]:
    """Press the power button. What the guest does then is its own affair."""
    ctx.vm.system_powerdown()
    return {}


@command("system_wakeup", since="1.1", example=Example(error="GenericError"))
def system_wakeup(ctx: Context) -> dict[str, object]:
    """Wake a suspended guest up."""
    # LIMIT: S3 is not offered to the guest, so no guest is ever suspended
    raise VmmdError("wake-up from suspend is not supported by this guest")


@command("set-action", since="6.0", example=Example({"reboot": "shutdown", "panic": "pause"}))
def set_action(
    ctx: Context,
    *,
    reboot: RebootAction | None = None,
    shutdown: ShutdownAction | None = None,
    panic: PanicAction | None = None,
    watchdog: WatchdogAction | None = None,
) -> dict[str, object]:
    """Choose what happens when the guest reboots, powers off or panics, or a watchdog fires, as ``-action``."""
    for name, action in (("reboot", reboot), ("shutdown", shutdown), ("panic", panic), ("watchdog", watchdog)):
        if action is not None:
            ctx.vm.set_action(name, action)
    return {}


@command("watchdog-set-action", since="2.11", example=Example({"action": "inject-nmi"}))
def watchdog_set_action(ctx: Context, *, action: WatchdogAction) -> dict[str, object]:
    """Choose what happens when a watchdog device fires, as ``-action watchdog=``."""
    ctx.vm.set_action("watchdog", action)
    return {}

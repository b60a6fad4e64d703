# SPDX-License-Identifier: Apache-2.0
"""Commands that show and change the run state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from vmmd.qmp.models.run_state import StatusInfo

_RUNNING = RunState.RUNNING


@command("query-status", since="0.14")
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

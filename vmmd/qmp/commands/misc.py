# SPDX-License-Identifier: Apache-2.0
"""Commands that belong nowhere else: names, and the monitor for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.qmp.models.misc import NameInfo


@command("query-name", since="0.14")
def query_name(ctx: Context) -> NameInfo:
    """The guest's name (-name)."""
    name = ctx.vm.name
    return {} if name is None else {"name": name}


@command("human-monitor-command", since="0.14")
async def human_monitor_command(ctx: Context, *, command_line: str, cpu_index: int | None = None) -> str:
    """Run a command of the monitor for people; its text is the reply, even where it says that something failed."""
    from vmmd.qmp.hmp.monitor import HumanMonitor

    cpus = ctx.vm.cpus
    count = 0 if cpus is None else len(cpus.infos)
    if cpu_index is not None and not 0 <= cpu_index < count:
        raise UsageError("Parameter 'cpu-index' expects a CPU number")
    return await HumanMonitor(ctx.vm, cpu_index or 0, ctx.session).run(command_line)

# SPDX-License-Identifier: Apache-2.0
"""Commands about the monitor itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import COMMANDS, Context, command
from vmmd.qmp.session import version_info

if TYPE_CHECKING:
    from vmmd.qmp.models.control import CommandInfo, QMPCapability, VersionInfo


@command("qmp_capabilities", since="0.13", preconfig=True)
def qmp_capabilities(ctx: Context, *, enable: list[QMPCapability] | None = None) -> dict[str, object]:
    """Enable capabilities of the greeting and enter command mode. Must be the first command of a session."""
    ctx.session.enable([str(each) for each in enable or ()])
    return {}


@command("query-version", since="0.14", preconfig=True)
def query_version(ctx: Context) -> VersionInfo:
    """The release of QEMU whose interface this is, and whose implementation."""
    return version_info()


@command("query-commands", since="0.14", preconfig=True)
def query_commands(ctx: Context) -> list[CommandInfo]:
    """The commands of this monitor."""
    return [{"name": name} for name in COMMANDS]


@command("quit", since="0.14", preconfig=True)
async def quit_(ctx: Context) -> dict[str, object]:
    """End the process with status 0: event SHUTDOWN, the reply, then the connection closes."""
    await ctx.vm.quit()
    return {}

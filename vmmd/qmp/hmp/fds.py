# SPDX-License-Identifier: Apache-2.0
"""Descriptors that came over the monitor's own UNIX socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


@hmp("getfd", params="name", help="name the descriptor that came with this command")
async def getfd(monitor: HumanMonitor, arguments: Arguments) -> str:
    name = arguments.string()
    arguments.done()
    await monitor.qmp("getfd", {"fdname": name})
    return ""


@hmp("closefd", params="name", help="close a descriptor that getfd has named")
async def closefd(monitor: HumanMonitor, arguments: Arguments) -> str:
    name = arguments.string()
    arguments.done()
    await monitor.qmp("closefd", {"fdname": name})
    return ""

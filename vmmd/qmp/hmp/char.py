# SPDX-License-Identifier: Apache-2.0
"""Character devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


@hmp("info chardev", help="character devices")
def info_chardev(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return "".join(f"{label}: filename={device.filename}\n" for label, device in monitor.vm.chardevs.items())

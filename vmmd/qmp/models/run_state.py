# SPDX-License-Identifier: Apache-2.0
"""QAPI types of the run state."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

RunStateName = Literal[
    "debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate", "prelaunch", "finish-migrate",
    "restore-vm", "running", "save-vm", "shutdown", "suspended", "watchdog", "guest-panicked", "colo",
]  # fmt: skip


class StatusInfo(TypedDict):
    """The run state; ``running`` is true while vCPUs run."""

    running: bool
    singlestep: bool
    status: RunStateName


RebootAction = Literal["reset", "shutdown"]
ShutdownAction = Literal["poweroff", "pause"]
PanicAction = Literal["pause", "shutdown", "exit-failure", "none"]
WatchdogAction = Literal["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"]

# SPDX-License-Identifier: Apache-2.0
"""Background jobs as the machine's table of them (``Vm.jobs``) has them. Loop thread."""

from __future__ import annotations

from typing import Protocol


class Job(Protocol):
    """Work that goes on behind a command. LIMIT: no command starts one yet (block jobs will)."""

    id: str
    type: str  # QAPI's JobType
    status: str  # QAPI's JobStatus
    done: int
    total: int  # in the unit of ``done``; may grow
    error: str | None  # of a job that has failed

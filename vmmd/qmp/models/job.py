# SPDX-License-Identifier: Apache-2.0
"""QAPI types of background jobs."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

JobType = Literal["commit", "stream", "mirror", "backup", "create", "amend"]
JobStatus = Literal[
    "created", "running", "paused", "ready", "standby", "waiting", "pending", "aborting", "concluded", "null"
]

JobInfo = TypedDict(
    "JobInfo",
    {
        "id": str,
        "type": JobType,
        "status": JobStatus,
        "current-progress": int,
        "total-progress": int,
        "error": NotRequired[str],
    },
)
"""A job and how far it is."""

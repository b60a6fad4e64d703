# SPDX-License-Identifier: Apache-2.0
"""Commands about background jobs. LIMIT: nothing starts one yet; what does puts it into ``vm.jobs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.core.jobs import Job
    from vmmd.qmp.models.job import JobInfo, JobStatus, JobType


@command("query-jobs", since="3.0")
def query_jobs(ctx: Context) -> list[JobInfo]:
    """The background jobs."""
    return list(map(_info, ctx.vm.jobs.values()))


def _info(job: Job) -> JobInfo:
    info: JobInfo = {
        "id": job.id,
        "type": cast("JobType", job.type),
        "status": cast("JobStatus", job.status),
        "current-progress": job.done,
        "total-progress": job.total,
    }
    if job.error is not None:
        info["error"] = job.error
    return info

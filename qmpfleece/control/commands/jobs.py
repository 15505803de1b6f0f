"""The commands on jobs: job-* for all, block-job-* for those that work on nodes.

Source: QAPI, job and block-core.
"""

from typing import Final

from qmpfleece.control.command import command
from qmpfleece.control.system import System
from qmpfleece.jobs.block_job import BlockJob, IoStatus
from qmpfleece.jobs.job import Job
from qmpfleece.jobs.status import JobStatus
from qmpfleece.qapi.model import Int64, Model


class JobInfo(Model):
    """QAPI ``JobInfo``."""

    id: str
    type: str
    status: JobStatus
    current_progress: int
    total_progress: int
    error: str | None = None


class BlockJobInfo(Model):
    """QAPI ``BlockJobInfo``."""

    type: str
    device: str
    len: int
    offset: int
    busy: bool
    paused: bool
    speed: int
    io_status: IoStatus
    ready: bool
    status: JobStatus
    auto_finalize: bool
    auto_dismiss: bool
    error: str | None = None


#: How long a job that has requests on their way is waited for, in seconds. QEMU's jobs that
#: do nothing have paused when the reply comes; one that waits for a hung disk must not delay it.
_PAUSE_PATIENCE_S: Final = 0.02


async def _pause(job: Job) -> None:
    job.user_pause()
    await job.wait_paused(_PAUSE_PATIENCE_S)


@command("query-jobs")
async def query_jobs(system: System) -> list[JobInfo]:
    """List all jobs, newest first."""
    return [
        JobInfo(
            id=job.id,
            type=job.kind,
            status=job.status,
            current_progress=job.current,
            total_progress=job.total,
            error=job.error,
        )
        for job in await system.jobs.settled_jobs()
    ]


@command("query-block-jobs")
async def query_block_jobs(system: System) -> list[BlockJobInfo]:
    """List the jobs that work on nodes, newest first."""
    return [
        BlockJobInfo(
            type=job.kind,
            device=job.id,
            len=job.total,
            offset=job.current,
            # Whether a request is on its way at this very moment: QEMU's main loop, which
            # answers, never sees it so.
            busy=False,
            paused=job.paused,
            speed=job.speed,
            io_status=job.io_status,
            ready=job.ready,
            status=job.status,
            auto_finalize=job.auto_finalize,
            auto_dismiss=job.auto_dismiss,
            error=job.error,
        )
        for job in await system.jobs.settled_jobs()
        if isinstance(job, BlockJob)
    ]


@command("job-pause")
async def job_pause(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Pause a job until it is resumed by a user."""
    await _pause(await system.jobs.find(id))


@command("job-resume")
async def job_resume(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Resume a job that a user, or an error, has paused."""
    (await system.jobs.find(id)).user_resume()


@command("job-cancel")
async def job_cancel(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Tell a job to end at once, without a result."""
    await (await system.jobs.find(id)).user_cancel()


@command("job-complete")
async def job_complete(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Tell a job that is ready to end."""
    (await system.jobs.find(id)).user_complete()


@command("job-finalize")
async def job_finalize(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Finish a pending job, and all of its transaction."""
    await (await system.jobs.find(id)).user_finalize()


@command("job-dismiss")
async def job_dismiss(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Forget a concluded job."""
    (await system.jobs.find(id)).user_dismiss()


@command("block-job-pause")
async def block_job_pause(system: System, device: str) -> None:
    """Pause a block job until it is resumed by a user."""
    await _pause(await system.jobs.find_block_job(device))


@command("block-job-resume")
async def block_job_resume(system: System, device: str) -> None:
    """Resume a block job; its io-status is reset."""
    (await system.jobs.find_block_job(device)).user_resume()


@command("block-job-cancel")
async def block_job_cancel(
    system: System,
    device: str,
    force: bool | None = None,  # noqa: FBT001 - members come by name
) -> None:
    """Tell a block job to end; one that the user has paused only by ``force``."""
    job = await system.jobs.find_block_job(device)
    job.check_force(force=bool(force))
    await job.user_cancel()


@command("block-job-complete")
async def block_job_complete(system: System, device: str) -> None:
    """Tell a block job that is ready to end."""
    (await system.jobs.find_block_job(device)).user_complete()


@command("block-job-finalize")
async def block_job_finalize(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Finish a pending block job, and all of its transaction."""
    await (await system.jobs.find_block_job(id)).user_finalize()


@command("block-job-dismiss")
async def block_job_dismiss(system: System, id: str) -> None:  # noqa: A002 - the member's name
    """Forget a concluded block job."""
    (await system.jobs.find_block_job(id)).user_dismiss()


@command("block-job-set-speed")
async def block_job_set_speed(system: System, device: str, speed: Int64) -> None:
    """Limit a block job's speed, in bytes per second; 0 takes the limit away."""
    (await system.jobs.find_block_job(device)).set_speed(speed)

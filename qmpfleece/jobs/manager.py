"""All jobs by id. It owns their tasks: whoever closes it leaves none behind."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.base.names import well_formed
from qmpfleece.jobs.status import JobStatus
from qmpfleece.qapi.bus import EventBus

if TYPE_CHECKING:
    from qmpfleece.jobs.block_job import BlockJob
    from qmpfleece.jobs.job import Job
    from qmpfleece.jobs.txn import JobTxn


class JobManager:
    """The jobs of a daemon.

    Args:
        bus: Where they emit their events.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._jobs: dict[str, Job] = {}

    def jobs(self) -> "list[Job]":
        """Return all jobs, newest first."""
        return list(reversed(self._known().values()))

    async def settled_jobs(self) -> "list[Job]":
        """Do the same when none is being concluded: a query shows none that it is too late for."""
        while (busy := next((job for job in self.jobs() if job.txn.settling), None)) is not None:
            await busy.txn.settled()
        return self.jobs()

    def check_id(self, job_id: str) -> None:
        """Refuse an id that a new job can't have.

        Raises:
            QmpError: It is malformed or taken.
        """
        if not well_formed(job_id):
            raise QmpError(f"Invalid job ID '{job_id}'")
        if job_id in self._known():
            raise QmpError(f"Job ID '{job_id}' already in use")

    def add(self, job: "Job", txn: "JobTxn | None" = None) -> None:
        """Take a new job, whose id has been checked, into a transaction; by default its own."""
        from qmpfleece.jobs.txn import JobTxn

        self.check_id(job.id)
        self._jobs[job.id] = job
        job.create(self._bus, txn if txn is not None else JobTxn())

    def discard(self, job: "Job") -> None:
        """Forget a job that has only been created, because something else is wrong."""
        job.txn.jobs.remove(job)
        job.move(JobStatus.NULL)

    async def find(self, job_id: str) -> "Job":
        """Return a job for a verb; one that is being concluded is waited for.

        Raises:
            QmpError: There is none.
        """
        while (job := self._known().get(job_id)) is not None and job.txn.settling:
            await job.txn.settled()
        if job is None:
            raise QmpError("Job not found")
        return job

    async def find_block_job(self, device: str) -> "BlockJob":
        """The same for the commands of block jobs, which know of no others.

        Raises:
            QmpError: DeviceNotActive: there is none.
        """
        from qmpfleece.jobs.block_job import BlockJob

        try:
            job = await self.find(device)
        except QmpError:
            job = None
        if not isinstance(job, BlockJob):
            raise QmpError(f"Block job '{device}' not found", ErrorClass.DEVICE_NOT_ACTIVE)
        return job

    async def close(self, order: Iterable[object] = ()) -> None:
        """Cancel all jobs and wait for them; concluded ones are dismissed.

        Those that run pause first: QEMU drains all nodes before it ends.

        Args:
            order: In which it tells them, with others; who is missing is told last.
        """
        jobs = self.jobs()
        told = dict.fromkeys([*(job for user in order for job in jobs if job is user), *jobs])
        running = [job for job in told if job.started and not job.completed]
        for job in running:
            job.pause()
        for job in running:
            await job.wait_paused(None)
        while jobs := self.jobs():  # one after the other, the newest first
            job = jobs[0]
            if job.status is JobStatus.CONCLUDED:
                job.move(JobStatus.NULL)
            elif not job.txn.settling:
                await job.cancel()
            await job.join()
            if job.txn.settling:
                await job.txn.settled()

    def _known(self) -> "dict[str, Job]":
        """Return the jobs by their ids, and forget those that have been dismissed."""
        known = self._jobs.items()
        self._jobs = {key: job for key, job in known if job.status is not JobStatus.NULL}
        return self._jobs

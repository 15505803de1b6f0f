"""Transactions of jobs: jobs that succeed or fail together. A lone job is one of its own.

A job that ends well waits until all have. Then all are pending, and are finalised when nobody
wants to do that by hand, or when somebody does. When one fails or is cancelled, all are. The
job that was added last is finalised first.

Source: QEMU's ``JobTxn``; QAPI ``ActionCompletionMode``.
"""

import asyncio
import logging

from qmpfleece.base.errors import QmpError
from qmpfleece.jobs.job import Job
from qmpfleece.jobs.status import JobStatus

log = logging.getLogger(__name__)


class JobTxn:
    """A transaction.

    Attributes:
        jobs: Those that are not concluded, the last one added first.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._aborting = False
        self._finalizing = False
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, job: Job) -> None:
        """Add a job that has not been started."""
        self.jobs.insert(0, job)

    @property
    def settling(self) -> bool:
        """Whether the outcome is decided and being carried out: no verb can change it."""
        return bool(self.jobs) and (self._aborting or self._finalizing)

    async def settled(self) -> None:
        """Wait until the outcome has been carried out. Cancellation-safe."""
        if self.jobs:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def ended(self, job: Job) -> None:
        """Go on after ``job.run``."""
        if job.error is not None or job.cancelled:
            job.update_error()
            await self.abort(job)
            return
        job.move(JobStatus.WAITING)
        if not all(other.completed for other in self.jobs):
            return
        for other in self.jobs:
            other.move(JobStatus.PENDING)
            if not other.auto_finalize:
                other.on_pending()
        if all(other.auto_finalize for other in self.jobs):
            await self.finalize()

    async def finalize(self) -> None:
        """Carry out all jobs, which are pending; abort all if one can't be prepared."""
        if self._finalizing:
            return
        self._finalizing = True
        for job in self.jobs:
            try:
                await job.prepare()
            except QmpError as error:
                job.error = error.desc
            except Exception:  # the edge of a job, as below
                log.exception("%r could not be prepared", job)
                job.fail_unexpectedly()
            if job.error is not None:
                await self.abort(job)
                return
        await self._conclude_all()

    async def abort(self, cause: Job) -> None:
        """Cancel all other jobs, wait for them, and undo all."""
        if self._aborting:
            return
        self._aborting = True
        for job in self.jobs:
            if job is not cause and not job.cancelled:
                job.ask_to_end()
        await self._conclude_all()

    async def _conclude_all(self) -> None:
        while self.jobs:
            job = self.jobs[0]
            if not job.completed:
                if job.started:
                    await job.wait_ended()
                else:
                    job.complete_run()
            await self._conclude(job)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _conclude(self, job: Job) -> None:
        """Commit or abort; from ``clean`` on nothing is awaited, so it looks like one step."""
        job.update_error()
        try:
            if job.error is None:
                job.commit()
            else:
                job.abort()
        except Exception:  # the edge of a job: it ends, and the others of the transaction do
            log.exception("%r could not be finished", job)
            job.fail_unexpectedly()
            job.update_error()
        try:
            await job.clean()
        except Exception:  # the same edge
            log.exception("cleaning up after job %s has failed unexpectedly", job.id)
        if job.started:
            job.on_ended()
        self.jobs.remove(job)
        job.move(JobStatus.CONCLUDED)
        if job.auto_dismiss or not job.started:
            job.move(JobStatus.NULL)

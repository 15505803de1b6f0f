"""The engine of one job: its states, and what users and drained nodes may do to it.

A job is one coroutine, ``run``, in a task of its own. It is asked to pause or to end by flags;
it looks at them at its *pause points* and is woken from whatever it waits for::

    while not self.cancelled:
        await self.pause_point()
        finished = await self.work(copy())     # ended early when there is something to look at

How that is done is in ``pausable``. When ``run`` has ended the job's transaction takes over:
waiting, pending, and then prepare, commit or abort, clean.

Source: QEMU's ``Job``; QAPI ``JobInfo``.
"""

import asyncio
import logging
import os
from errno import ECANCELED
from typing import TYPE_CHECKING, Any, ClassVar, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.jobs.pausable import Pausable, wake_all
from qmpfleece.jobs.status import VERBS, JobStatus, JobVerb
from qmpfleece.qapi.bus import EventBus

if TYPE_CHECKING:
    from qmpfleece.jobs.txn import JobTxn

log = logging.getLogger(__name__)


class Job(Pausable):
    """A long operation.

    Class keywords of the kinds: ``kind``, the QAPI ``JobType``.

    Fixed: ``id``, ``auto_finalize``, ``auto_dismiss``. Changes only in this module and in
    ``txn``: all the rest.

    Attributes:
        user_paused: A user, or an error, has paused it until a user resumes it.
        error: Why it failed, None while it has not.
        current: How much is done, in units of the kind (bytes of block jobs).
        total: How much there is to do, as far as known.
        txn: The transaction that it belongs to.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, *, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind = kind

    def __init__(
        self, job_id: str, *, auto_finalize: bool = True, auto_dismiss: bool = True
    ) -> None:
        super().__init__(job_id)
        self.auto_finalize: Final = auto_finalize
        self.auto_dismiss: Final = auto_dismiss
        self.user_paused = False
        self.error: str | None = None
        self.current = 0
        self.total = 0
        self.txn: JobTxn
        self._task: asyncio.Task[None] | None = None
        self._ended: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<{self.kind} job {self.id!r} {self.status}>"

    # -- what a kind implements ---------------------------------------------------------------

    async def run(self) -> None:
        """Do it. Returns early when the job is cancelled.

        Raises:
            OSError: It failed.
            QmpError: It failed, with words of its own.
        """
        raise NotImplementedError

    async def prepare(self) -> None:
        """Get ready to commit; may still fail. ``run`` has ended well.

        Raises:
            QmpError: It failed; the whole transaction is aborted.
        """

    def commit(self) -> None:
        """Make the result visible."""

    def abort(self) -> None:
        """Undo, after a failure or a cancellation."""

    async def clean(self) -> None:
        """Release everything, after ``commit`` or ``abort``."""

    def complete(self) -> None:
        """End a job that is ready, at the next opportunity.

        Raises:
            QmpError: The kind never is ready.
        """
        raise QmpError(f"Job '{self.id}' cannot be completed")

    def describe(self) -> str:
        """Return how permission messages name the job."""
        return f"{self.kind} job '{self.id}'"

    def on_user_resume(self) -> None:
        """A user resumes the job: forget the error that stopped it."""

    def on_pending(self) -> None:
        """The job has become pending and waits for the user."""

    def on_ended(self) -> None:
        """The job, which was started, has committed or aborted and is clean."""

    # -- verbs --------------------------------------------------------------------------------

    def check_verb(self, verb: JobVerb) -> None:
        """Refuse a verb that the state does not allow.

        Raises:
            QmpError: It does not.
        """
        if self.status not in VERBS[verb]:
            raise QmpError(
                f"Job '{self.id}' in state '{self.status}' cannot accept command verb '{verb}'"
            )

    def user_pause(self) -> None:
        """Pause until ``user_resume``.

        Raises:
            QmpError: The state does not allow it, or it is paused already.
        """
        self.check_verb(JobVerb.PAUSE)
        if self.user_paused:
            raise QmpError("Job is already paused")
        self.user_paused = True
        self.pause()

    def user_resume(self) -> None:
        """Undo ``user_pause``, or the pause after an error.

        Raises:
            QmpError: The state does not allow it, or it is not paused.
        """
        if not self.user_paused:
            raise QmpError("Can't resume a job that was not paused")
        self.check_verb(JobVerb.RESUME)
        self.on_user_resume()
        self.user_paused = False
        self.resume()

    async def user_cancel(self) -> None:
        """Tell the job to end. One that has already run is aborted before this returns.

        Raises:
            QmpError: The state does not allow it.
        """
        self.check_verb(JobVerb.CANCEL)
        await self.cancel()

    async def user_finalize(self) -> None:
        """Finish the transaction of a job that waits for that.

        Raises:
            QmpError: The state does not allow it.
        """
        self.check_verb(JobVerb.FINALIZE)
        await self.txn.finalize()

    def user_dismiss(self) -> None:
        """Forget a concluded job.

        Raises:
            QmpError: The state does not allow it.
        """
        self.check_verb(JobVerb.DISMISS)
        self.move(JobStatus.NULL)

    def user_complete(self) -> None:
        """End a job that is ready.

        Raises:
            QmpError: The state does not allow it.
        """
        self.check_verb(JobVerb.COMPLETE)
        self.complete()

    # -- life ---------------------------------------------------------------------------------

    def create(self, bus: EventBus, txn: "JobTxn") -> None:
        """Begin to exist. Called by the manager only."""
        self._bus = bus
        self.txn = txn
        txn.add(self)
        self.move(JobStatus.CREATED)

    def start(self) -> None:
        """Begin to run, in a task of its own."""
        self._started = True
        self.move(JobStatus.RUNNING)
        if self._pause_count:
            self._enter_pause()
        self._task = asyncio.get_running_loop().create_task(self._main(), name=f"job {self.id}")

    async def wait_ended(self) -> None:
        """Wait until ``run`` has ended. Cancellation-safe."""
        if not self.completed:
            waiter = asyncio.get_running_loop().create_future()
            self._ended.append(waiter)
            await waiter

    async def join(self) -> None:
        """Wait until the task has ended, which includes what it does for the transaction."""
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait({self._task})

    async def cancel(self) -> None:
        """Tell the job to end; see ``user_cancel``."""
        self.ask_to_end()
        if not self._started:
            self.complete_run()
            await self.txn.abort(self)
        elif self.completed:
            await self.txn.abort(self)

    def ask_to_end(self) -> None:
        """Set the flag, drop the user's pause and wake the job."""
        if self.user_paused:
            self.on_user_resume()
            self.user_paused = False
            self._pause_count -= 1
        self.cancelled = True
        if self._started and not self.completed:
            self._leave_pause()
            self.interrupt()

    def update_error(self) -> None:
        """Be in state ``aborting`` if the job has failed or was cancelled."""
        if self.cancelled and self.error is None:
            self.error = os.strerror(ECANCELED)
        if self.error is not None:
            self.move(JobStatus.ABORTING)

    def fail_unexpectedly(self) -> None:
        """Fail by a bug of ours."""
        self.error = f"Internal error in job '{self.id}'"

    def complete_run(self) -> None:
        """``run`` has ended, or will never be called."""
        self.completed = True
        self._paused = False
        self._release_drain()
        waiters, self._ended = self._ended, []
        wake_all(waiters)
        self._pause_settled()

    async def _main(self) -> None:
        try:
            await self.pause_point()
            if not self.cancelled:
                await self.run()
        except QmpError as error:
            self.error = error.desc
        except OSError as error:
            self.error = error.strerror or str(error)
        except Exception:  # the edge of a job: a bug of ours must not harm the others
            log.exception("%r has failed unexpectedly", self)
            self.fail_unexpectedly()
        while self._paused:
            await self._wait(None)
        self.complete_run()
        try:
            await self.txn.ended(self)
        except Exception:  # the same edge
            log.exception("%r could not be finished", self)

"""The part of a job that stops and goes on: pauses, sleeping, being drained.

A job is paused by a user, by an error, and by the drain of a node that it uses; pauses are
counted. It pauses at its pause points. A job that does nothing at that time, because it sleeps
or waits for its turn, pauses within the call; so does every job leave a pause. What a job waits
for otherwise is interrupted, so that it comes to a pause point soon, and a drain waits for that.

Source: QEMU's ``job_pause``, ``job_pause_point``, ``child_job_drained_begin``.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from qmpfleece.jobs.events import JobStatusChange
from qmpfleece.jobs.status import TRANSITIONS, JobStatus
from qmpfleece.qapi.bus import EventBus

if TYPE_CHECKING:
    from qmpfleece.block.node import Node


class Pausable:
    """The state of a job and its pauses.

    Attributes:
        id: The job's name.
        status: Where the job is in its life.
        cancelled: It was told to end.
        completed: ``run`` has ended.
    """

    def __init__(self, job_id: str) -> None:
        self.id: Final = job_id
        self.status = JobStatus.UNDEFINED
        self.cancelled = False
        self.completed = False
        self._bus: EventBus
        self._started = False
        self._paused = False
        self._pause_count = 0
        self._work: asyncio.Future[None] | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._pausing: list[asyncio.Future[None]] = []
        self._held: Node | None = None

    @property
    def paused(self) -> bool:
        """Whether the job is to pause, or does so: ``paused`` of query-block-jobs."""
        return self._pause_count > 0

    @property
    def started(self) -> bool:
        """Whether the job has been started."""
        return self._started

    @property
    def sleeps(self) -> bool:
        """Whether the job does nothing at the moment, so that it can pause at once."""
        return self._sleeper is not None

    @property
    def home(self) -> "Node | None":
        """The node whose drain waits for the job to pause."""
        return None

    def move(self, status: JobStatus) -> None:
        """Enter another state and tell so."""
        before = self.status
        assert status in TRANSITIONS[before], f"{self!r} -> {status}"
        self.status = status
        if status is not before:
            self._bus.emit(JobStatusChange(id=self.id, status=status))

    # -- pausing ------------------------------------------------------------------------------

    def pause(self) -> None:
        """Ask the job to pause; pauses are counted. One that sleeps does it at once."""
        self._pause_count += 1
        if self._started and not self.completed and not self._paused and not self.cancelled:
            if self.sleeps:
                self._enter_pause()
            self.interrupt()

    async def wait_paused(self, patience_s: float | None) -> None:
        """Wait until the job has paused, but not longer than so many seconds."""
        if self._pause_count and not self._paused and not self.completed:
            waiter = asyncio.get_running_loop().create_future()
            self._pausing.append(waiter)
            await asyncio.wait({waiter}, timeout=patience_s)

    def resume(self) -> None:
        """Undo one ``pause``; after the last one the job goes on."""
        assert self._pause_count > 0
        self._pause_count -= 1
        if not self._pause_count:
            self._release_drain()
            self._leave_pause()
            self._pause_settled()

    async def pause_point(self) -> None:
        """Wait while the job is to pause. Returns at once when it is cancelled."""
        while self._pause_count and not self.cancelled:
            self._enter_pause()
            await self._wait(None)
        assert not self._paused

    async def work(self, request: Coroutine[Any, Any, None]) -> bool:
        """Await a request, which is cancelled when the job is to pause or to end.

        Returns:
            Whether it has finished.
        """
        if self._pause_count or self.cancelled:
            request.close()
            return False
        task = asyncio.ensure_future(request)
        self._work = task
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        finally:
            self._work = None
        if task.cancelled():
            return False
        task.result()
        return True

    async def sleep(self, seconds: float | None) -> None:
        """Wait so long, or until there is something to look at; None for ever."""
        if not self._pause_count and not self.cancelled:
            await self._wait(seconds)

    def wake(self) -> None:
        """End ``sleep``, and a wait at a pause point, which is then checked again."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def _wait(self, seconds: float | None) -> None:
        self._sleeper = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._sleeper}, timeout=seconds)
        finally:
            self._sleeper = None

    def interrupt(self) -> None:
        """End what the job waits for, so that it comes to a pause point."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()  # once: a second time would disturb its cleaning up
        self.wake()

    def _pause_settled(self) -> None:
        waiters, self._pausing = self._pausing, []
        wake_all(waiters)

    def _enter_pause(self) -> None:
        if not self._paused:
            self._paused = True
            ready = self.status is JobStatus.READY
            self.move(JobStatus.STANDBY if ready else JobStatus.PAUSED)
            self._pause_settled()
        self._release_drain()

    def _leave_pause(self) -> None:
        if self._paused:
            self._paused = False
            standby = self.status is JobStatus.STANDBY
            self.move(JobStatus.READY if standby else JobStatus.RUNNING)
            self.wake()

    # -- as the parent of nodes ---------------------------------------------------------------

    def drained_begin(self) -> None:
        """Pause, and let the drain wait until that is done."""
        self.pause()
        busy = self._started and not self.completed and not self._paused
        if busy and self._held is None and self.home is not None:
            self._held = self.home
            self._held.work_begin()

    def drained_end(self) -> None:
        """Undo one ``drained_begin``."""
        self.resume()

    def busy_nodes(self) -> "list[Node]":
        """Return the node whose work the job counts as."""
        return [self.home] if self.home is not None else []

    def _release_drain(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.work_end()


def wake_all(waiters: list[asyncio.Future[None]]) -> None:
    """End these waits."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)

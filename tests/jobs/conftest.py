"""Jobs of which the test says what they do, in a manager; what they emit is kept."""

import asyncio
from typing import Any

import pytest

from qmpfleece.base.errors import BlockError
from qmpfleece.jobs.block_job import BlockJob
from qmpfleece.jobs.job import Job
from qmpfleece.jobs.manager import JobManager
from qmpfleece.qapi.bus import EventBus
from tests.tools.until import settle


class Puppet(Job, kind="amend"):
    """A job that works until the test says that it has finished, or failed."""

    fails_to_prepare = None

    def __init__(self, job_id: str, **options: Any) -> None:
        super().__init__(job_id, **options)
        self.outcome = asyncio.get_running_loop().create_future()
        self.log = []
        self.turns = 0

    async def run(self):
        while not self.cancelled:
            await self.pause_point()
            self.turns += 1
            if await self.work(self._wait_for_outcome()):
                return

    async def _wait_for_outcome(self):
        await asyncio.wait({self.outcome})
        self.outcome.result()

    def finish(self):
        self.outcome.set_result(None)

    def fail(self, code):
        self.outcome.set_exception(BlockError(code))
        self.outcome.exception()  # nobody may be waiting for it

    async def prepare(self):
        self.log.append("prepare")
        if self.fails_to_prepare is not None:
            raise self.fails_to_prepare

    def commit(self):
        self.log.append("commit")

    def abort(self):
        self.log.append("abort")

    async def clean(self):
        self.log.append("clean")
        await asyncio.sleep(0)


class Sleeper(Puppet, kind="mirror"):
    """A job that sleeps until it is cancelled."""

    async def run(self):
        while not self.cancelled:
            await self.pause_point()
            self.turns += 1
            await self.sleep(None)


class BlockPuppet(BlockJob, kind="stream"):
    """A block job that sleeps until it is cancelled."""

    async def run(self):
        while not self.cancelled:
            await self.pause_point()
            await self.sleep(None)


class SlowToStop(BlockJob, kind="commit"):
    """A block job whose work goes on, when it is interrupted, until ``may_stop`` is set."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.may_stop = asyncio.Event()

    async def run(self):
        while not self.cancelled:
            await self.pause_point()
            await self.work(self._work_slowly())

    async def _work_slowly(self):
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_stop.wait()

    async def clean(self):
        self.let_go()


class Stage:
    """A manager, and the events as short texts."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.events = []
        self.bus.subscribe(self._note)
        self.manager = JobManager(self.bus)

    def _note(self, event, _us):
        data = event.to_wire()
        ident = data.get("id") or data["device"]
        what = data.get("status") or event.event_name
        self.events.append(f"{ident} {what}")

    def add(self, job, txn=None, *, start=True):
        self.manager.add(job, txn)
        if start:
            job.start()
        return job

    async def take(self):
        """Let all run that can; return the events since the last call."""
        await settle()
        events, self.events = self.events, []
        return events


@pytest.fixture
async def stage():
    stage = Stage()
    yield stage
    await stage.manager.close()
    assert stage.manager.jobs() == []

"""Random verbs on one job, against a model and the two tables."""

import asyncio
import errno
from unittest import TestCase

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qmpfleece.base.errors import QmpError
from qmpfleece.jobs.status import TRANSITIONS, VERBS, JobStatus, JobVerb
from tests.jobs.conftest import Puppet, Stage
from tests.tools.until import settle


class JobMachine(RuleBasedStateMachine):
    """The model: what was asked for, and from it the state the job must be in."""

    @initialize(auto_finalize=st.booleans(), auto_dismiss=st.booleans())
    def begin(self, auto_finalize, auto_dismiss):
        self.runner = asyncio.Runner()
        self.auto_finalize, self.auto_dismiss = auto_finalize, auto_dismiss
        self.started = self.user_paused = self.cancelled = self.finalized = self.dismissed = False
        self.outcome = None
        self.pauses = 0
        self.run(self._create())

    async def _create(self):
        self.stage = Stage()
        self.job = Puppet("j", auto_finalize=self.auto_finalize, auto_dismiss=self.auto_dismiss)
        self.stage.add(self.job, start=False)

    def run(self, request):
        async def then_settle():
            try:
                return await request
            finally:
                await settle()

        return self.runner.run(then_settle())

    async def _call(self, function):
        result = function()
        if asyncio.iscoroutine(result):
            await result

    @property
    def expected(self):
        """Return the state that follows from what was asked for."""
        if self.dismissed:
            return JobStatus.NULL
        failed = self.cancelled or self.outcome == "fail"
        ended = self.cancelled or (
            self.started and self.outcome is not None and not self.paused_before_the_end
        )
        if not self.started:
            return JobStatus.NULL if self.cancelled else JobStatus.CREATED
        if not ended:
            return JobStatus.PAUSED if self.pauses + self.user_paused else JobStatus.RUNNING
        if not failed and not (self.auto_finalize or self.finalized):
            return JobStatus.PENDING
        return JobStatus.NULL if self.auto_dismiss else JobStatus.CONCLUDED

    @property
    def paused_before_the_end(self):
        return self.pauses + self.user_paused > 0 and not self.job.completed

    # -- what the job does --------------------------------------------------------------------

    @precondition(lambda self: not self.started and not self.cancelled)
    @rule()
    def start(self):
        self.started = True
        self.run(self._call(self.job.start))

    @precondition(lambda self: self.outcome is None)
    @rule(outcome=st.sampled_from(["ok", "fail"]))
    def end(self, outcome):
        self.outcome = outcome
        finish = self.job.finish if outcome == "ok" else lambda: self.job.fail(errno.EIO)
        self.run(self._call(finish))

    # -- what is done to it -------------------------------------------------------------------

    @rule()
    def drain(self):
        self.pauses += 1
        self.run(self._call(self.job.drained_begin))

    @precondition(lambda self: self.pauses)
    @rule()
    def undrain(self):
        self.pauses -= 1
        self.run(self._call(self.job.drained_end))

    @rule(verb=st.sampled_from([verb for verb in JobVerb if verb is not JobVerb.SET_SPEED]))
    def verb(self, verb):
        allowed = self.job.status in VERBS[verb]
        extra = {JobVerb.PAUSE: not self.user_paused, JobVerb.RESUME: self.user_paused}
        function = getattr(self.job, f"user_{verb}")
        if not (allowed and extra.get(verb, True)):
            with pytest.raises(QmpError):
                self.run(self._call(function))
            return
        self.run(self._call(function))
        if verb is JobVerb.PAUSE:
            self.user_paused = True
        elif verb is JobVerb.RESUME:
            self.user_paused = False
        elif verb is JobVerb.CANCEL:
            self.cancelled = True
            self.user_paused = False
        elif verb is JobVerb.FINALIZE:
            self.finalized = True
        elif verb is JobVerb.DISMISS:
            self.dismissed = True

    # -- what must hold -----------------------------------------------------------------------

    @invariant()
    def state_is_the_expected_one(self):
        if hasattr(self, "job"):
            assert self.job.status == self.expected, self.stage.events

    @invariant()
    def every_step_is_in_the_table(self):
        if hasattr(self, "stage"):
            before = JobStatus.UNDEFINED
            for event in self.stage.events:
                now = JobStatus(event.split()[1])
                assert now in TRANSITIONS[before], self.stage.events
                before = now

    @invariant()
    def it_is_finished_at_most_once(self):
        if hasattr(self, "job"):
            log = self.job.log
            assert log in (
                [],
                ["prepare", "commit", "clean"],
                ["abort", "clean"],
            )
            done = self.job.status in {JobStatus.CONCLUDED, JobStatus.NULL}
            assert bool(log) == done

    def teardown(self):
        if hasattr(self, "runner"):
            self.run(self.stage.manager.close())
            assert self.stage.manager.jobs() == []
            self.runner.close()


class TestJobMachine(JobMachine.TestCase, TestCase):
    settings = settings(max_examples=80, stateful_step_count=20)

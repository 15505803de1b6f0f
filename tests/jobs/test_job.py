"""The orders of events are those of QEMU 7.2."""

import asyncio
import errno

import pytest

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.block.drain import drained
from qmpfleece.block.graph import Graph
from qmpfleece.jobs.status import JobStatus
from qmpfleece.jobs.txn import JobTxn
from tests.jobs.conftest import BlockPuppet, Puppet, Sleeper, SlowToStop
from tests.tools.gate import add_disk
from tests.tools.until import settle


async def test_a_job_that_ends_well_passes_all_states(stage):
    job = stage.add(Puppet("j"))
    assert stage.events == ["j created", "j running"]
    job.finish()
    events = await stage.take()
    assert events[2:] == ["j waiting", "j pending", "j concluded", "j null"]
    assert job.log == ["prepare", "commit", "clean"]
    assert stage.manager.jobs() == []


async def test_a_job_that_fails_is_undone_and_keeps_its_error(stage):
    job = stage.add(Puppet("j", auto_dismiss=False))
    job.fail(errno.ENOSPC)
    assert (await stage.take())[2:] == ["j aborting", "j concluded"]
    assert job.log == ["abort", "clean"]
    assert job.error == "No space left on device"
    job.user_dismiss()
    assert await stage.take() == ["j null"]


async def test_a_job_that_is_not_finalised_by_itself_waits_for_the_user(stage):
    job = stage.add(Puppet("j", auto_finalize=False))
    job.finish()
    await stage.take()
    assert job.status is JobStatus.PENDING
    assert job.log == []
    await job.user_finalize()
    assert stage.events == ["j concluded", "j null"]


async def test_cancelling_a_pending_job_aborts_it_before_the_call_returns(stage):
    job = stage.add(Puppet("j", auto_finalize=False))
    job.finish()
    await stage.take()
    await job.user_cancel()
    assert stage.events == ["j aborting", "j concluded", "j null"]
    assert job.log == ["abort", "clean"]
    assert job.error == "Operation canceled"


async def test_cancelling_a_running_job_is_answered_before_anything_happens(stage):
    job = stage.add(Puppet("j"))
    await stage.take()
    await job.user_cancel()
    assert stage.events == []
    assert await stage.take() == ["j aborting", "j concluded", "j null"]


async def test_cancelling_a_paused_job_first_makes_it_run(stage):
    job = stage.add(Sleeper("j"))
    await stage.take()
    job.user_pause()
    assert stage.events == ["j paused"]
    await job.user_cancel()
    assert stage.events == ["j paused", "j running"]
    assert await stage.take() == ["j paused", "j running", "j aborting", "j concluded", "j null"]


async def test_a_job_that_sleeps_pauses_and_resumes_at_once(stage):
    job = stage.add(Sleeper("j"))
    await stage.take()
    job.user_pause()
    job.user_resume()
    assert stage.events == ["j paused", "j running"]
    await settle()
    assert job.turns == 2


async def test_a_job_that_works_pauses_when_its_work_has_been_called_back(stage):
    job = stage.add(Puppet("j"))
    await stage.take()
    job.user_pause()
    assert stage.events == []
    assert await stage.take() == ["j paused"]
    assert job.turns == 1
    job.user_resume()
    assert await stage.take() == ["j running"]
    assert job.turns == 2


async def test_pausing_and_resuming_before_the_work_has_noticed_goes_unseen(stage):
    job = stage.add(Puppet("j"))
    await stage.take()
    job.user_pause()
    job.user_resume()
    assert await stage.take() == []
    assert job.turns == 2


async def test_pauses_are_counted(stage):
    job = stage.add(Sleeper("j"))
    await stage.take()
    job.user_pause()
    job.drained_begin()
    job.user_resume()
    assert stage.events == ["j paused"]
    job.drained_end()
    assert stage.events == ["j paused", "j running"]


async def test_a_job_started_while_it_is_drained_is_paused_before_it_does_anything(stage):
    job = stage.add(Puppet("j"), start=False)
    job.drained_begin()
    job.start()
    assert stage.events == ["j created", "j running", "j paused"]
    await settle()
    assert job.turns == 0
    job.drained_end()
    assert (await stage.take())[3:] == ["j running"]
    assert job.turns == 1


async def test_a_job_that_was_never_started_is_cancelled_without_a_trace(stage):
    job = stage.add(Puppet("j", auto_dismiss=False), start=False)
    await job.cancel()
    assert stage.events == ["j created", "j aborting", "j concluded", "j null"]


async def test_the_user_pauses_once_only(stage):
    job = stage.add(Sleeper("j"))
    job.user_pause()
    with pytest.raises(QmpError, match=r"^Job is already paused$"):
        job.user_pause()
    job.user_resume()
    with pytest.raises(QmpError, match=r"^Can't resume a job that was not paused$"):
        job.user_resume()


async def test_a_bug_in_a_job_ends_that_job_only(stage, caplog):
    job = stage.add(Puppet("j", auto_dismiss=False))
    job.outcome.set_exception(ZeroDivisionError("boom"))
    assert (await stage.take())[2:] == ["j aborting", "j concluded"]
    assert job.error == "Internal error in job 'j'"
    assert "has failed unexpectedly" in caplog.text


async def test_block_job_keeps_its_speed_and_refuses_a_negative_one(stage):
    job = stage.add(BlockPuppet(Graph(None), "j"))
    job.set_speed(5)
    with pytest.raises(QmpError, match=r"^Parameter 'speed' expects a non-negative value$"):
        job.set_speed(-1)
    assert job.speed == 5


async def test_drain_waits_until_the_job_has_paused(stage):
    graph = Graph(None)
    disk = add_disk(graph, "disk", bytes(512))
    job = stage.add(SlowToStop(graph, "j"), start=False)
    job.hold("main node", disk.node)
    job.start()
    await stage.take()

    async def drain():
        async with drained(disk.node):
            assert job.status is JobStatus.PAUSED

    draining = asyncio.ensure_future(drain())
    assert await stage.take() == []
    assert not draining.done()
    job.may_stop.set()
    await draining
    assert await stage.take() == ["j paused", "j running"]
    job.may_stop.set()
    await job.user_cancel()
    await stage.manager.close()
    assert not disk.node.in_flight


@pytest.mark.parametrize(
    ("policy", "code", "action", "io_status"),
    [
        ("report", errno.ENOSPC, "report", "ok"),
        ("report", errno.EIO, "report", "ok"),
        ("ignore", errno.EIO, "ignore", "ok"),
        ("enospc", errno.EIO, "report", "ok"),
        ("enospc", errno.ENOSPC, "stop", "nospace"),
        ("auto", errno.ENOSPC, "stop", "nospace"),
        ("stop", errno.EIO, "stop", "failed"),
        ("stop", errno.ENOSPC, "stop", "nospace"),
    ],
)
async def test_error_policy_decides(stage, policy, code, action, io_status):
    job = stage.add(BlockPuppet(Graph(None), "j"))
    await stage.take()
    assert job.on_error(OSError(code, "x"), policy, is_read=False) == action
    assert stage.events[0] == "j BLOCK_JOB_ERROR"
    assert job.io_status == io_status
    assert job.user_paused == (action == "stop")
    if action == "stop":
        job.user_resume()
        assert job.io_status == "ok"


async def test_only_force_cancels_a_block_job_that_the_user_has_paused(stage):
    job = stage.add(BlockPuppet(Graph(None), "j"))
    job.user_pause()
    with pytest.raises(QmpError, match=r"^The block job for device 'j' is currently paused$"):
        job.check_force(force=False)
    job.check_force(force=True)


async def test_grouped_jobs_finish_together_the_last_one_first(stage):
    txn = JobTxn()
    first, second = (stage.add(Puppet(name), txn) for name in "ab")
    await stage.take()
    second.finish()
    assert await stage.take() == ["b waiting"]
    first.finish()
    assert await stage.take() == [
        "a waiting",
        "b pending",
        "a pending",
        "b concluded",
        "b null",
        "a concluded",
        "a null",
    ]


async def test_grouped_jobs_wait_for_the_user_if_one_of_them_does(stage):
    txn = JobTxn()
    first = stage.add(Puppet("a", auto_finalize=False), txn)
    second = stage.add(Puppet("b"), txn)
    first.finish()
    second.finish()
    assert (await stage.take())[-1] == "a pending"
    await second.user_finalize()
    assert stage.events == ["b concluded", "b null", "a concluded", "a null"]


async def test_failing_job_cancels_its_group(stage):
    txn = JobTxn()
    first, second = (stage.add(Puppet(name), txn) for name in "ab")
    await stage.take()
    first.fail(errno.EIO)
    assert await stage.take() == [
        "a aborting",
        "b aborting",
        "b concluded",
        "b null",
        "a concluded",
        "a null",
    ]
    assert second.cancelled
    assert first.log == second.log == ["abort", "clean"]


async def test_cancelling_a_waiting_job_cancels_its_group(stage):
    txn = JobTxn()
    stage.add(Puppet("a"), txn)
    second = stage.add(Puppet("b"), txn)
    second.finish()
    await stage.take()
    await second.user_cancel()
    assert stage.events == [
        "b aborting",
        "b concluded",
        "b null",
        "a aborting",
        "a concluded",
        "a null",
    ]


async def test_job_that_cannot_be_prepared_aborts_its_group(stage):
    txn = JobTxn()
    first = stage.add(Puppet("a", auto_dismiss=False), txn)
    second = stage.add(Puppet("b"), txn)
    first.fails_to_prepare = QmpError("no")
    first.finish()
    second.finish()
    await stage.take()
    assert first.log == ["prepare", "abort", "clean"]
    assert second.log == ["prepare", "abort", "clean"]
    assert first.error == "no"


async def test_verbs_wait_for_a_job_that_is_being_concluded(stage):
    job = stage.add(Puppet("j"))
    job.finish()
    reached = asyncio.Event()
    stage.bus.subscribe(lambda _event, _us: job.status is JobStatus.PENDING and reached.set())
    await reached.wait()
    assert job.txn.settling
    with pytest.raises(QmpError, match=r"^Job not found$"):
        await stage.manager.find("j")
    assert stage.events[-1] == "j null"


async def test_job_that_cannot_clean_up_is_concluded_and_so_is_its_group(stage, caplog):
    class Untidy(Puppet):
        async def clean(self):
            await super().clean()
            raise BlockError(errno.EIO)

    txn = JobTxn()
    jobs = [stage.add(Untidy("j"), txn), stage.add(Puppet("k"), txn)]
    for job in jobs:
        job.finish()
    events = await stage.take()
    for job in jobs:
        assert events.count(f"{job.id} null") == 1
        assert job.log == ["prepare", "commit", "clean"]
    assert stage.manager.jobs() == []
    assert "cleaning up after job j has failed" in caplog.text


@pytest.mark.parametrize("step", ["prepare", "commit", "abort"])
async def test_job_that_breaks_at_its_end_fails_and_its_group_is_concluded(stage, caplog, step):
    def breaks():
        raise AssertionError("a bug")

    txn = JobTxn()
    kept = {"auto_dismiss": False}
    broken, other = (stage.add(Puppet(name, **kept), txn) for name in "jk")
    setattr(broken, step, breaks)
    if step == "abort":
        other.fail(errno.EIO)
    else:
        other.finish()
    broken.finish()
    await settle()
    assert await stage.manager.find("j") is broken
    assert [job.status for job in (broken, other)] == [JobStatus.CONCLUDED] * 2
    assert broken.error == "Internal error in job 'j'"
    assert broken.log[-1] == other.log[-1] == "clean"
    assert "a bug" in caplog.text


@pytest.mark.parametrize("name", ["", "1a", "a/b", "ä", "-"])
async def test_malformed_ids_are_refused(stage, name):
    with pytest.raises(QmpError, match=rf"^Invalid job ID '{name}'$"):
        stage.add(Puppet(name))


async def test_an_id_is_taken_until_the_job_is_dismissed(stage):
    job = stage.add(Puppet("j", auto_dismiss=False))
    with pytest.raises(QmpError, match=r"^Job ID 'j' already in use$"):
        stage.add(Puppet("j"))
    job.finish()
    await settle()
    job.user_dismiss()
    stage.add(Puppet("j"))


async def test_jobs_are_listed_newest_first(stage):
    for name in "abc":
        stage.add(Sleeper(name))
    assert [job.id for job in stage.manager.jobs()] == ["c", "b", "a"]


async def test_closing_ends_jobs_in_every_state(stage):
    pending = stage.add(Puppet("pending", auto_finalize=False))
    concluded = stage.add(Puppet("concluded", auto_dismiss=False))
    stage.add(Puppet("created"), start=False)
    stage.add(Sleeper("running"))
    stage.add(Sleeper("paused")).user_pause()
    txn = JobTxn()
    stage.add(Puppet("grouped"), txn)
    waiting = stage.add(Puppet("waiting"), txn)
    for job in (pending, concluded, waiting):
        job.finish()
    await settle()
    await stage.manager.close()
    assert stage.manager.jobs() == []
    assert sum(event.endswith(" null") for event in stage.events) == 7

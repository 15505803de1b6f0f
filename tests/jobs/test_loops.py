"""The engine on uvloop, which the daemon uses by default."""

import asyncio

import pytest

from tests.jobs.conftest import Puppet, Sleeper, Stage
from tests.tools.desk import Desk
from tests.tools.fleecing import CLUSTER, pattern

uvloop = pytest.importorskip("uvloop")


def test_verbs_and_ends_are_the_same():
    async def main():
        stage = Stage()
        job, sleeper = stage.add(Puppet("j")), stage.add(Sleeper("s"))
        await stage.take()
        sleeper.user_pause()
        sleeper.user_resume()
        job.finish()
        await sleeper.user_cancel()
        await job.join()
        await sleeper.join()
        heard = stage.events
        await stage.manager.close()
        return heard

    with asyncio.Runner() as runner:
        expected = runner.run(main())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert sorted(runner.run(main())) == sorted(expected)


def test_backup_under_writes():
    async def main():
        desk = Desk()
        size = 16 * CLUSTER
        desk.disk("disk", pattern(size))
        target = desk.disk("target", bytes(size))
        guest = desk.guest("disk")
        given = {"x-perf": {"max-chunk": CLUSTER}, "job-id": "j", "device": "disk"}
        await desk.say("blockdev-backup", given, target="target", sync="full")
        for n in range(15, 0, -2):
            await guest.pwrite(n * CLUSTER, memoryview(b"g" * 512))
        await desk.until("j null")
        assert target.data == pattern(size)
        await desk.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

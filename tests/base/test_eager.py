"""Eager start, on both event loops."""

import asyncio

import pytest
import uvloop

from qmpfleece.base import eager
from qmpfleece.base.stepper import Resumable, Stepper
from qmpfleece.base.workers import Workers


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine function on a loop of its own."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_it(function):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(function())

    return run_it


class Trace:
    """A coroutine of several suspensions that writes down what happens to it."""

    def __init__(self, points=3) -> None:
        loop = asyncio.get_running_loop()
        self.futures = [loop.create_future() for _ in range(points)]
        self.seen = []

    async def run(self):
        try:
            for number, future in enumerate(self.futures):
                self.seen.append((number, await future))
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("end")
        return "result"

    def start(self):
        return eager.start(self.run(), asyncio.get_running_loop())


async def spin():
    for _ in range(10):
        await asyncio.sleep(0)


def test_coroutine_that_does_not_suspend_makes_no_task(run):
    async def main():
        seen = []

        async def work():
            seen.append(asyncio.current_task())

        outer = asyncio.current_task()
        assert eager.start(work(), asyncio.get_running_loop()) is None
        assert seen == [outer]
        assert asyncio.all_tasks() == {outer}

    run(main)


def test_error_before_the_first_suspension_reaches_the_caller(run):
    async def main():
        async def work():
            raise OSError(5, "broken")

        with pytest.raises(OSError, match="broken"):
            eager.start(work(), asyncio.get_running_loop())

    run(main)


def test_suspended_coroutine_carries_on_as_a_task(run):
    async def main():
        trace = Trace()
        task = trace.start()
        assert trace.seen == []
        for number, future in enumerate(trace.futures):
            future.set_result(number * 10)
            await spin()
        assert await task == "result"
        assert trace.seen == [(0, 0), (1, 10), (2, 20), "end"]

    run(main)


def test_future_that_is_done_before_the_task_begins_is_seen(run):
    async def main():
        trace = Trace(1)
        task = trace.start()
        trace.futures[0].set_result("early")
        assert await task == "result"
        assert trace.seen == [(0, "early"), "end"]

    run(main)


def test_error_after_the_first_suspension_is_the_tasks(run):
    async def main():
        trace = Trace(2)
        task = trace.start()
        trace.futures[0].set_exception(OSError(5, "late"))
        with pytest.raises(OSError, match="late"):
            await task
        assert trace.seen == ["end"]

    run(main)


def test_bare_yield_to_the_loop_suspends(run):
    async def main():
        seen = []

        async def work():
            await asyncio.sleep(0)
            seen.append("on")

        task = eager.start(work(), asyncio.get_running_loop())
        assert seen == []
        await task
        assert seen == ["on"]

    run(main)


@pytest.mark.parametrize("point", [0, 1, 2])
@pytest.mark.parametrize("settled", [True, False])
def test_cancellation_ends_the_coroutine_at_any_point(run, point, settled):
    async def main():
        trace = Trace()
        task = trace.start()
        for number in range(point):
            trace.futures[number].set_result(number)
            await spin()
        if settled:
            await spin()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert trace.seen == [*((n, n) for n in range(point)), "cancelled", "end"]
        assert trace.futures[point].cancelled()

    run(main)


def test_cancellation_before_the_task_begins_with_a_bare_yield(run):
    async def main():
        seen = []

        async def work():
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = eager.start(work(), asyncio.get_running_loop())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"]

    run(main)


def test_cancellation_may_be_survived(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        seen = []

        async def work():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                seen.append("cancelled")
            seen.append(await future)

        task = eager.start(work(), asyncio.get_running_loop())
        task.cancel()
        await spin()
        future.set_result("on")
        await task
        assert seen == ["cancelled", "on"]

    run(main)


@pytest.mark.parametrize("settled", [True, False])
def test_call_on_a_thread_is_over_before_its_cancelled_request_ends(run, settled):
    async def main():
        import threading

        workers = Workers()
        queue = workers.queue()
        may_end = threading.Event()
        seen = []

        def call():
            may_end.wait()
            seen.append("call")

        async def work():
            try:
                await queue.submit(call)
            finally:
                seen.append("request")

        task = eager.start(work(), asyncio.get_running_loop())
        if settled:
            await spin()
        task.cancel()
        await spin()
        assert seen == []
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["call", "request"]
        workers.close()

    run(main)


class Stubborn(asyncio.Future):
    """A future that can't be cancelled, as those of system calls."""

    def cancel(self, msg=None):
        return False


@pytest.mark.parametrize("settled", [True, False])
def test_a_request_that_is_cancelled_twice_may_clean_up_undisturbed(run, settled):
    async def main():
        loop = asyncio.get_running_loop()
        call, cleaning = Stubborn(loop=loop), loop.create_future()
        seen = []

        async def work():
            try:
                await call
            except asyncio.CancelledError:
                seen.append("cancelled")
                await cleaning
                seen.append("clean")
                raise

        task = eager.start(work(), loop)
        if settled:
            await spin()
        task.cancel()
        await spin()
        task.cancel()
        call.set_result(None)
        await spin()
        assert seen == ["cancelled"]
        cleaning.set_result(None)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled", "clean"]

    run(main)


class Ending(Stepper):
    """A stepper that tells how its coroutine ended."""

    def __init__(self, coro) -> None:
        super().__init__(coro, asyncio.get_running_loop())
        self.end = asyncio.get_running_loop().create_future()

    def ended(self, error):
        self.end.set_result(error)


def test_stepper_runs_a_coroutine_without_a_task_to_its_end(run):
    async def main():
        seen = []
        loop = asyncio.get_running_loop()
        trace = Trace()

        async def work():
            await asyncio.sleep(0)
            seen.append(await trace.run())
            workers = Workers()
            seen.append(await workers.queue().submit(divmod, 7, 2))
            workers.close()

        before = len(asyncio.all_tasks())
        stepper = Ending(work())
        stepper.step()
        assert len(asyncio.all_tasks()) == before
        for number, future in enumerate(trace.futures):
            loop.call_soon(future.set_result, number)
        assert await stepper.end is None
        assert seen == ["result", (3, 1)]
        assert trace.seen == [(0, 0), (1, 1), (2, 2), "end"]

    run(main)


def test_stepper_hands_on_what_its_coroutine_raises(run):
    async def main():
        loop = asyncio.get_running_loop()

        async def wait_for(future):
            await future

        for settle in (
            lambda future: future.set_exception(OSError(5, "no")),
            lambda future: future.cancel(),
        ):
            future = loop.create_future()
            stepper = Ending(wait_for(future))
            stepper.step()
            settle(future)
            assert isinstance(await stepper.end, OSError | asyncio.CancelledError)

    run(main)


def test_settling_a_resumable_resumes_its_stepper_at_once(run):
    async def main():
        seen = []
        resumable = Resumable(asyncio.get_running_loop())

        async def work():
            seen.append(await resumable)

        Ending(work()).step()
        assert not seen
        resumable.settle("value", None)
        assert seen == ["value"]

    run(main)


def test_resumable_wakes_a_task_like_any_future(run):
    async def main():
        loop = asyncio.get_running_loop()
        resumable = Resumable(loop)
        loop.call_soon(resumable.settle, None, OSError(28, "full"))
        with pytest.raises(OSError, match="full"):
            await resumable

    run(main)


def test_asyncio_waits_for_resumables_as_for_futures(run):
    async def main():
        loop = asyncio.get_running_loop()
        first, second, third = (Resumable(loop) for _ in range(3))
        assert asyncio.isfuture(first)
        waiting = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(third), timeout=60))
        gathered = asyncio.gather(first, second, return_exceptions=True)
        assert await asyncio.wait({first, second}, timeout=0) == (set(), {first, second})
        first.settle(1, None)
        second.settle(None, error := OSError(28, "full"))
        third.settle(3, None)
        assert await asyncio.wait({first, second}) == ({first, second}, set())
        assert await gathered == [1, error]
        assert await waiting == 3
        assert (first.result(), second.exception()) == (1, error)

    run(main)


def test_callback_that_is_removed_from_a_resumable_is_not_called(run):
    async def main():
        seen = []
        resumable = Resumable(asyncio.get_running_loop())
        for name in ("kept", "gone", "kept"):
            resumable.add_done_callback({"kept": seen.append, "gone": print}[name])
        assert resumable.remove_done_callback(print) == 1
        assert resumable.remove_done_callback(print) == 0
        resumable.settle(None, None)
        await spin()
        assert seen == [resumable, resumable]

    run(main)


def test_task_that_is_cancelled_waits_until_its_resumable_is_settled(run):
    async def main():
        loop = asyncio.get_running_loop()
        resumable = Resumable(loop)

        async def work():
            await resumable

        task = loop.create_task(work())
        await spin()
        task.cancel()
        await spin()
        assert not task.done()
        resumable.settle(None, None)
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)

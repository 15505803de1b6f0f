"""Worker threads: order, shares, errors, cancellation."""

import asyncio
import threading

import pytest
import pytest_asyncio

from qmpfleece.base.workers import Workers


@pytest_asyncio.fixture
async def workers():
    workers = Workers()
    yield workers
    workers.close()
    assert not disk_threads()


def disk_threads():
    return [thread for thread in threading.enumerate() if thread.name == "disk"]


class Gate:
    """Calls that stay on their thread until they are let go."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.inside = []
        self.open = set()
        self.most = 0

    def hold(self, name):
        with self.lock:
            self.inside.append(name)
            self.most = max(self.most, len(self.inside))
            self.lock.notify_all()
            self.lock.wait_for(lambda: name in self.open or None in self.open)
            self.inside.remove(name)
            return name

    def let(self, *names: str):
        with self.lock:
            self.open.update(names or [None])
            self.lock.notify_all()

    async def reached(self, *names: object):
        """Wait, without blocking the loop, until all of these are on their threads."""
        await self._until(lambda: set(names) <= set(self.inside))

    async def crowded(self, count):
        """The same, until there are so many, whoever they are."""
        await self._until(lambda: len(self.inside) >= count)

    async def _until(self, happened):
        def wait():
            with self.lock:
                assert self.lock.wait_for(happened, 30)

        await asyncio.get_running_loop().run_in_executor(None, wait)


async def spin():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_result_and_arguments_pass_through(workers):
    queue = workers.queue()
    assert await queue.submit(divmod, 17, 5) == (3, 2)
    assert await queue.submit_serial(divmod, 9, 4) == (2, 1)


async def test_calls_run_on_other_threads(workers):
    here = threading.get_ident()
    assert await workers.queue().submit(threading.get_ident) != here


async def test_error_reaches_the_one_who_awaits_it(workers):
    queue = workers.queue()
    bad, good = queue.submit_serial(int, "x"), queue.submit_serial(int, "7")
    with pytest.raises(ValueError, match="invalid literal"):
        await bad
    assert await good == 7


async def test_serial_operations_of_a_turn_run_in_order_on_one_thread(workers):
    queue = workers.queue()
    seen = []
    futures = [
        queue.submit_serial(lambda n: seen.append((n, threading.get_ident())), n)
        for n in range(20)
    ]
    await asyncio.gather(*futures)
    assert [n for n, _ in seen] == list(range(20))
    assert len({thread for _, thread in seen}) == 1


async def test_spread_operations_of_a_turn_run_side_by_side(workers):
    queue, gate = workers.queue(limit=4), Gate()
    futures = [queue.submit(gate.hold, n) for n in range(4)]
    await gate.reached(0, 1, 2, 3)
    gate.let()
    assert await asyncio.gather(*futures) == [0, 1, 2, 3]


async def test_queue_never_occupies_more_threads_than_its_limit(workers):
    queue, gate = workers.queue(limit=3), Gate()
    futures = []
    for turn in range(5):
        futures += [queue.submit(gate.hold, (turn, n)) for n in range(4)]
        futures.append(queue.submit_serial(gate.hold, (turn, "s")))
        await asyncio.sleep(0)
    await gate.crowded(3)
    threads = len(disk_threads())
    gate.let()
    await asyncio.gather(*futures)
    assert threads == gate.most == 3


async def test_hanging_disk_takes_no_threads_of_another(workers):
    gate = Gate()
    hanging = workers.queue(limit=2)
    stuck = [hanging.submit(gate.hold, n) for n in range(2)]
    await gate.reached(0, 1)
    more = hanging.submit(gate.hold, 2)
    assert await workers.queue(limit=1).submit(int, "5") == 5
    assert not more.done()
    gate.let()
    assert await asyncio.gather(*stuck, more) == [0, 1, 2]


async def test_loop_runs_while_a_call_hangs(workers):
    queue, gate = workers.queue(), Gate()
    future = queue.submit(gate.hold, "hang")
    await gate.reached("hang")
    turns = []
    for n in range(100):
        asyncio.get_running_loop().call_soon(turns.append, n)
    await spin()
    assert len(turns) == 100
    gate.let()
    await future


async def test_neither_kind_of_operation_starves_the_other(workers):
    queue, gate = workers.queue(limit=1), Gate()
    first = queue.submit_serial(gate.hold, "first")
    await gate.reached("first")
    read = queue.submit(gate.hold, "read")
    write = queue.submit_serial(gate.hold, "write")
    gate.let("first")
    await first
    # Writes go on arriving; the read has its turn all the same.
    again = queue.submit_serial(gate.hold, "again")
    await gate.reached("read")
    gate.let()
    assert await asyncio.gather(read, write, again) == ["read", "write", "again"]


async def test_cancelled_task_ends_when_the_call_has_ended(workers):
    queue, gate = workers.queue(), Gate()
    seen = []

    async def request():
        try:
            await queue.submit(gate.hold, "a")
        finally:
            seen.append(list(gate.inside))

    task = asyncio.create_task(request())
    await gate.reached("a")
    task.cancel()
    await spin()
    assert not task.done()
    gate.let()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [[]]


async def test_failed_call_of_a_cancelled_task_leaves_nothing_behind(workers):
    queue, gate = workers.queue(), Gate()

    def call():
        gate.hold("a")
        raise OSError(5, "EIO")

    task = asyncio.create_task(asyncio.wait_for(queue.submit(call), None))
    await gate.reached("a")
    task.cancel()
    gate.let()
    with pytest.raises((asyncio.CancelledError, OSError)):
        await task


async def test_close_ends_idle_threads_and_may_be_repeated(workers):
    assert await workers.queue().submit(int, "1") == 1
    workers.close()
    workers.close()
    assert await workers.queue().submit(int, "2") == 2


async def test_threads_are_used_again(workers):
    queue = workers.queue(limit=1)
    seen = {await queue.submit(threading.get_ident) for _ in range(20)}
    assert len(seen) == 1


@pytest.fixture
def no_more_threads():
    """The system refuses to start a thread whose stack does not fit in memory."""
    before = threading.stack_size()
    yield lambda: threading.stack_size(1 << 47)
    threading.stack_size(before)


async def test_threads_that_are_there_do_everything_when_there_are_no_more(
    workers, no_more_threads
):
    queue = workers.queue()
    await queue.submit(int)
    no_more_threads()
    assert await asyncio.gather(*(queue.submit(int, str(i)) for i in range(50))) == [*range(50)]


async def test_operations_fail_when_there_is_no_thread_at_all(workers, no_more_threads):
    queue = workers.queue()
    no_more_threads()
    for _ in range(20):
        with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
            await queue.submit(int)
    threading.stack_size(0)
    assert await queue.submit(int, "3") == 3

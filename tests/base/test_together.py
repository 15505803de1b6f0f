import asyncio

import pytest

from qmpfleece.base.together import Crew


async def waiting(future):
    await future


def futures(count):
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_load_is_that_of_the_tasks_that_go_on():
    crew, (first, second) = Crew(), futures(2)
    assert crew.start(waiting(first), 3)
    crew.start(waiting(second), 5)
    assert (len(crew), crew.load) == (2, 8)
    first.set_result(None)
    await crew.some_done()
    assert (len(crew), crew.load) == (1, 5)
    second.set_result(None)
    assert await crew.all_done() is None
    assert (len(crew), crew.load) == (0, 0)


async def test_what_never_waits_is_no_task():
    async def nothing():
        pass

    crew = Crew()
    assert not crew.start(nothing(), 1)
    assert (len(crew), crew.load) == (0, 0)


async def test_failure_is_told_though_nobody_waited_for_it_and_the_others_go_on():
    crew, (first, second, third) = Crew(), futures(3)
    for future in (first, second, third):
        crew.start(waiting(future), 1)
    first.set_exception(OSError("first"))
    assert not crew.failed
    await asyncio.sleep(0)
    second.set_exception(OSError("second"))
    with pytest.raises(OSError, match="first"):
        await crew.some_done()
    assert crew.failed
    ending = asyncio.create_task(crew.all_done())
    await asyncio.sleep(0)
    assert not ending.done()
    third.set_result(None)
    assert str(await ending) == "first"


async def test_who_is_cancelled_while_it_waits_for_all_cancels_them():
    crew, (future,) = Crew(), futures(1)
    crew.start(waiting(future), 1)
    ending = asyncio.create_task(crew.all_done())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert future.cancelled()
    assert not crew

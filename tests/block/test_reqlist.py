import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.block.reqlist import ReqList


async def settle():
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12),
    st.integers(0, 60),
    st.integers(1, 20),
)
def test_conflict_is_the_oldest_request_that_shares_a_byte(entries, offset, length):
    reqs = ReqList()
    requests = [reqs.add(*entry) for entry in entries]
    mine = set(range(offset, offset + length))
    expected = [r for r in requests if mine & set(range(r.offset, r.offset + r.length))]
    assert reqs.find_conflict(offset, length) is (expected[0] if expected else None)


def test_list_is_true_only_while_requests_are_in_flight():
    reqs = ReqList()
    assert not reqs
    request = reqs.add(0, 1)
    assert list(reqs) == [request]
    request.remove()
    assert not reqs


async def test_wait_one_does_not_suspend_without_a_conflict():
    reqs = ReqList()
    reqs.add(0, 10)
    waiting = reqs.wait_one(10, 5)
    with pytest.raises(StopIteration) as stop:
        waiting.send(None)
    assert stop.value.value is False


async def test_wait_one_returns_when_the_first_conflict_goes():
    reqs = ReqList()
    first, _second = reqs.add(0, 10), reqs.add(5, 10)
    task = asyncio.create_task(reqs.wait_one(0, 20))
    await settle()
    assert not task.done()
    first.remove()
    assert await task


async def test_wait_all_returns_when_the_last_conflict_is_gone():
    reqs = ReqList()
    first, second = reqs.add(0, 10), reqs.add(5, 10)
    other = reqs.add(100, 1)
    task = asyncio.create_task(reqs.wait_all(0, 20))
    await settle()
    first.remove()
    await settle()
    assert not task.done()
    second.remove()
    await task
    assert list(reqs) == [other]


async def test_shrinking_lets_those_pass_that_no_longer_overlap():
    reqs = ReqList()
    request = reqs.add(0, 10)
    behind = asyncio.create_task(reqs.wait_all(5, 5))
    inside = asyncio.create_task(reqs.wait_all(4, 1))
    await settle()
    request.shrink(5)
    await behind
    assert not inside.done()
    request.remove()
    await inside


async def test_waiters_cancelled_in_between_hold_up_nobody():
    reqs = ReqList()
    request = reqs.add(0, 10)
    tasks = [asyncio.create_task(reqs.wait_all(0, 1)) for _ in range(3)]
    await settle()
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    request.remove()
    await asyncio.gather(tasks[0], tasks[2])


async def test_woken_waiters_that_take_the_range_exclude_each_other():
    reqs = ReqList()
    inside = 0
    most = 0

    async def use():
        nonlocal inside, most
        await reqs.wait_all(0, 4)
        request = reqs.add(0, 4)
        inside += 1
        most = max(most, inside)
        await settle()
        inside -= 1
        request.remove()

    await asyncio.gather(*(use() for _ in range(5)))
    assert most == 1

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.jobs.ratelimit import SLICE_S, RateLimit
from tests.tools.until import settle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_speed_nothing_waits():
    limit = RateLimit(Clock())
    limit.account(1 << 40)
    assert limit.delay_s() == 0


def test_one_request_passes_in_each_slice_however_large():
    clock = Clock()
    limit = RateLimit(clock)
    limit.set_speed(1000)
    assert limit.delay_s() == 0
    limit.account(1000)
    assert limit.delay_s() == pytest.approx(1.0)
    clock.now += 0.5
    assert limit.delay_s() == pytest.approx(0.5)
    clock.now += 0.5 + SLICE_S / 10
    assert limit.delay_s() == 0


@given(
    st.integers(1, 1 << 40),
    st.lists(st.tuples(st.integers(1, 1 << 30), st.floats(0, 10)), max_size=30),
)
def test_rate_is_kept_on_average(speed, requests):
    clock = Clock()
    limit = RateLimit(clock)
    limit.set_speed(speed)
    start, total, last = clock.now, 0, 0.0
    for length, idle in requests:
        clock.now += idle
        clock.now += limit.delay_s()
        # All but the last slice's bytes have been paid for with time.
        passed = clock.now - start + SLICE_S + 1e-6
        assert total - last <= max(speed, 1 / SLICE_S) * passed
        limit.account(length)
        total += length
        last = length + speed * SLICE_S


async def test_waiting_ends_when_the_speed_changes_or_it_is_stopped():
    limit = RateLimit(asyncio.get_running_loop().time)
    for end in (lambda: limit.set_speed(5), limit.stop):
        task = asyncio.ensure_future(limit.pause(3600))
        await settle()
        assert limit.waiting
        end()
        await task
        assert not limit.waiting
    assert limit.stopping

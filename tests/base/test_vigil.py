"""The vigil: when the loop stays awake for the next request, and that it ends."""

import asyncio

import pytest

from qmpfleece.base import vigil
from qmpfleece.base.vigil import Vigil

FOR_EVER = 1 << 62


@pytest.fixture
def limits(monkeypatch):
    """Set which requests are near each other, and how long the loop looks for the next."""

    def set_limits(near_ns, patience_ns):
        monkeypatch.setattr(vigil, "_NEAR_NS", near_ns)
        monkeypatch.setattr(vigil, "_PATIENCE_NS", patience_ns)

    return set_limits


@pytest.fixture
def looks(monkeypatch):
    """The looks so far, one entry each."""
    found = []
    monkeypatch.setattr(vigil.os, "sched_yield", lambda: found.append(None))
    return found


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_request_near_the_last_one_keeps_the_loop_awake(limits, looks):
    limits(FOR_EVER, FOR_EVER)
    watch = Vigil(asyncio.get_running_loop())
    watch.prolong()
    await turns()
    assert len(looks) >= 2
    watch.close()


async def test_a_lone_request_lets_the_loop_sleep(limits, looks):
    limits(0, FOR_EVER)
    watch = Vigil(asyncio.get_running_loop())
    watch.prolong()
    watch.prolong()
    await turns()
    assert not looks


async def test_the_loop_sleeps_when_no_request_has_come(limits, looks):
    limits(FOR_EVER, 0)
    watch = Vigil(asyncio.get_running_loop())
    watch.prolong()
    await turns()
    assert not looks
    limits(FOR_EVER, FOR_EVER)
    watch.prolong()  # and wakes again
    await turns()
    assert looks
    watch.close()


async def test_a_closed_vigil_lets_the_loop_sleep(limits, looks):
    limits(FOR_EVER, FOR_EVER)
    watch = Vigil(asyncio.get_running_loop())
    watch.prolong()
    watch.close()
    await turns()
    assert not looks

"""What asyncio itself reports does not stay unseen: see ``reports`` in the conftest."""

import asyncio
import gc

import pytest


async def fails():
    raise OSError("unseen")


async def forget_a_task():
    asyncio.create_task(fails())  # noqa: RUF006 - nobody asks for its result
    await asyncio.sleep(0)


async def forget_a_future():
    asyncio.get_running_loop().create_future().set_exception(OSError("unseen"))


async def fail_in_a_callback():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("provoke", "text"),
    [
        (forget_a_task, "Task exception was never retrieved"),
        (forget_a_future, "Future exception was never retrieved"),
        (fail_in_a_callback, "Exception in callback"),
    ],
)
async def test_what_nobody_has_seen_is_reported(reports, provoke, text):
    await provoke()
    gc.collect()
    assert text in reports.pop()
    assert not reports

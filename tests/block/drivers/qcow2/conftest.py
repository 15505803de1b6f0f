"""What tests of images share."""

import asyncio

import pytest


@pytest.fixture
async def turn():
    """Tells which turn of the loop it is."""
    count = 0

    async def tick():
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    yield lambda: count
    ticking.cancel()
    await asyncio.wait([ticking])

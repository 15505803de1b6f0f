"""Waiting for what must happen; the test's timeout ends it when it does not."""

import asyncio
from collections.abc import Callable


async def until(happened: Callable[[], object]) -> None:
    """Let the loop run until ``happened``: tests look at things that tell nobody."""
    while True:
        if happened():
            return
        await asyncio.sleep(0)


async def settle() -> None:
    """Let every task that can run do so, until all of them wait for the test."""
    for _ in range(40):
        await asyncio.sleep(0)

"""Waiting for what must happen; the test's timeout ends it when it does not."""

import asyncio
from collections.abc import Callable


async def until(happened: Callable[[], object]) -> None:
    """Let the loop run until ``happened``."""
    while not happened():
        await asyncio.sleep(0)

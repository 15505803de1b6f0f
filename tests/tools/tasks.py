"""Requests that a test has started and may have forgotten."""

import asyncio
from collections.abc import Sequence
from typing import Any


async def all_ended(tasks: Sequence["asyncio.Future[Any]"]) -> None:
    """Wait for all of them; raise the error of one that has failed and nobody looked at."""
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task._log_traceback:
            task.result()

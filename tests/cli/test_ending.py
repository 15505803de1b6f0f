"""How a verb ends when a signal comes."""

import asyncio
import errno
import signal

import pytest

from qmpfleece.cli import ending
from qmpfleece.cli.ending import Failure, Interrupted


def interrupted():
    come = Interrupted()
    come.take(signal.SIGTERM)
    return come


async def test_work_is_cancelled_and_the_status_says_by_which_signal():
    with pytest.raises(Failure, match="interrupted") as caught:
        await ending.unless_interrupted(asyncio.Event().wait(), interrupted())
    assert caught.value.status == 128 + signal.SIGTERM


async def test_work_that_fails_while_it_is_cancelled_says_why():
    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await ending.unless_interrupted(work(), interrupted())

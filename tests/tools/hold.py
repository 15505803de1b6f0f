"""Requests that wait below until a test lets them go on."""

import asyncio


class Gate(asyncio.Event):
    """Where requests wait until it is set.

    Attributes:
        reached: Set once the first one is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self):
        self.reached.set()
        return await super().wait()

    async def stops(self, coroutine):
        """Begin a request and let it run until something waits here; fail if it ends before."""
        task = asyncio.create_task(coroutine)
        reached = asyncio.create_task(self.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        if not self.reached.is_set():
            reached.cancel()
            self.set()  # who comes later, to close, is not held
            raise AssertionError(f"it has not stopped: {task}")
        return task


def hold(driver, verb):
    """Let one verb of a file driver wait at a gate, before it does anything."""
    gate, whole = Gate(), getattr(driver, verb)

    async def held(*arguments: object):
        await gate.wait()
        await whole(*arguments)

    setattr(driver, verb, held)
    return gate, lambda: setattr(driver, verb, whole)


async def start(coroutine, turns=20):
    """Begin a request and let it run for some turns of the loop."""
    task = asyncio.create_task(coroutine)
    for _ in range(turns):
        await asyncio.sleep(0)
    return task


async def cancelled_after(turns, coroutine):
    """Cancel what has run for so many turns, and wait for its end; it may have come before."""
    task = await start(coroutine, turns)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return task

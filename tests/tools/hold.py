"""Requests that wait below until a test lets them go on."""

import asyncio


def hold(driver, verb):
    """Let one verb of a file driver wait for an event, before it does anything."""
    gate, whole = asyncio.Event(), getattr(driver, verb)

    async def held(*arguments: object):
        await gate.wait()
        await whole(*arguments)

    setattr(driver, verb, held)
    return gate, lambda: setattr(driver, verb, whole)


async def start(coroutine, turns=20):
    """Begin a request and let it run for some turns of the loop, as a rule up to the gate."""
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

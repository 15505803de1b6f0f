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


async def start(coroutine):
    """Begin a request and let it run up to the gate."""
    task = asyncio.create_task(coroutine)
    for _ in range(20):
        await asyncio.sleep(0)
    return task

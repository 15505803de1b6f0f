"""Several tasks that belong to one piece of work: none is left behind, whatever happens."""

import asyncio


async def some_done(tasks: set[asyncio.Task[None]]) -> None:
    """Wait until a task is done; take those that are out of ``tasks``.

    Raises:
        Exception: One has failed; the others go on.
    """
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks.intersection_update(pending)
    if (error := _first_error(done)) is not None:
        raise error


async def all_done(tasks: set[asyncio.Task[None]]) -> BaseException | None:
    """Wait until all tasks are done; when we are cancelled meanwhile, so are they.

    Returns:
        The error of one that has failed.
    """
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await cancel(tasks)
        raise
    return _first_error(tasks)


async def cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel all tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _first_error(done: set[asyncio.Task[None]]) -> BaseException | None:
    """Return the error of one of the tasks; those of the others are taken note of."""
    errors = [task.exception() for task in done if not task.cancelled()]
    return next((error for error in errors if error is not None), None)

"""Several tasks that belong to one piece of work: none is left behind, whatever happens."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from qmpfleece.base import eager


class Crew:
    """Tasks that are started one by one; who starts them awaits or cancels all of them.

    A task that ends costs the same however many others go on.

    Attributes:
        load: What the tasks that go on weigh together, in units of the caller's.
    """

    __slots__ = ("_error", "_loop", "_tasks", "_waiter", "load")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.load = 0

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def failed(self) -> bool:
        """Whether one of the tasks has."""
        return self._error is not None

    def start(self, coro: Coroutine[Any, Any, None], weight: int) -> bool:
        """Run ``coro``, by ``eager.start``.

        Returns:
            Whether it goes on; False when it has ended without suspending.

        Raises:
            Exception: What it raised before it first suspended.
        """
        task = eager.start(coro, self._loop)
        if task is None:
            return False
        self._tasks[task] = weight
        self.load += weight
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.load -= self._tasks.pop(task)
        error = None if task.cancelled() else task.exception()
        if self._error is None:
            self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def some_done(self) -> None:
        """Wait until one of the tasks, of which there are some, has ended.

        Raises:
            Exception: One has failed, now or before; the others go on.
        """
        self._waiter = self._loop.create_future()
        await self._waiter
        if self._error is not None:
            raise self._error

    async def all_done(self) -> BaseException | None:
        """Wait until all tasks have ended; when we are cancelled meanwhile, so are they.

        Returns:
            The error of the first that has failed.
        """
        try:
            while self._tasks:
                self._waiter = self._loop.create_future()
                await self._waiter
        except asyncio.CancelledError:
            await self.cancel()
            raise
        return self._error

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        await cancel(set(self._tasks))


async def cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel all tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def unless(event: Coroutine[Any, Any, object], work: Coroutine[Any, Any, object]) -> bool:
    """Run ``work``, and cancel it if ``event`` comes to its end before.

    Returns:
        Whether ``work`` was over by then.

    Raises:
        Exception: What ``work`` raised, also when it was being cancelled.
    """
    task, waiter = asyncio.create_task(work), asyncio.create_task(event)
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        in_time = task.done()
    finally:
        waiter.cancel()
        task.cancel()
        await asyncio.wait({task, waiter})
    if in_time or not task.cancelled():
        task.result()
    return in_time

"""Run a coroutine by hand up to its first suspension; only then pay for a Task.

A request that the page cache can answer never suspends, so it costs no Task and no turn of
the event loop. The law that comes with it: the part before the first suspension runs outside
a Task of its own, so ``asyncio.timeout()`` and ``asyncio.current_task()`` must not be used
there.

Python 3.12 has ``asyncio.eager_task_factory``; this module goes when 3.11 does.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Suspended(Coroutine[Any, Any, T], Generic[T]):
    """A coroutine that has already run to its first suspension, as a coroutine."""

    __slots__ = ("_cancelled", "_coro", "_first")

    def __init__(self, coro: Coroutine[Any, Any, T], first: Any) -> None:
        self._coro = coro
        self._first: list[Any] = [first]
        self._cancelled: BaseException | None = None

    def send(self, value: Any) -> Any:
        if self._first:
            return self._first.pop()
        if self._cancelled is not None:
            error, self._cancelled = self._cancelled, None
            return self._coro.throw(error)
        return self._coro.send(value)

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        error = val if isinstance(val, BaseException) else typ
        if self._first:
            # The task was cancelled before it began. It does not know yet what the coroutine
            # waits for, so what a task does with that is done here.
            first = self._first.pop()
            if first is not None and not first.cancel():
                self._cancelled = error
                return first
        return self._coro.throw(error)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise TypeError("a suspended request is run by its task, not awaited")


def start(
    coro: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop
) -> "asyncio.Task[T] | None":
    """Run ``coro`` to its first suspension.

    For coroutines that deliver by side effect: the result of one that never suspends is
    dropped.

    Returns:
        The task that carries on, which the caller owns, or None when the coroutine is done.

    Raises:
        Exception: What the coroutine raised before it first suspended.
    """
    try:
        first = coro.send(None)
    except StopIteration:
        return None
    return loop.create_task(_Suspended(coro, first))

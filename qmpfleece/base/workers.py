"""Worker threads that run system calls, fed in batches.

Everything that a disk may delay runs here. All operations that one turn of the event loop
hands to one queue travel to the threads together, and come back together: two thread
switches a batch, not two an operation.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Operation(Generic[T]):
    """One system call on its way through a thread."""

    __slots__ = ("args", "call", "error", "future", "result")

    def __init__(self, future: "asyncio.Future[T]", call: Callable[..., T], args: Any) -> None:
        self.future = future
        self.call = call
        self.args = args
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.call(*self.args)
        except BaseException as error:  # noqa: BLE001 - carried over to the awaiting request
            self.error = error

    def finish(self) -> None:
        if self.future.done():  # its waiter was cancelled; the call itself has ended
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


_Batch = list[_Operation[Any]]


class Workers:
    """A bounded set of threads, started as they are needed.

    Args:
        limit: The most threads that may exist at once.
    """

    def __init__(self, limit: int = 16) -> None:
        self._limit: Final = limit
        self._inbox: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, _Batch] | None] = (
            queue.SimpleQueue()
        )
        self._threads: list[threading.Thread] = []
        self._busy = 0

    def queue(self) -> "WorkerQueue":
        """Return a new queue, for one disk."""
        return WorkerQueue(self)

    def hand_over(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        """Run ``batch`` in order on one thread; completions arrive on ``loop``."""
        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < self._limit:
            thread = threading.Thread(target=self._work, name="disk", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._inbox.put((loop, batch))

    def spare(self) -> int:
        """Return how many batches would start at once if they were handed over now."""
        return max(1, self._limit - self._busy)

    def close(self) -> None:
        """End all threads. The caller has awaited every operation."""
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            loop, batch = item
            for operation in batch:
                operation.run()
            loop.call_soon_threadsafe(self._finish, batch)
            del item, batch, operation

    def _finish(self, batch: _Batch) -> None:
        self._busy -= 1
        for operation in batch:
            operation.finish()


class WorkerQueue:
    """Collects the operations of one loop turn on one disk.

    ``serial`` operations of a turn share one thread: right for calls that seldom block
    (buffered writes), where a thread switch costs more than the call. The others are spread
    over the threads that are free: right for calls that wait for the disk.
    """

    __slots__ = ("_serial", "_spread", "_workers")

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._serial: _Batch = []
        self._spread: _Batch = []

    def submit(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """Run ``call(*args)`` on a thread, apart from the others of this turn.

        Cancelling the future does not stop the call: who owns the memory that the call
        touches must await it.
        """
        assert not kwargs
        return self._add(self._spread, call, args)

    def submit_serial(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """Run ``call(*args)`` on a thread, after those submitted before it in this turn."""
        assert not kwargs
        return self._add(self._serial, call, args)

    def _add(self, batch: _Batch, call: Callable[..., T], args: Any) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        if not self._serial and not self._spread:
            loop.call_soon(self._hand_over, loop)
        future: asyncio.Future[T] = loop.create_future()
        batch.append(_Operation(future, call, args))
        return future

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        serial, spread = self._serial, self._spread
        self._serial, self._spread = [], []
        if serial:
            self._workers.hand_over(loop, serial)
        if spread:
            lanes = min(len(spread), self._workers.spare())
            for lane in range(lanes):
                self._workers.hand_over(loop, spread[lane::lanes])

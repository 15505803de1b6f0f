"""Worker threads that run system calls, fed in batches.

Everything that a disk may delay runs here. All operations that one turn of the event loop
hands to one queue travel to the threads together, and come back together: two thread
switches a batch, not two an operation.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

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
    """Threads shared by all disks, started as they are needed.

    There is no limit here but in each queue, so that a disk that hangs holds its own share
    of threads and no other disk's.
    """

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[WorkerQueue, _Batch] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0

    def queue(self, limit: int = 16) -> "WorkerQueue":
        """Return a new queue, for one disk.

        Args:
            limit: The most threads that it occupies at once.
        """
        return WorkerQueue(self, limit)

    def hand_over(self, owner: "WorkerQueue", batch: _Batch) -> None:
        """Run ``batch`` in order on one thread, then tell ``owner``."""
        self._busy += 1
        if self._busy > len(self._threads):
            thread = threading.Thread(target=self._work, name="disk", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._inbox.put((owner, batch))

    def release(self) -> None:
        """Note that a thread is free again."""
        self._busy -= 1

    def close(self) -> None:
        """End all threads. The caller has awaited every operation."""
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            owner, batch = item
            for operation in batch:
                operation.run()
            owner.finish_from_thread(batch)
            del item, owner, batch, operation


class WorkerQueue:
    """Collects the operations of one loop turn on one disk.

    ``serial`` operations of a turn share one thread: right for calls that seldom block
    (buffered writes), where a thread switch costs more than the call. The others are spread
    over the threads that the queue may use: right for calls that wait for the disk. What
    exceeds the limit is collected until a thread is free.
    """

    __slots__ = ("_free", "_loop", "_serial", "_spread", "_workers")

    def __init__(self, workers: Workers, limit: int) -> None:
        self._workers = workers
        self._free = limit
        self._loop = asyncio.get_running_loop()
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

    def finish_from_thread(self, batch: _Batch) -> None:
        """Bring ``batch`` back to the loop; called on a worker thread."""
        self._loop.call_soon_threadsafe(self._finish, batch)

    def _add(self, batch: _Batch, call: Callable[..., T], args: Any) -> "asyncio.Future[T]":
        if not self._serial and not self._spread:
            self._loop.call_soon(self._hand_over)
        future: asyncio.Future[T] = self._loop.create_future()
        batch.append(_Operation(future, call, args))
        return future

    def _hand_over(self) -> None:
        if self._serial and self._free:
            batch, self._serial = self._serial, []
            self._free -= 1
            self._workers.hand_over(self, batch)
        if self._spread and self._free:
            batch, self._spread = self._spread, []
            lanes = min(len(batch), self._free)
            self._free -= lanes
            for lane in range(lanes):
                self._workers.hand_over(self, batch[lane::lanes])

    def _finish(self, batch: _Batch) -> None:
        self._workers.release()
        self._free += 1
        for operation in batch:
            operation.finish()
        self._hand_over()

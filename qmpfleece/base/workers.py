"""Worker threads that run system calls, fed in batches.

Everything that a disk may delay runs here. All operations that one turn of the event loop
hands to one queue travel to the threads together, and come back together: two thread
switches a batch, not two an operation.
"""

import asyncio
import contextlib
import errno
import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from qmpfleece.base.files import pwrite_all
from qmpfleece.base.stepper import Resumable

if TYPE_CHECKING:
    from qmpfleece.base.uring.mover import Movers
    from qmpfleece.base.uring.writes import Ring

P = ParamSpec("P")
T = TypeVar("T")


class _Operation(Resumable[T]):
    """One system call on its way through a thread, and the future of its result."""

    __slots__ = ("args", "call", "error", "value")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, call: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        super().__init__(loop)
        self.call = call
        self.args = args
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call; on a thread."""
        try:
            self.value = self.call(*self.args)
        except BaseException as error:  # noqa: BLE001 - carried over to the awaiting request
            self.error = error

    def finish(self) -> None:
        """Tell the waiter; on the loop."""
        self.args = ()
        error, self.error = self.error, None
        self.settle(self.value, error)


_Batch = list[_Operation[Any]]


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class _IfPossible(Generic[C]):
    """What is made when it is first asked for, if the system has such a thing."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], C]) -> None:
        self._make: Callable[[], C] | None = make
        self._made: C | None = None

    def get(self) -> C | None:
        """Return it; None where it is not possible."""
        if self._make is not None:
            make, self._make = self._make, None
            with contextlib.suppress(OSError):
                self._made = make()
        return self._made

    def close(self) -> None:
        """Give it back, if there is one; none is made any more."""
        self._make = None
        if self._made is not None:
            self._made.close()
            self._made = None


def _make_movers() -> "Movers":
    from qmpfleece.base.uring.mover import Movers

    return Movers()


class Workers:
    """Threads shared by all disks, started as they are needed.

    There is no limit here but in each queue, so that a disk that hangs holds its own share
    of threads and no other disk's.
    """

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[WorkerQueue, _Batch] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._ring = _IfPossible(self._make_ring)
        self._movers = _IfPossible(_make_movers)

    @property
    def ring(self) -> "Ring | None":
        """What makes buffered writes without a thread; None where the system has no such thing."""
        return self._ring.get()

    @property
    def movers(self) -> "Movers | None":
        """What reads files and sends the data; None where the system has no such thing."""
        return self._movers.get()

    def _make_ring(self) -> "Ring":
        from qmpfleece.base.uring.writes import Ring

        queue = self.queue()
        return Ring(lambda *write: queue.submit(pwrite_all, *write))

    def queue(self, limit: int = 16) -> "WorkerQueue":
        """Return a new queue, for one disk.

        Args:
            limit: The most threads that it occupies at once.
        """
        return WorkerQueue(self, limit)

    def hand_over(self, owner: "WorkerQueue", batch: _Batch) -> None:
        """Run ``batch`` in order on one thread, then tell ``owner``.

        When the system has no more threads to give, those that are there do it in turn; when
        there are none at all the operations fail with EAGAIN.
        """
        self._busy += 1
        if self._busy <= len(self._threads) or self._start_thread() or self._threads:
            self._inbox.put((owner, batch))
            return
        for operation in batch:
            operation.error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        owner.finish_from_thread(batch)

    def _start_thread(self) -> bool:
        thread = threading.Thread(target=self._work, name="disk", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads.append(thread)
        return True

    def release(self) -> None:
        """Note that a thread is free again."""
        self._busy -= 1

    def close(self) -> None:
        """End all threads. The caller has awaited every operation."""
        self._ring.close()
        self._movers.close()
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

    __slots__ = ("_free", "_loop", "_serial", "_serial_is_next", "_spread", "_workers")

    def __init__(self, workers: Workers, limit: int) -> None:
        self._workers = workers
        self._free = limit
        self._loop = asyncio.get_running_loop()
        self._serial: _Batch = []
        self._spread: _Batch = []
        self._serial_is_next = True

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Resumable[T]:
        """Run ``call(*args)`` on a thread, apart from the others of this turn.

        The future can't be cancelled. A task that is cancelled while it awaits the future
        ends when the call has ended, so nothing that the call uses is given up before.
        """
        assert not kwargs
        return self._add(self._spread, call, args)

    def submit_serial(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Resumable[T]:
        """Run ``call(*args)`` on a thread, after those submitted before it in this turn."""
        assert not kwargs
        return self._add(self._serial, call, args)

    def finish_from_thread(self, batch: _Batch) -> None:
        """Bring ``batch`` back to the loop; called on a worker thread."""
        self._loop.call_soon_threadsafe(self._finish, batch)

    def _add(self, batch: _Batch, call: Callable[..., T], args: tuple[Any, ...]) -> Resumable[T]:
        if not self._serial and not self._spread:
            self._loop.call_soon(self._hand_over)
        operation = _Operation(self._loop, call, args)
        batch.append(operation)
        return operation

    def _hand_over(self) -> None:
        # Where not all can go, the two kinds take turns: neither starves the other.
        for _ in range(2):
            if self._serial_is_next:
                self._hand_over_serial()
            else:
                self._hand_over_spread()

    def _hand_over_serial(self) -> None:
        if not self._free:
            return
        self._serial_is_next = False
        if self._serial:
            batch, self._serial = self._serial, []
            self._free -= 1
            self._workers.hand_over(self, batch)

    def _hand_over_spread(self) -> None:
        if not self._free:
            return
        self._serial_is_next = True
        if self._spread:
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

"""A limit on bytes per second, by slices of time.

At least one request passes in each slice, however large it is; the slice is then made longer,
so that the rate is right on average.
"""

import asyncio
from collections.abc import Callable
from typing import Final

#: The length of a slice, in seconds.
SLICE_S: Final = 0.1


class RateLimit:
    """The limit: a ``copy_limits.Throttle`` for one user.

    Args:
        clock: Returns seconds that never go backwards.

    Attributes:
        stopping: The user is to stop; see ``stop``.
    """

    __slots__ = ("_clock", "_dispatched", "_end", "_quota", "_start", "_waiter", "stopping")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._quota = 0.0
        self._dispatched = 0
        self._start = self._end = float("-inf")
        self._waiter: asyncio.Future[None] | None = None
        self.stopping = False

    def set_speed(self, speed: int) -> None:
        """Allow ``speed`` bytes per second, 0 for any number; who waits looks again."""
        self._quota = max(speed * SLICE_S, 1.0) if speed else 0.0
        self._wake()

    def stop(self) -> None:
        """Ask the user to stop, also if it waits. ``stopping`` is reset by who starts it."""
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def account(self, length: int) -> None:
        """Count bytes; too many make the slice longer."""
        if self._quota:
            self._renew()
            self._dispatched += length
            if self._dispatched >= self._quota:
                self._end = self._start + self._dispatched / self._quota * SLICE_S

    def delay_s(self) -> float:
        """Return how long to wait before the next bytes, in seconds, 0 for not at all."""
        if not self._quota:
            return 0.0
        now = self._renew()
        if self._dispatched < self._quota:
            return 0.0
        # Looked at again: the speed may have changed.
        self._end = self._start + self._dispatched / self._quota * SLICE_S
        return max(self._end - now, 0.0)

    @property
    def waiting(self) -> bool:
        """Whether the user waits."""
        return self._waiter is not None

    async def pause(self, seconds: float) -> None:
        """Wait that long, or until the speed changes. Cancellation-safe."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._waiter}, timeout=seconds)
        finally:
            self._waiter = None

    def _renew(self) -> float:
        now = self._clock()
        if self._end < now:
            self._start = now
            self._end = now + SLICE_S
            self._dispatched = 0
        return now


class Allowance:
    """So many requests, none of which waits for the rate: a ``copy_limits.Throttle``.

    Args:
        limit: Counts what is copied, and ends the allowance where it would have a request wait.
        requests: How many.
    """

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: RateLimit, requests: int) -> None:
        self._limit = limit
        self._left = requests

    @property
    def stopping(self) -> bool:
        """Whether no new request is to begin."""
        return self._left <= 0

    def delay_s(self) -> float:
        """Return 0; or how long to wait for more than is allowed."""
        delay = self._limit.delay_s()
        if delay:
            self._left = 0
        return delay

    def account(self, length: int) -> None:
        """Count a request and its bytes."""
        self._limit.account(length)
        self._left -= 1

    async def pause(self, seconds: float) -> None:
        """Not called: who would have to wait stops."""

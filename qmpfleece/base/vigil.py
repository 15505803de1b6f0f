"""Staying awake for a moment, when the next request of a client is likely to be near.

A client that waits for each reply before it sends its next request has both sides go to sleep
and be woken for every request, and on a virtual machine a wake-up takes longer than most
requests. So between such requests the loop looks for the next one before it goes to sleep. It
yields the processor meanwhile, to the client itself if they share one; everything else on the
loop goes on as ever. A client that sends only now and then costs nothing.
"""

import asyncio
import os
import time
from typing import Final

#: How long the loop looks before it sleeps. (QEMU's I/O threads look for 32 us.)
_PATIENCE_NS: Final = 100_000
#: Requests further apart than this are not worth waiting for.
_NEAR_NS: Final = 500_000


class Vigil:
    """Keeps a loop awake between requests. Holds one callback of the loop while it does."""

    __slots__ = ("_last_ns", "_looking", "_loop", "_until_ns")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last_ns = 0
        self._until_ns = 0
        self._looking: asyncio.Handle | None = None

    def prolong(self) -> None:
        """Expect the next request soon, if it was not long since the last."""
        now = time.monotonic_ns()
        if now - self._last_ns < _NEAR_NS:
            self._until_ns = now + _PATIENCE_NS
            if self._looking is None:
                self._looking = self._loop.call_soon(self._look)
        self._last_ns = now

    def close(self) -> None:
        """Let the loop sleep."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self) -> None:
        if time.monotonic_ns() < self._until_ns:
            os.sched_yield()
            self._looking = self._loop.call_soon(self._look)
        else:
            self._looking = None

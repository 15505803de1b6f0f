"""Lists of requests in flight, in which overlapping ones wait for each other.

Three things are such lists: reads of a snapshot that must not be overtaken by a write (frozen
reads), copies in flight (block-copy), and the requests of a node where some serialise.

There are no locks: adding, shrinking and removing are plain functions, and whoever waits looks
again when woken. So a caller that has found no conflict owns the range until it next awaits::

    if reqs and reqs.find_conflict(offset, length):
        await reqs.wait_all(offset, length)
    request = reqs.add(offset, length)      # nothing overlaps it
"""

import asyncio
from collections.abc import Iterator


class Req:
    """A range of bytes in use.

    Changes only in ``ReqList``.

    Attributes:
        offset: First byte.
        length: Bytes, more than 0.
        serialising: Overlaps with nothing: see ``ReqList.wait_serialising``.
        waiting_for: The request that this one waits for in ``wait_serialising``.
    """

    __slots__ = ("_waiters", "length", "offset", "serialising", "waiting_for")

    def __init__(self, offset: int, length: int, *, serialising: bool = False) -> None:
        self.offset = offset
        self.length = length
        self.serialising = serialising
        self.waiting_for: Req | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"<Req {self.offset}+{self.length}>"

    def wake(self) -> None:
        """Let everybody who waits for the request look again."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until the request is shrunk or removed. Cancellation-safe."""
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter


class ReqList:
    """Requests in flight, oldest first; true when there are any."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests: dict[Req, None] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Req]:
        return iter(self._requests)

    def add(self, offset: int, length: int, *, serialising: bool = False) -> Req:
        """Enter a request; it may overlap others."""
        request = Req(offset, length, serialising=serialising)
        self._requests[request] = None
        return request

    def remove(self, request: Req) -> None:
        """Take the request off the list and wake those who wait for it."""
        del self._requests[request]
        if request._waiters is not None:
            request.wake()

    def shrink(self, request: Req, length: int) -> None:
        """Give up the end of the request's range; ``length`` is what remains, more than 0."""
        assert 0 < length <= request.length
        if length < request.length:
            request.length = length
            request.wake()

    def find_conflict(self, offset: int, length: int) -> Req | None:
        """Return the oldest request that overlaps the range."""
        end = offset + length
        for request in self._requests:
            if request.offset < end and offset < request.offset + request.length:
                return request
        return None

    async def wait_one(self, offset: int, length: int) -> bool:
        """Wait until a request that overlaps the range goes or shrinks. Cancellation-safe.

        Returns:
            False when there is none; then nothing was awaited.
        """
        request = self.find_conflict(offset, length)
        if request is None:
            return False
        await request.wait()
        return True

    async def wait_all(self, offset: int, length: int) -> None:
        """Wait until no request overlaps the range. Cancellation-safe.

        On return no overlapping request exists, and that stays so until the caller awaits.
        """
        while (request := self.find_conflict(offset, length)) is not None:
            await request.wait()

    def find_serialising(self, mine: Req) -> Req | None:
        """Return the oldest request on the list that ``mine`` must wait for.

        Two overlapping requests get in each other's way when one of them serialises. One that
        is waiting itself is passed over: it waits for ``mine``, or will look again anyway.
        """
        end = mine.offset + mine.length
        for request in self._requests:
            if (
                request.offset < end
                and mine.offset < request.offset + request.length
                and (mine.serialising or request.serialising)
                and request is not mine
                and request.waiting_for is None
            ):
                return request
        return None

    async def wait_serialising(self, mine: Req) -> None:
        """Wait until ``mine``, which is on the list, may go on. Cancellation-safe.

        When it has awaited, the caller must assume that anything has changed.
        """
        while (request := self.find_serialising(mine)) is not None:
            mine.waiting_for = request
            try:
                await request.wait()
            finally:
                mine.waiting_for = None

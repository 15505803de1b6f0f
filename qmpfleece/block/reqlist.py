"""Lists of requests in flight, in which overlapping ones wait for each other.

Three things are such lists: reads of a snapshot that must not be overtaken by a write (frozen
reads), copies in flight (block-copy), and the requests of a node while some must be alone.

There are no locks: adding, shrinking and removing are plain functions, and whoever waits looks
again when woken. So a caller that has found no conflict owns the range until it next awaits::

    if reqs and reqs.find_conflict(offset, length):
        await reqs.wait_all(offset, length)
    request = reqs.add(offset, length)      # nothing overlaps it until request.remove()
"""

import asyncio
from collections.abc import Iterator


class Req:
    """A range of bytes in use, on a ``ReqList``.

    Attributes:
        offset: First byte.
        length: Bytes; 0 for a write of nothing, which is in nobody's way.
    """

    __slots__ = ("_siblings", "_waiters", "length", "offset")

    def __init__(self, siblings: "dict[Req, None]", offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self._siblings = siblings
        self._waiters: list[asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"<Req {self.offset}+{self.length}>"

    def remove(self) -> None:
        """Leave the list and wake those who wait for the request."""
        del self._siblings[self]
        if self._waiters is not None:
            self._wake()

    def shrink(self, length: int) -> None:
        """Give up the end of the range; ``length`` is what remains, more than 0."""
        assert 0 < length <= self.length
        if length < self.length:
            self.length = length
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until the request leaves or shrinks. Cancellation-safe."""
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

    def add(self, offset: int, length: int) -> Req:
        """Enter a request; it may overlap others."""
        request = Req(self._requests, offset, length)
        self._requests[request] = None
        return request

    def find_conflict(self, offset: int, length: int) -> Req | None:
        """Return the oldest request that overlaps the range."""
        end = offset + length
        for request in self._requests:
            if request.offset < end and offset < request.offset + request.length:
                return request
        return None

    async def wait_one(self, offset: int, length: int) -> bool:
        """Wait until a request that overlaps the range leaves or shrinks. Cancellation-safe.

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

"""Memory for copies: bounded, and used again, since fresh pages cost as much as a small copy."""

import asyncio
from typing import Final

from qmpfleece.base.units import MIB

#: Bytes of buffers that are kept for the next copy.
_KEPT: Final = 8 * MIB


class Buffers:
    """A bound on the buffers in use, and a few that wait to be used again.

    Args:
        size: Bytes in use at most; no single buffer is larger.
    """

    __slots__ = ("_free", "_kept", "_spare", "_waiters")

    def __init__(self, size: int) -> None:
        self._free = size
        self._kept = 0
        self._spare: dict[int, list[memoryview]] = {}
        self._waiters: list[asyncio.Future[None]] = []

    async def wait_for(self, length: int) -> memoryview:
        """Wait until ``length`` bytes may be used, and take them. Cancellation-safe."""
        while (buffer := self.take(length)) is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return buffer

    def take(self, length: int) -> memoryview | None:
        """Take ``length`` bytes, more than 0; None if so many must not be used just now.

        The content is whatever was there.
        """
        if length > self._free:
            return None
        self._free -= length
        if spare := self._spare.get(length):
            self._kept -= length
            return spare.pop()
        return memoryview(bytearray(length))

    def give(self, buffer: memoryview) -> None:
        """Give a buffer back; nobody uses it any more."""
        length = len(buffer)
        self._free += length
        if self._kept + length <= _KEPT:
            self._kept += length
            self._spare.setdefault(length, []).append(buffer)
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

"""A daemon with one driver more: a file whose requests take their time, and lose power.

    python -m tests.soak.concurrency.wobbly ARGUMENTS

is ``qmpfleece-qsd`` that also knows ``wobbly``. Requests of such a node end in any order. What
was not flushed is in memory only, but for sectors that a die has chosen: who kills the daemon
cuts the power of its disk.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import SECTOR, align_up
from qmpfleece.block.driver import BlockDriver, Opener, ReqFlags, register
from qmpfleece.cli.programs import qsd
from qmpfleece.qapi.blockdev import BlockdevOptions


class WobblyOptions(BlockdevOptions):
    """Options of a wobbly file.

    Attributes:
        filename: The file.
        seed: Decides what takes how long, and what survives.
        turns: How many turns of the loop a request waits at most, before and after its work.
        kept: How many of a hundred sectors reach the file when they are written.
        dies: After how many written sectors the daemon kills itself, 0 for never.
    """

    driver: Literal["wobbly"]
    filename: str
    seed: int
    turns: int
    kept: int
    dies: int


class Wobbly(BlockDriver[WobblyOptions]):
    """The file, and the sectors that are not there yet."""

    driver_name = "wobbly"

    is_protocol = True
    strong_options: ClassVar[tuple[str, ...]] = ("filename", "seed", "turns", "kept", "dies")
    mutable_options: ClassVar[frozenset[str] | None] = frozenset(("seed", "turns", "kept", "dies"))
    zero_flags = ReqFlags.MAY_UNMAP

    async def open(self, opener: Opener) -> None:
        """Open the file."""
        try:
            self._fd = os.open(self.options.filename, os.O_RDWR)
        except OSError as error:
            raise QmpError(f"Could not open '{self.options.filename}': {error}") from error
        self._random = random.Random(self.options.seed)
        self._volatile: dict[int, bytes] = {}
        self._left = self.options.dies
        self._size = os.fstat(self._fd).st_size
        self.node.length = align_up(self._size, SECTOR)

    async def close(self) -> None:
        """Write all."""
        self._store()
        os.close(self._fd)

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Read, some time."""
        await self._wait()
        for sector, inside, at, length in _pieces(offset, len(buf)):
            buf[at : at + length] = self._sector(sector)[inside : inside + length]
        await self._wait()

    async def pwrite(self, offset: int, buf: memoryview, flags: int) -> None:
        """Write, some time, not all at once."""
        await self._wait()
        for sector, inside, at, length in _pieces(offset, len(buf)):
            old = self._sector(sector)
            new = old[:inside] + bytes(buf[at : at + length]) + old[inside + length :]
            self._put(sector, new)
            if self._random.random() < 0.05:
                await self._wait()
        self._size = max(self._size, offset + len(buf))
        await self._wait()

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        """Write zeroes."""
        await self.pwrite(offset, memoryview(bytes(length)), flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Forget, or not."""
        inside = min(length, self._size - offset)
        if inside > 0 and self._random.random() < 0.7:
            await self.pwrite(offset, memoryview(bytes(inside)), 0)

    async def flush(self) -> None:
        """Make stable what was written before."""
        await self._wait()
        self._store()
        await self._wait()

    async def truncate(self, length: int) -> int:
        """Set the size, at once and for good."""
        await self._wait()
        self._store()
        os.ftruncate(self._fd, length)
        self._size = length
        return length

    def exact_filename(self) -> str:
        """Return the file's name, as its image is of no other kind."""
        return self.options.filename

    async def allocated_size(self) -> int:
        """Return what the file has."""
        return self._size

    def _sector(self, number: int) -> bytes:
        if (data := self._volatile.get(number)) is not None:
            return data
        return os.pread(self._fd, SECTOR, number * SECTOR).ljust(SECTOR, b"\0")

    def _put(self, number: int, data: bytes) -> None:
        if self._random.randrange(100) < self.options.kept:
            self._volatile.pop(number, None)
            os.pwrite(self._fd, data, number * SECTOR)
        else:
            self._volatile[number] = data
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def _store(self) -> None:
        for number, data in self._volatile.items():
            os.pwrite(self._fd, data, number * SECTOR)
        self._volatile.clear()

    async def _wait(self) -> None:
        dice = self._random
        turns = dice.choice((0, 0, 1, 1, 2, dice.randrange(self.options.turns + 1)))
        for _ in range(turns):
            await asyncio.sleep(0)


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the sectors of a range: number, where in it, where in the range, and how much."""
    at = 0
    while at < length:
        sector, inside = divmod(offset + at, SECTOR)
        part = min(SECTOR - inside, length - at)
        yield sector, inside, at, part
        at += part


def _register() -> Any:
    register(Wobbly, __name__)
    return qsd


if __name__ == "__main__":
    _register()()

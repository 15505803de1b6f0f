"""Requests of NBD clients at random, many at once, checked against the history of the disk."""

import asyncio
import errno
from collections.abc import Iterable
from typing import Final

from qmpfleece.nbdclient.uri import NbdUri
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused
from tests.soak.concurrency.bitmaps import Bitmap
from tests.soak.concurrency.clients import PATIENCE_S, Requests
from tests.soak.concurrency.history import FOREVER, History, Write
from tests.soak.concurrency.images import Images

_ZERO_FLAG: Final = 2


class Wrong(Exception):  # noqa: N818 - what the test looks for
    """Something was seen that must not be."""


class Load:
    """All clients of one disk.

    Attributes:
        history: What they have done.
        bitmaps: What records it.
        hanging_up: Whether somebody cuts their connections.
        in_flight: What has been sent and not answered.
    """

    def __init__(self, draw: Images, history: History, cluster: int) -> None:
        self.draw = draw
        self.history = history
        self.bitmaps: dict[str, Bitmap] = {}
        self.hanging_up = False
        self.in_flight: set[Write] = set()
        self._cluster = max(cluster // draw.codec.unit, 1)
        self._hot = 0
        self._flushes = draw.any(1, 1, 4, 10)
        self._lost: list[Write] = []

    def tracked(self) -> Iterable[Bitmap]:
        """Return all bitmaps."""
        return self.bitmaps.values()

    def settle(self) -> None:
        """Note that what was cut off has happened or will not."""
        now = self.history.tick()
        for write in self._lost:
            write.end = now
        self._lost.clear()

    # -- clients ----------------------------------------------------------------------------

    async def client(self, uri: NbdUri, requests: int, depth: int) -> None:
        """Be one client, with requests in flight."""
        try:
            client = await Requests.connect(uri, ["base:allocation"])
        except (OSError, NbdRefused, NbdProtocolError) as error:
            if self.hanging_up:
                return
            raise Wrong(f"no connection: {error}") from error
        left = iter(range(requests))
        try:
            await _all(self._series(client, left) for _ in range(depth))
        finally:
            await client.close()

    async def _series(self, client: Requests, left: Iterable[int]) -> None:
        for _ in left:
            if not await self._one(client):
                return

    async def _one(self, client: Requests) -> bool:
        """Send one request and check its reply; return whether the connection is there."""
        draw = self.draw
        kinds = ["write"] * 9 + ["read"] * 6 + ["zeroes"] * 4 + ["trim"] * 2
        kind = draw.any(*kinds, *["flush"] * self._flushes, "status", "status")
        first, stop = self._range()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._request(client, kind, first, stop)
        except TimeoutError as error:
            raise Wrong(f"a {kind} of {first}-{stop} hangs") from error
        except ConnectionError as error:
            if not self.hanging_up:
                raise Wrong(f"connection lost at a {kind}: {error}") from error
            return False
        return True

    async def _request(self, client: Requests, kind: str, first: int, stop: int) -> None:
        if kind == "flush":
            start = self.history.tick()
            await client.change(const.CMD_FLUSH, 0, 0, 0)
            self.history.flushed(start)
        elif kind == "read":
            await self.read(client, first, stop)
        elif kind == "status":
            await self._status(client, first, stop)
        else:
            await self._change(client, kind, first, stop)

    def _range(self) -> tuple[int, int]:
        draw, size = self.draw, self.history.size
        step = draw.any(1, 1, self._cluster, self._cluster, max(1, self._cluster // 32))
        if draw.often(0.05):
            self._hot = draw.random.randrange(size)
        if draw.often(0.5):
            first = min(size - 1, self._hot + draw.random.randrange(4) * step)
        else:
            first = draw.random.randrange(size)
        first -= first % step
        length = step * draw.any(1, 1, 1, 2, 3, 5, 8)
        if draw.often(0.03):
            first, length = 0, size
        return first, min(size, first + length)

    async def read(self, client: Requests, first: int, stop: int) -> list[int]:
        """Read a range, and check it; return its values."""
        codec = self.draw.codec
        start = self.history.tick()
        data = await client.read(first * codec.unit, (stop - first) * codec.unit)
        values = codec.decode(data)
        if wrong := self.history.wrong(first, values, start, self.history.tick(), tears=True):
            raise Wrong(f"read: {wrong}")
        return values

    async def _status(self, client: Requests, first: int, stop: int) -> None:
        unit = self.draw.codec.unit
        start = self.history.tick()
        extents = await client.allocation(first * unit, (stop - first) * unit)
        end = self.history.tick()
        at = first * unit
        for length, flags in extents:
            if flags & _ZERO_FLAG:
                for number in range(-(-at // unit), min((at + length) // unit, stop)):
                    if 0 not in self.history.possible(number, start, end):
                        wrong = self.history.wrong(number, [0], start, end)
                        raise Wrong(f"status says zero: {wrong}")
            at += length

    async def _change(self, client: Requests, kind: str, first: int, stop: int) -> None:
        draw, history, unit = self.draw, self.history, self.draw.codec.unit
        value = draw.value() if kind == "write" and draw.often(0.9) else 0
        flags = const.CMD_FLAG_FUA if draw.often(0.1) else 0
        if kind == "zeroes":
            flags |= const.CMD_FLAG_NO_HOLE if draw.often(0.4) else 0
            flags |= const.CMD_FLAG_FAST_ZERO if draw.often(0.2) else 0
        write = history.sent(first, stop, value, kind, weak=kind == "trim")
        self.in_flight.add(write)
        for bitmap in self.tracked():
            bitmap.sent(write)
        offset, length = first * unit, (stop - first) * unit
        done = False
        lost = True
        try:
            if kind == "write":
                await client.write(offset, draw.codec.encode(value, stop - first), flags)
            else:
                number = const.CMD_TRIM if kind == "trim" else const.CMD_WRITE_ZEROES
                await client.change(number, offset, length, flags)
            done, lost = True, False
        except ConnectionError:
            raise
        except OSError as error:
            lost = False
            allowed = {errno.ESHUTDOWN} if self.hanging_up else set()
            if flags & const.CMD_FLAG_FAST_ZERO:
                allowed |= {errno.ENOTSUP, errno.EOPNOTSUPP}
            if error.errno not in allowed:
                raise Wrong(f"{write}: {error}") from error
        finally:
            self.in_flight.discard(write)
            if lost:
                write.weak, write.end = True, FOREVER
                self._lost.append(write)
            else:
                history.answered(write, done=done, stable=bool(flags & const.CMD_FLAG_FUA))
            for bitmap in self.tracked():
                bitmap.answered(write, done=done)


async def _all(coroutines: Iterable[object]) -> None:
    async with asyncio.TaskGroup() as group:
        for coroutine in coroutines:
            group.create_task(coroutine)  # coroutines they are

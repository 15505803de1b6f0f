"""Block status that will be asked for soon, asked for in stretches.

To ask a host file takes a thread, so whoever walks over many small runs asks once for many of
them. What was told must then still be true when it is used: of clusters that are still to be
copied it is, because before such a cluster changes it is copied.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable
from typing import Final

from qmpfleece.base.units import MIB
from qmpfleece.block.driver import Extent
from qmpfleece.block.node import Node

#: How far to look, in bytes, and how many extents to ask for.
_STRETCH: Final = 256 * MIB
_EXTENTS: Final = 128

Ask = Callable[[Node, int, int, int], Awaitable[list[Extent]]]


class Lookahead:
    """Remembers a stretch of block status.

    Args:
        node: Of which the status is wanted.
        ask: ``status.status_above`` or ``status.block_status``.
    """

    __slots__ = ("_ask", "_ends", "_extents", "_node", "_start")

    def __init__(self, node: Node, ask: Ask) -> None:
        self._node = node
        self._ask = ask
        self._start = 0
        self._extents: list[Extent] = []
        self._ends: list[int] = []

    async def get(self, offset: int, length: int) -> Extent:
        """Return the extent at ``offset``, cut to ``length``, having looked ahead if need be.

        Raises:
            OSError: The status can't be found out.
        """
        while not (known := self.known(offset, length)):
            await self.look(offset, _STRETCH, _EXTENTS)
        return known[0]

    def known(self, offset: int, length: int) -> list[Extent]:
        """Return what is known of a range, from ``offset`` on; empty where nobody has looked."""
        ends = self._ends
        if not ends or not self._start <= offset < ends[-1]:
            return []
        first, last = bisect_right(ends, offset), bisect_left(ends, offset + length)
        part = self._extents[first : last + 1]
        if last < len(ends):
            part[-1] = part[-1]._replace(length=part[-1].length - ends[last] + offset + length)
        start = ends[first] - self._extents[first].length
        part[0] = _without(part[0], offset - start)
        return part

    async def look(self, offset: int, length: int, limit: int) -> None:
        """Remember up to ``limit`` extents from ``offset`` on, instead of what was known.

        Raises:
            OSError: The status can't be found out.
        """
        extents = await self._ask(self._node, offset, length, limit)
        ends, end = [], offset
        for extent in extents:
            end += extent.length
            ends.append(end)
        self._start, self._extents, self._ends = offset, extents, ends


def _without(extent: Extent, count: int) -> Extent:
    """Return an extent without its first ``count`` bytes."""
    host_offset = extent.host_offset
    return extent._replace(
        length=extent.length - count,
        host_offset=host_offset if host_offset < 0 else host_offset + count,
    )

"""Block status that will be asked for soon, asked for in stretches.

To ask a host file takes a thread, so whoever walks over many small runs asks once for many of
them. What was told must then still be true when it is used: of clusters that are still to be
copied it is, because before such a cluster changes it is copied.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable
from typing import Final

from qmpfleece.base.units import MIB
from qmpfleece.block.driver import Extent
from qmpfleece.block.node import Node

#: How far to look, in bytes, and how many extents to ask for.
STRETCH: Final = 256 * MIB
EXTENTS: Final = 128

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
        while (known := self.known(offset, length)) is None:
            await self.look(offset, STRETCH, EXTENTS)
        return known

    def known(self, offset: int, length: int) -> Extent | None:
        """Return the extent at ``offset``, cut to ``length``; None where nobody has looked."""
        ends = self._ends
        if not ends or not self._start <= offset < ends[-1]:
            return None
        index = bisect_right(ends, offset)
        extent = self._extents[index]
        into = extent.length - (ends[index] - offset)
        host_offset = extent.host_offset
        return extent._replace(
            length=min(ends[index] - offset, length),
            host_offset=host_offset if host_offset < 0 else host_offset + into,
        )

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

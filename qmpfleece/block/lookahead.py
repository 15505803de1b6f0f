"""The block status of what is copied next, asked for in stretches.

To ask a host file takes a thread, so a copy of many scattered clusters asks once for many of
them. What it is told stays true of clusters that are still to be copied: before such a
cluster changes it is copied.
"""

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
    """Remembers a stretch of block status, of one copy; made anew for the next.

    Args:
        node: Of which the status is wanted.
        ask: ``status.status_above`` or ``status.block_status``.
    """

    __slots__ = ("_ask", "_ends", "_flags", "_index", "_node", "_start")

    def __init__(self, node: Node, ask: Ask) -> None:
        self._node = node
        self._ask = ask
        self._start = 0
        self._ends: list[int] = []
        self._flags: list[int] = []
        self._index = 0

    async def get(self, offset: int, length: int) -> tuple[int, int]:
        """Return for how many bytes, at most ``length``, there is one status, and its flags.

        Offsets are best asked for in rising order.

        Raises:
            OSError: The status can't be found out.
        """
        if not self._covers(offset):
            extents = await self._ask(self._node, offset, _STRETCH, _EXTENTS)
            self._start = end = offset
            self._ends, self._flags, self._index = [], [], 0
            for extent in extents:
                end += extent.length
                self._ends.append(end)
                self._flags.append(extent.flags)
        while self._ends[self._index] <= offset:
            self._index += 1
        return min(self._ends[self._index] - offset, length), self._flags[self._index]

    def _covers(self, offset: int) -> bool:
        if not self._ends or not self._start <= offset < self._ends[-1]:
            return False
        if self._index and offset < self._ends[self._index - 1]:
            self._index = 0
        return True

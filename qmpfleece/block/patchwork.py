"""Block status of a snapshot: partly that of the active disk, partly that of the target.

Either is asked for a whole stretch at once, because to ask a host file takes a thread, and
guests write meanwhile. So what an answer is good for is decided when it is used:

- of a cluster that is not done now, what the active disk told: nobody has written to it;
- of a cluster that is done now, what the target told, if it was done before the target was
  asked. Else the target is asked again.
"""

from typing import Final

from qmpfleece.bitmap.bits import GranularBits
from qmpfleece.block import status
from qmpfleece.block.driver import Extent
from qmpfleece.block.lookahead import Lookahead
from qmpfleece.block.node import Node


class Patchwork:
    """The status of one range, for one walk over it.

    Args:
        disk: The active disk.
        target: What holds the clusters that are done.
        done: These clusters; others set bits in it.
        end: Where the range ends, in bytes.
    """

    __slots__ = ("_disk", "_done", "_end", "_held", "_held_from", "_target")

    def __init__(self, disk: Node, target: Node, done: GranularBits, end: int) -> None:
        self._disk: Final = Lookahead(disk, status.status_above)
        self._target: Final = Lookahead(target, status.status_above)
        self._done: Final = done
        self._end: Final = end
        #: What was done, from ``_held_from`` on, when the target was asked.
        self._held: GranularBits | None = None
        self._held_from = 0

    def known(self, offset: int, length: int) -> list[Extent]:
        """Return what is known of a range, from ``offset`` on; empty if one must look there."""
        done, length = self._done.run(offset, length)
        if not done:
            return self._disk.known(offset, length)
        into = offset - self._held_from
        if self._held is None or not 0 <= into < self._held.length:
            return []
        held, length = self._held.run(into, min(length, self._held.length - into))
        return self._target.known(offset, length) if held else []

    async def look(self, offset: int, limit: int) -> None:
        """Ask whoever has the cluster at ``offset`` about up to ``limit`` extents from there on.

        Raises:
            OSError: The status can't be found out.
        """
        length = self._end - offset
        if self._done.get(offset):
            self._held, self._held_from = self._done.part(offset, length)
            await self._target.look(offset, length, limit)
        else:
            await self._disk.look(offset, length, limit)

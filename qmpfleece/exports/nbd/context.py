"""What a metadata context is, and how its extents are collected."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from qmpfleece.nbdproto import extents
from qmpfleece.nbdproto.extents import Extents

#: Most extents of one context in one reply; a client goes on behind them. Fewer than QEMU's
#: 131072, because nothing else runs while a list this long is made.
MAX_EXTENTS: Final = 8192


class Context(Protocol):
    """One metadata context of an export."""

    @property
    def name(self) -> str:
        """The name that clients choose it by."""

    async def extents(self, offset: int, length: int, limit: int) -> Extents:
        """Return (length, status) pairs from ``offset`` on; see the package ``contexts``.

        Raises:
            OSError: The node can't tell.
        """
        ...


async def collect(
    status: Callable[[int, int, int], Awaitable[list[tuple[int, int]]]],
    offset: int,
    length: int,
    limit: int,
) -> Extents:
    """Ask ``status`` for pieces until the range is covered or ``limit`` is exceeded.

    Args:
        status: Takes offset, length and limit and returns (length, status) pairs, at least
            one, joined or not.
        offset: In bytes.
        length: In bytes, not 0.
        limit: Most extents to return.
    """
    found: Extents = []
    end = offset + length
    while offset < end and len(found) <= limit:
        piece = await status(offset, end - offset, limit + 1 - len(found))
        offset += sum(extent[0] for extent in piece)
        found = extents.merge(found + piece)
    return found[:limit]

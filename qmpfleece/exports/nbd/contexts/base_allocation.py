"""The context ``base:allocation``: what is a hole, what reads as zeroes."""

from typing import Final

from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import Status
from qmpfleece.exports.nbd.context import collect
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.extents import Extents


class BaseAllocation:
    """Block status as a reader sees it. Source: NBD protocol, "Base metadata context".

    Args:
        backend: The exported node.
    """

    name: Final = const.CONTEXT_BASE_ALLOCATION

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def extents(self, offset: int, length: int, limit: int) -> Extents:
        """Return the allocation of a range."""
        return await collect(self._status, offset, length, limit)

    async def _status(self, offset: int, length: int, limit: int) -> Extents:
        return [
            (
                extent.length,
                (0 if extent.flags & Status.DATA else const.STATE_HOLE)
                | (const.STATE_ZERO if extent.flags & Status.ZERO else 0),
            )
            for extent in await self._backend.block_status(offset, length, limit)
        ]

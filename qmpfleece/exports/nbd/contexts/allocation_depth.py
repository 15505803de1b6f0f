"""The context ``qemu:allocation-depth``: which layer of the chain has the data."""

from typing import Final

from qmpfleece.block.backend import Backend
from qmpfleece.exports.nbd.context import collect
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.extents import Extents


class AllocationDepth:
    """0 unallocated, 1 the top layer, 2 its backing file... Source: QEMU, docs/interop/nbd.

    Args:
        backend: The exported node.
    """

    name: Final = const.CONTEXT_ALLOCATION_DEPTH

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def extents(self, offset: int, length: int, limit: int) -> Extents:
        """Return the depths of a range."""
        return await collect(self._backend.allocation_depth, offset, length, limit)

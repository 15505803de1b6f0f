"""The contexts ``qemu:dirty-bitmap:NAME``: what a dirty bitmap marks."""

from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.extents import Extents


class DirtyBitmapContext:
    """The bits of one dirty bitmap. Source: QEMU, docs/interop/nbd.

    Args:
        bitmap: The bitmap; it is busy while it is exported.
    """

    def __init__(self, bitmap: DirtyBitmap) -> None:
        self._bitmap = bitmap
        self.name = f"{const.CONTEXT_DIRTY_BITMAP}{bitmap.name}"

    async def extents(self, offset: int, length: int, limit: int) -> Extents:
        """Return the dirty and the clean areas of a range."""
        bits = self._bitmap.bits
        found: Extents = []
        while length and len(found) < limit:
            inside = max(0, min(length, bits.length - offset))
            dirty, size = bits.run(offset, inside) if inside else (False, 0)
            if not dirty and size == inside:
                size = length  # past a bitmap of a shorter backing file nothing is dirty
            found.append((size, const.STATE_DIRTY if dirty else 0))
            offset += size
            length -= size
        return found

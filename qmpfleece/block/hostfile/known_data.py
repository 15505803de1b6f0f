"""What is known to be data in a file, so that the file system need not be asked again.

A guest write under copy-before-write asks for the status of each cluster before it is copied, and
an NBD server looks for holes before large reads. In a disk full of data the answer is nearly
always the same. Data only becomes a hole by zeroing, discarding or truncating, which forget
it; that another program makes a hole beneath us goes unnoticed, and costs no more than reading
zeroes.
"""

from typing import Final

from qmpfleece.base.units import GIB, KIB, TIB
from qmpfleece.bitmap.bits import GranularBits

#: What is known is known of whole granules, in bytes.
GRANULE: Final = 64 * KIB
#: The most that is learnt at once, in bytes: to note it takes 2 KiB of memory.
_MOST: Final = GIB
#: Behind this nothing is known, in bytes: sparse files may be so long that the bits of all that
#: lies before would not fit into memory. Up to here they take 32 MiB.
_LIMIT: Final = 16 * TIB


class KnownData:
    """Granules of a file that are data."""

    __slots__ = ("_bits", "_changes")

    def __init__(self) -> None:
        self._bits = GranularBits(0, GRANULE)
        self._changes = 0

    def covers(self, offset: int, length: int) -> bool:
        """Tell whether the whole range, not empty, is known to be data."""
        bits = self._bits
        return offset + length <= bits.length and bits.all(offset, length)

    def ask(self) -> int:
        """Return a token for ``learn``, before the file system is asked."""
        return self._changes

    def learn(self, token: int, start: int, end: int) -> None:
        """Remember a run, unless holes may have been made since the token was given."""
        if token == self._changes:
            self.written(start, min(end - start, _MOST))

    def written(self, offset: int, length: int) -> None:
        """Remember that the file has data in a range, or will have in a moment."""
        start, end = -(-offset // GRANULE) * GRANULE, (offset + length) // GRANULE * GRANULE
        end = min(end, _LIMIT)
        if start >= end:
            return
        bits = self._bits
        if end > bits.length:
            bits.resize(min(max(end, 2 * bits.length), _LIMIT))
        bits.set(start, end - start)

    def forget(self, offset: int, length: int | None = None) -> None:
        """Forget a range, without ``length`` up to the end: holes are being made.

        To be called before and after.
        """
        self._changes += 1
        end = self._bits.length if length is None else min(offset + length, self._bits.length)
        if offset < end:
            self._bits.reset_touched(offset, end - offset)

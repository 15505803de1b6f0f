"""A set of byte ranges kept as one bit per granule.

The bits are a ``bitarray`` in little-endian bit order, padded with zeroes to whole 64-bit
words: that is QEMU's serialised form, so a persistent bitmap is read and written without
conversion, and the SHA-256 of the words is what x-debug-block-dirty-bitmap-sha256 says.
Ranges are set, cleared, searched and merged by bitarray's C code, never bit by bit in Python;
the number of set bits is kept up to date, so ``count`` costs nothing.
"""

import contextlib
import errno
import hashlib
import mmap
from collections.abc import Iterator
from typing import Final, Self

from bitarray import bitarray

from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import MIB, align_down, align_up

#: Bits of a word of the serialised form.
_WORD_BITS: Final = 64
#: The most granules of a set: 16 TiB by 512 bytes, and 4 GiB of memory when all are set.
MAX_GRANULES: Final = 1 << 35
#: Bits from which on a set lies in memory mapped for it, which is not touched at first.
_LARGE: Final = 8 * MIB
#: MADV_POPULATE_WRITE: get all the memory with one call, instead of a page fault for each page.
_POPULATE_WRITE: Final = 23
#: Granules handled at once when two granularities meet; a multiple of the word.
_CHUNK: Final = 1 << 16
#: Granules handled at once otherwise; half a MiB of memory.
_SPAN: Final = 4 * MIB


def _padded(granules: int) -> int:
    """Return the bits of the serialised form, which has one word at least."""
    return max(align_up(granules, _WORD_BITS), _WORD_BITS)


def _zeroes(bits: int) -> bitarray:
    """Return cleared bits; those of a large set take memory only when they are set."""
    if bits < _LARGE:
        return bitarray(bits, endian="little")
    return bitarray(buffer=_memory(bits), endian="little")


def _memory(bits: int) -> mmap.mmap:
    """Return cleared memory for the bits of a large set, none of which is touched yet."""
    return mmap.mmap(-1, bits // 8, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _copied(bits: bitarray) -> bitarray:
    """Return a copy. All of its memory is taken at once, so only dense bits are worth it."""
    if len(bits) < _LARGE:
        return bits.copy()
    memory = _memory(len(bits))
    with contextlib.suppress(OSError):  # before Linux 5.14; then each page is when it is touched
        memory.madvise(_POPULATE_WRITE)
    with memoryview(bits) as source:
        memory[:] = source
    return bitarray(buffer=memory, endian="little")


class GranularBits:
    """The dirty part of ``length`` bytes, in granules of ``granularity`` bytes.

    All offsets and lengths are bytes and must lie within ``length``; nothing here awaits.

    Args:
        length: Bytes covered, at most MAX_GRANULES granules; the last may be cut short by it.
        granularity: A power of two.
    """

    __slots__ = ("_bits", "_ones", "_shift", "_size", "granularity", "length")

    def __init__(self, length: int, granularity: int) -> None:
        assert length >= 0
        assert granularity > 0
        assert granularity & (granularity - 1) == 0
        self.length = length
        self.granularity: Final = granularity
        self._shift: Final = granularity.bit_length() - 1
        self._size = -(-length // granularity)
        self._bits = _zeroes(_padded(self._size))
        self._ones = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GranularBits):
            return NotImplemented
        return (
            self.length == other.length
            and self.granularity == other.granularity
            and self._bits == other._bits
        )

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"<GranularBits {self.count}/{self.length} bytes by {self.granularity}>"

    @property
    def count(self) -> int:
        """Set granules times the granularity, the last one not shortened, in bytes."""
        return self._ones << self._shift

    # -- changing

    def set(self, offset: int, length: int) -> None:
        """Set every granule that the range touches."""
        if not length:
            return
        first = offset >> self._shift
        last = (offset + length - 1) >> self._shift
        assert first >= 0
        assert last < self._size
        if first == last:
            if not self._bits[first]:
                self._bits[first] = 1
                self._ones += 1
            return
        self._ones += last + 1 - first - self._bits.count(1, first, last + 1)
        self._bits[first : last + 1] = 1

    def reset(self, offset: int, length: int) -> None:
        """Clear the granules that lie wholly in the range: rounding never loses a set byte.

        A last granule cut short by the end counts as whole.
        """
        first = (offset + self.granularity - 1) >> self._shift
        end = offset + length
        assert offset >= 0
        assert end <= self.length
        last = self._size if end == self.length else end >> self._shift
        self._reset(first, last)

    def reset_touched(self, offset: int, length: int) -> None:
        """Clear every granule that the range touches: for who knows them to be finished."""
        self._reset(offset >> self._shift, (offset + length + self.granularity - 1) >> self._shift)

    def _reset(self, first: int, last: int) -> None:
        assert last <= self._size
        if first < last:
            self._ones -= self._bits.count(1, first, last)
            self._bits[first:last] = 0

    def take(self, offset: int, end: int, max_length: int) -> tuple[int, int] | None:
        """Clear the first set area in [offset, end), and return it as (start, length).

        Of one that is longer than ``max_length`` as much as that is taken.
        """
        first = offset >> self._shift
        if end - 1 >> self._shift == first:
            if not self._bits[first]:
                return None
            self._bits[first] = 0
            self._ones -= 1
            return offset, min(end - offset, max_length)
        area = self._find(1, offset, end, max_length)
        if area is not None:
            self.reset_touched(*area)
        return area

    def set_all(self) -> None:
        """Set every granule."""
        self._bits[: self._size] = 1
        self._ones = self._size

    def clear(self) -> None:
        """Clear every granule."""
        self._bits = _zeroes(len(self._bits))
        self._ones = 0

    def resize(self, length: int) -> None:
        """Cover ``length`` bytes from now on; what is new is clear.

        Raises:
            OSError: ENOMEM: those would be more than MAX_GRANULES, or there is no memory.
        """
        size = -(-length // self.granularity)
        if size > MAX_GRANULES:
            raise BlockError(errno.ENOMEM)
        if size < self._size:
            self._ones -= self._bits.count(1, size, self._size)
            self._bits[size : self._size] = 0
        more = _padded(size) - len(self._bits)
        if max(_padded(size), len(self._bits)) >= _LARGE and more:
            before, self._bits = self._bits, _zeroes(_padded(size))
            shared = min(len(before), len(self._bits)) // 8
            with memoryview(before) as source, memoryview(self._bits) as target:
                target[:shared] = source[:shared]
        elif more > 0:
            self._bits.extend(bitarray(more, endian="little"))
        elif more:
            del self._bits[more:]
        self.length = length
        self._size = size

    # -- asking

    def get(self, offset: int) -> bool:
        """Tell if the byte at ``offset`` is in a set granule."""
        return bool(self._bits[offset >> self._shift])

    def any(self, offset: int, length: int) -> bool:
        """Tell if any byte of the range is set."""
        first = offset >> self._shift
        last = (offset + length - 1) >> self._shift
        if first == last:
            return bool(self._bits[first])
        return last > first and self._bits.find(1, first, last + 1) >= 0

    def all(self, offset: int, length: int) -> bool:
        """Tell if every byte of the range is set."""
        first = offset >> self._shift
        last = (offset + length - 1) >> self._shift
        if first == last:
            return bool(self._bits[first])
        return last < first or self._bits.find(0, first, last + 1) < 0

    def state(self, offset: int, length: int) -> bool | None:
        """Tell whether the range, not empty, is all set or all clear; None: neither."""
        first = offset >> self._shift
        last = (offset + length - 1) >> self._shift
        value = self._bits[first]
        if first != last and self._bits.find(1 - value, first + 1, last + 1) >= 0:
            return None
        return bool(value)

    def run(self, offset: int, length: int) -> tuple[bool, int]:
        """Return the state at ``offset`` and for how many bytes, at most ``length``, it lasts."""
        first = offset >> self._shift
        stop = (offset + length + self.granularity - 1) >> self._shift
        value = self._bits[first]
        if first + 1 == stop:
            return bool(value), length
        end = self._bits.find(1 - value, first + 1, stop)
        if end < 0:
            return bool(value), length
        return bool(value), (end << self._shift) - offset

    def _find(self, value: int, offset: int, end: int, limit: int) -> tuple[int, int] | None:
        """Find the first run of ``value`` in [offset, end), cut to ``limit`` bytes."""
        stop = (end + self.granularity - 1) >> self._shift
        first = self._bits.find(value, offset >> self._shift, stop)
        if first < 0 or end <= offset:
            return None
        start = max(first << self._shift, offset)
        end = min(end, start + limit)
        stop = (end + self.granularity - 1) >> self._shift
        last = self._bits.find(1 - value, first, stop)
        return start, (end if last < 0 else last << self._shift) - start

    def next_dirty(self, offset: int, length: int) -> tuple[int, int] | None:
        """Return (start, length) of the first set area inside the range, cut to the range."""
        return self._find(1, offset, offset + length, length)

    def next_clear(self, offset: int, length: int) -> tuple[int, int] | None:
        """Return (start, length) of the first clear area inside the range, cut to the range."""
        return self._find(0, offset, offset + length, length)

    def areas(self, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (start, length) of every set area in [offset, end), in order.

        The bits may change between two steps.
        """
        end = self.length if end is None else end
        while (area := self._find(1, offset, end, end)) is not None:
            yield area
            offset = area[0] + area[1]

    # -- whole bitmaps

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = type(self)(self.length, self.granularity)
        twin._or(self)
        return twin

    def part(self, offset: int, length: int) -> tuple[Self, int]:
        """Return a copy of the granules that a range touches, and where the first begins."""
        first = offset >> self._shift
        start = first << self._shift
        twin = type(self)(offset + length - start, self.granularity)
        twin._bits[: twin._size] = self._bits[first : first + twin._size]
        twin._ones = twin._bits.count(1)
        return twin, start

    def merge(self, other: "GranularBits") -> None:
        """Set everything that is set in ``other``, rounded out to our granules.

        ``other`` has the same length, its granularity may differ.
        """
        assert other.length == self.length
        if other._shift == self._shift:
            self._or(other)
            return
        if other._shift < self._shift:
            self._merge_finer(other._bits, self._shift - other._shift)
        else:
            self._merge_coarser(other._bits, other._shift - self._shift)
        self._bits[self._size :] = 0
        self._ones = self._bits.count(1)

    def _or(self, other: "GranularBits") -> None:
        """Or in bits of the same granularity; touch little where they are clear."""
        if not other._ones:
            return
        source = other._bits
        starts = range(0, len(source), _SPAN)
        spans = [start for start in starts if source.find(1, start, start + _SPAN) >= 0]
        if 2 * len(spans) > len(starts):
            if self._ones:
                self._bits |= source
                self._ones = self._bits.count(1)
            else:
                self._bits, self._ones = _copied(source), other._ones
            return
        for start in spans:
            stop = min(start + _SPAN, len(source))
            self._ones -= self._bits.count(1, start, stop)
            self._bits[start:stop] |= source[start:stop]
            self._ones += self._bits.count(1, start, stop)

    def _merge_finer(self, source: bitarray, steps: int) -> None:
        """Or in bits of which 2**steps make one of ours, by chunks that are not empty."""
        span = max(_CHUNK, 1 << steps)
        at = source.find(1)
        while at >= 0:
            start = align_down(at, span)
            part = source[start : start + span]
            for _ in range(steps):
                if len(part) & 1:
                    part.append(0)
                part = part[::2] | part[1::2]
            begin = start >> steps
            part = part[: len(self._bits) - begin]
            self._bits[begin : begin + len(part)] |= part
            at = source.find(1, start + span)

    def _merge_coarser(self, source: bitarray, steps: int) -> None:
        """Or in bits each of which is 2**steps of ours, by runs when those are long."""
        span = max(_CHUNK >> steps, 1)
        at = source.find(1)
        while at >= 0:
            part = source[at : at + span]
            begin = at << steps
            if part.all():
                self._bits[begin : begin + (len(part) << steps)] = 1
            else:
                for _ in range(steps):
                    wide = bitarray(2 * len(part), endian="little")
                    wide[::2] = part
                    wide[1::2] = part
                    part = wide
                part = part[: len(self._bits) - begin]
                self._bits[begin : begin + len(part)] |= part
            at = source.find(1, at + span)

    # -- QEMU's serialised form

    @property
    def serialised_size(self) -> int:
        """Bytes of the serialised form: whole little-endian 64-bit words."""
        return len(self._bits) // 8

    def serialise(self, first: int = 0, size: int | None = None) -> bytes:
        """Return ``size`` bytes of the serialised form, from byte ``first`` on."""
        stop = self.serialised_size if size is None else first + size
        with memoryview(self._bits) as view:
            return bytes(view[first:stop])

    def deserialise(self, data: bytes | bytearray | memoryview, first: int = 0) -> None:
        """Replace the serialised form from byte ``first`` on; bits behind the end are dropped.

        A memoryview must be one of bytes.

        Raises:
            ValueError: ``data`` is longer than the rest of the serialised form.
        """
        start, stop = first * 8, (first + len(data)) * 8
        if stop > len(self._bits):
            raise ValueError("serialised bitmap is too long")
        self._ones -= self._bits.count(1, start, stop)
        with memoryview(self._bits) as view:
            view[first : first + len(data)] = data
        self._bits[self._size :] = 0
        self._ones += self._bits.count(1, start, stop)

    def sha256(self) -> str:
        """Return the SHA-256 of the serialised form.

        Source: QMP x-debug-block-dirty-bitmap-sha256.
        """
        with memoryview(self._bits) as view:
            return hashlib.sha256(view).hexdigest()

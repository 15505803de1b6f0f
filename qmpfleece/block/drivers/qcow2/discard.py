"""Discarding and writing zeroes: changes of L2 entries, mostly without touching data."""

import asyncio
import contextlib
import errno
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import MIB, align_down, align_up
from qmpfleece.block import pipeline
from qmpfleece.block.driver import ReqFlags, Status
from qmpfleece.block.drivers.qcow2.clusters import Clusters, Kind
from qmpfleece.block.drivers.qcow2.layout import (
    ALL_ALLOCATED,
    ALL_ZEROES,
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    SUBCLUSTERS,
    ZERO,
    Autoclear,
)
from qmpfleece.block.drivers.qcow2.reader import Reader
from qmpfleece.block.drivers.qcow2.tables import Table
from qmpfleece.block.drivers.qcow2.writer import Writer
from qmpfleece.block.status import status_above

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

#: In place of the first cluster where that is discarded later: compressed data.
_LATER: Final = -1
_BUFFER: Final = bytes(MIB)
#: Runs that are asked for in one call.
_LIMIT: Final = 64
#: So many clusters at least are gone through in one turn of the loop; a power of two.
_TURN: Final = 4096
#: Flags of a request that count for a raw data file, too.
_PASSED_ON: Final = ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK
#: What is zero, or what the backing file has.
_WITHOUT_DATA: Final = frozenset(
    {Kind.UNALLOCATED, Kind.UNALLOCATED_HOST, Kind.ZERO_PLAIN, Kind.ZERO_ALLOCATED}
)


class Discarder:
    """Discards and zeroes."""

    def __init__(self, image: "Image", clusters: Clusters, reader: Reader, writer: Writer) -> None:
        self._image = image
        self._clusters = clusters
        self._reader = reader
        self._writer = writer
        self._geometry = image.geometry
        self._with_data_file = image.data is not image.file

    # -- discard --------------------------------------------------------------------------

    async def pdiscard(self, offset: int, length: int) -> None:
        """Drop whole clusters; they read as zeroes then. Partial ones are left alone.

        Raises:
            OSError: ENOTSUP: the backing file would show through in a version 2 image.
        """
        image, size = self._image, self._geometry.cluster_size
        if self._geometry.version < 3 and self._reader.backing is not None:
            raise BlockError(errno.ENOTSUP)
        start, end = align_up(offset, size), align_down(offset + length, size)
        if offset + length >= image.size:
            end = align_up(offset + length, size)
        await self.discard_clusters(start, end, full=False)
        if image.journal.overfull:
            await image.journal.flush()

    async def discard_clusters(self, start: int, end: int, *, full: bool) -> None:
        """Drop the clusters from ``start`` to ``end``.

        Args:
            start: Where, on the disk.
            end: Where they end.
            full: Leave no trace, not even zero clusters: the disk is made shorter.
        """
        backing = self._reader.backing is not None and not full
        dropped: list[tuple[int, int]] = []
        while start < end:
            part = self._to_slice_end(start, end)
            index = start // self._geometry.l2_span
            if not backing and not self._image.l1[index] & OFFSET_MASK:
                start = min((index + 1) * self._geometry.l2_span, end)
                await self._give_way(start, end)
                continue
            place = await self._place(start, part)
            if place is None:
                continue
            table, first = place
            for number in range(first, first + (part >> self._geometry.cluster_bits)):
                self._discard_entry(table, number, dropped, full=full, backing=backing)
            await self._pass_on(dropped)
            start += part
            await self._give_way(start, end)

    async def _give_way(self, start: int, end: int) -> None:
        """Let others have their turn between slices, but not after each small one."""
        if start < end and not start % (_TURN << self._geometry.cluster_bits):
            await asyncio.sleep(0)

    def _discard_entry(
        self,
        table: Table,
        number: int,
        dropped: list[tuple[int, int]],
        *,
        full: bool,
        backing: bool,
    ) -> None:
        words = table.words
        at = number * self._geometry.entry_words
        old = words[at]
        zeroes = self._geometry.extended and words[at + 1]
        has_cluster = old & (COMPRESSED | OFFSET_MASK) or (self._with_data_file and old & COPIED)
        if full:
            new, bitmap = 0, 0
        elif self._geometry.extended:
            new, bitmap = (0, ALL_ZEROES) if backing or has_cluster else (old, zeroes)
        else:
            plain = ZERO if self._geometry.version >= 3 else 0
            new, bitmap = (plain if backing or has_cluster else old), 0
        if (new, bitmap) == (old, zeroes):
            return
        words[at] = new
        if self._geometry.extended:
            words[at + 1] = bitmap
        table.dirty = True
        self._drop(old, dropped)

    def _drop(self, old: int, dropped: list[tuple[int, int]]) -> None:
        """Give up what an entry referred to, and list it, to be passed on.

        Compressed data is discarded once no table in the file leads to it: zeroes in its place
        could not be read.
        """
        if self._with_data_file and not old & COMPRESSED:
            host = old & OFFSET_MASK
            if host or (old & COPIED and not old & ZERO):
                dropped.append((host >> self._geometry.cluster_bits, 1))
            return
        later = bool(old & COMPRESSED)
        first, count = self._clusters.drop_reference(
            old, discard=later and self._image.discard_request
        )
        dropped.append((_LATER if later else first, count))

    async def _pass_on(self, dropped: list[tuple[int, int]]) -> None:
        """Give the file back at once what a request has dropped, and forget the list.

        That is safe before any table is written: the old ones lead to zeroes then, which the
        guest has asked for; what was compressed is not among it. Called in the step in which
        the references were dropped.
        """
        image = self._image
        if not any(count for _, count in dropped):
            dropped.clear()
            return
        runs = list(_runs([run for run in dropped if run[0] != _LATER]))
        dropped.clear()
        if self._with_data_file:
            await self._discard_data(runs)
            return
        with image.journal.epoch:  # so that nobody gets the clusters before they are discarded
            await image.note("cluster_free")
            if image.discard_request:
                for first, count in runs:
                    await image.refcounts.discard(first, count)

    async def _discard_data(self, runs: list[tuple[int, int]]) -> None:
        """Give clusters back to the external data file, where each has its own place."""
        image, bits = self._image, self._geometry.cluster_bits
        if not image.discard_request or not runs:
            return
        start, end = runs[0][0] << bits, sum(runs[-1]) << bits
        # Nobody may write to these clusters before they are discarded.
        request = image.allocating.add(start, end - start)
        try:
            for first, count in runs:
                length = min(count << bits, image.data.node.length - (first << bits))
                if length > 0:
                    # A file that can't give it back is no worse for it.
                    with contextlib.suppress(OSError):
                        await pipeline.pdiscard(image.data, first << bits, length)
        finally:
            request.remove()

    # -- zeroes ---------------------------------------------------------------------------

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        """Make a range read as zeroes.

        Version 2 has no clusters of zeroes; they are discarded, if that makes them read so.

        Raises:
            OSError: ENOTSUP: the backing file would show through in a version 2 image; or a part
                would have to be written under NO_FALLBACK, which version 2 never takes.
        """
        old = self._geometry.version < 3
        if old and (flags & ReqFlags.NO_FALLBACK or self._reader.backing is not None):
            raise BlockError(errno.ENOTSUP)
        unit, size = self._geometry.subcluster_size, self._geometry.cluster_size
        end = offset + length
        stop, start = align_down(end, unit), align_up(offset, unit)
        if end >= self._image.size:
            # Source: QEMU takes all of the last cluster, if its beginning is meant, too, and
            # the end is one of a subcluster; else it has split the request there.
            whole = stop == end and start <= align_down(end - 1, size)
            stop = align_up(end, size if whole else unit)
        if start > stop:  # all of it is an edge
            start = stop = end
        if offset < start:
            await self._zero_edge(offset, start, flags)
        if start < stop:
            await self._zero_units(start, stop, flags)
        if stop < end:
            await self._zero_edge(stop, end, flags)
        if self._image.journal.overfull:
            await self._image.journal.flush()

    async def _zero_edge(self, start: int, end: int, flags: int) -> None:
        """Zero a part of one cluster or subcluster: all of it, if the rest reads so, too."""
        if await self._zero_around(start, end, flags):
            return
        if flags & ReqFlags.NO_FALLBACK:
            raise BlockError(errno.ENOTSUP)
        await self._write(start, end)

    async def _zero_around(self, start: int, end: int, flags: int) -> bool:
        """Zero the cluster or subcluster with this part; False if it has data, or may have."""
        unit = self._geometry.subcluster_size
        first = align_down(start, unit)
        if not (
            await self._reads_zero(first, start) and await self._reads_zero(end, first + unit)
        ):
            return False
        await self._zero_raw_data(start, end, flags)
        while (place := await self._place(first, unit)) is None:
            pass
        # A write may have come meanwhile; from here on none can.
        run = self._clusters.lookup(first, unit)
        if run is None or run.kind not in _WITHOUT_DATA:
            return False
        if self._geometry.version < 3:
            return True  # it reads so without a cluster
        dropped: list[tuple[int, int]] = []
        if self._geometry.extended:
            self._zero_mask(*place, first, unit)
        else:
            unmap = bool(flags & ReqFlags.MAY_UNMAP)
            self._zero_plain(*place, 1, dropped, unmap=unmap)
        await self._pass_on(dropped)
        return True

    async def _zero_raw_data(self, start: int, end: int, flags: int) -> None:
        """Zero the data file, too, where it alone must hold what the guest sees."""
        image = self._image
        if image.header.autoclear & Autoclear.DATA_FILE_RAW:
            length = min(end, image.size) - start
            await pipeline.pwrite_zeroes(image.data, start, length, flags & _PASSED_ON)

    async def _reads_zero(self, start: int, end: int) -> bool:
        """Tell whether a range is known to read as zeroes, as all behind the end does."""
        image = self._image
        end = min(end, image.size)
        if start < end and end > image.node.length:
            return False  # while the image grows, nobody can tell of what is new
        while start < end:
            extents = await status_above(image.node, start, end - start, _LIMIT)
            if not all(extent.flags & Status.ZERO for extent in extents):
                return False
            start += sum(extent.length for extent in extents)
        return True

    async def _write(self, start: int, end: int) -> None:
        """Write zeroes, as far as the disk reaches: a data file may end there."""
        end = min(end, self._image.size)
        while start < end:
            part = min(end - start, len(_BUFFER))
            await self._writer.pwrite(start, memoryview(_BUFFER)[:part])
            start += part

    async def _zero_units(self, start: int, end: int, flags: int) -> None:
        """Zero whole clusters or subclusters."""
        unmap = bool(flags & ReqFlags.MAY_UNMAP)
        size = self._geometry.cluster_size
        if self._geometry.version < 3:
            await self.discard_clusters(start, align_up(end, size), full=False)
            return
        await self._zero_raw_data(start, end, flags)
        dropped: list[tuple[int, int]] = []
        while start < end:
            part = self._to_slice_end(start, end)
            if self._geometry.extended and (start % size or part < size):
                part = min(part, size - start % size)
                if not await self._zero_subclusters(start, part):
                    if flags & ReqFlags.NO_FALLBACK:
                        raise BlockError(errno.ENOTSUP)
                    await self._write(start, start + part)
                start += part
                continue
            if self._geometry.extended:
                part = align_down(part, size)
            place = await self._place(start, part)
            if place is None:
                continue
            table, first = place
            count = (part + size - 1) // size
            if self._geometry.extended:
                self._zero_extended(table, first, count, dropped, unmap=unmap)
            else:
                self._zero_plain(table, first, count, dropped, unmap=unmap)
            await self._pass_on(dropped)
            start += part
            await self._give_way(start, end)

    def _zero_plain(
        self,
        table: Table,
        first: int,
        count: int,
        dropped: list[tuple[int, int]],
        *,
        unmap: bool,
    ) -> None:
        words = table.words
        old_words = words[first : first + count]
        if not any(old_words):
            words[first : first + count] = array("Q", [ZERO]) * count
            table.dirty = True
            return
        for number, old in enumerate(old_words, first):
            drop = old & COMPRESSED or (unmap and old & OFFSET_MASK)
            new = ZERO if drop or (unmap and self._with_data_file) else old | ZERO
            if new != old:
                words[number] = new
                table.dirty = True
                if drop:
                    self._drop(old, dropped)

    def _zero_extended(
        self,
        table: Table,
        first: int,
        count: int,
        dropped: list[tuple[int, int]],
        *,
        unmap: bool,
    ) -> None:
        words = table.words
        for at in range(2 * first, 2 * (first + count), 2):
            old = words[at]
            drop = old & COMPRESSED or (unmap and old & OFFSET_MASK)
            new = 0 if drop or (unmap and self._with_data_file) else old
            if (new, ALL_ZEROES) != (old, words[at + 1]):
                words[at], words[at + 1] = new, ALL_ZEROES
                table.dirty = True
                if drop:
                    self._drop(old, dropped)

    async def _zero_subclusters(self, start: int, length: int) -> bool:
        """Zero a part of one cluster; False when it is compressed, so has no subclusters."""
        while (place := await self._place(start, length)) is None:
            pass
        table, index = place
        if table.words[2 * index] & COMPRESSED:
            return False
        self._zero_mask(table, index, start, length)
        return True

    def _zero_mask(self, table: Table, index: int, start: int, length: int) -> None:
        """Say that subclusters of one cluster are zero."""
        words, unit = table.words, self._geometry.subcluster_size
        inside = start % self._geometry.cluster_size
        mask = (1 << -(-(inside + length) // unit)) - (1 << inside // unit)
        bitmap = words[2 * index + 1]
        words[2 * index + 1] = (bitmap | mask << SUBCLUSTERS) & ~(mask & ALL_ALLOCATED)
        table.dirty = True

    # -- both -----------------------------------------------------------------------------

    def _to_slice_end(self, start: int, end: int) -> int:
        """Return how many bytes from ``start`` one slice maps, at most up to ``end``."""
        span = self._geometry.slice_span
        return min(end - start, span - start % span)

    async def _place(self, start: int, length: int) -> tuple[Table, int] | None:
        """Return slice and index to be changed, None to try again.

        On return no allocating write overlaps the range, until the caller awaits.
        """
        if await self._image.allocating.wait_one(start, length):
            return None
        if (place := self._clusters.peek_to_change(start)) is None:
            await self._clusters.prepare(start)
        return place


def _runs(clusters: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield runs of clusters, each a number and a count, in one where they follow each other."""
    start, length = 0, 0
    for first, count in clusters:
        if length and start + length == first:
            length += count
        else:
            if length:
                yield start, length
            start, length = first, count
    if length:
        yield start, length

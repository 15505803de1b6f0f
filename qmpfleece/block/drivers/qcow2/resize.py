"""Making the disk longer or shorter."""

import asyncio
import errno
from array import array
from typing import TYPE_CHECKING

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.units import SECTOR, align_down, align_up
from qmpfleece.block import pipeline
from qmpfleece.block.driver import Status
from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.clusters import Clusters
from qmpfleece.block.drivers.qcow2.discard import Discarder
from qmpfleece.block.drivers.qcow2.layout import (
    COPIED,
    MAX_L1_SIZE,
    OFFSET_MASK,
    SUBCLUSTERS,
    Autoclear,
)
from qmpfleece.block.drivers.qcow2.reader import Reader
from qmpfleece.block.drivers.qcow2.tables import WORD64
from qmpfleece.block.drivers.qcow2.writer import Writer

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

_PIECE = 1 << 20


class Resizer:
    """Changes the size of the disk in an image."""

    def __init__(
        self,
        image: "Image",
        clusters: Clusters,
        reader: Reader,
        writer: Writer,
        discarder: Discarder,
    ) -> None:
        self._image = image
        self._clusters = clusters
        self._reader = reader
        self._writer = writer
        self._discarder = discarder

    async def truncate(self, length: int) -> None:
        """Make the disk ``length`` bytes long; what is new reads as zeroes.

        No request is in flight in what is cut off.

        Raises:
            OSError: EINVAL, with QEMU's text: the size is odd, or a snapshot or a persistent
                bitmap can't follow; EFBIG, too: too large.
        """
        image = self._image
        if length % SECTOR:
            raise BlockError(errno.EINVAL, f"The new size must be a multiple of {SECTOR}")
        if image.snapshots and image.header.version < 3:
            raise BlockError(errno.EINVAL, "Can't resize a v2 image which has snapshots")
        for bitmap in reversed(image.node.bitmaps):  # as in the directory
            if bitmap.persistent:
                try:
                    bitmap.check()
                except QmpError as error:
                    raise BlockError(errno.EINVAL, error.desc) from error
        if length < image.size:
            await self._shrink(length)
        elif length > image.size:
            await self._grow(length)

    # -- longer ---------------------------------------------------------------------------

    async def _grow(self, length: int) -> None:
        image = self._image
        old = image.size
        if (needed := image.geometry.l1_entries(length)) > len(image.l1):
            await self._grow_l1(needed)
        image.size = length
        try:
            await self._zero(old, length)
            raw = bool(image.header.autoclear & Autoclear.DATA_FILE_RAW)
            # Source: observed; only what is no disk by itself is cut to the size of ours.
            if image.data is not image.file and not (raw and image.data.node.length > length):
                await pipeline.truncate(image.data, length)
            if raw:
                await self._map(align_up(old, image.geometry.cluster_size), length)
            await image.journal.write()
            await image.header_writer.change(size=length)
        except BaseException:
            image.size = old
            raise

    async def _zero(self, old: int, length: int) -> None:
        """Hide what the backing file, or else the rest of the last cluster, has there.

        Source: QEMU zeroes all that is new where the backing file reaches into it.
        """
        backing = self._reader.backing
        if backing is not None and backing.node.length > old:
            await self._zero_range(old, length, backing.node.length)
            return
        end = min(align_up(old, self._image.geometry.cluster_size), length)
        while old < end:
            for extent in await self._reader.block_status(old, end - old, SUBCLUSTERS):
                if extent.flags & Status.DATA and not extent.flags & Status.ZERO:
                    await self._zero_range(old, old + extent.length, old)
                old += extent.length

    async def _zero_range(self, start: int, end: int, backing_end: int) -> None:
        """Let a range read as zeroes; what the backing file has ends at ``backing_end``."""
        if self._image.geometry.version >= 3 or self._reader.backing is None:
            await self._discarder.pwrite_zeroes(start, end - start, 0)
            return
        end = min(end, max(backing_end, align_up(start, self._image.geometry.cluster_size)))
        zeroes = memoryview(bytes(_PIECE))
        for at in range(start, end, _PIECE):
            await self._writer.pwrite(at, zeroes[: min(_PIECE, end - at)])

    async def _map(self, start: int, end: int) -> None:
        """Let clusters that are new have their places in a data file that is all of the disk."""
        geometry = self._image.geometry
        each, size, span = geometry.entry_words, geometry.cluster_size, geometry.slice_span
        while start < end:
            table, index = await self._clusters.to_change(start)
            count = geometry.clusters(min(end, align_down(start, span) + span) - start)
            first = start | COPIED  # no subcluster has data yet
            entries = array("Q", range(first, first + count * size, size))
            table.words[index * each : (index + count) * each : each] = entries
            table.dirty = True
            start += count * size
            await asyncio.sleep(0)  # others have their turn

    async def _grow_l1(self, needed: int) -> None:
        """Move the L1 table to where it has room for ``needed`` entries."""
        image, header, geometry = self._image, self._image.header, self._image.geometry
        if needed * 8 > MAX_L1_SIZE:
            text = "Failed to grow the L1 table: File too large"
            raise BlockError(errno.EFBIG, text)
        clusters = geometry.clusters(needed * 8)
        first = await image.refcounts.allocate_table(clusters)
        offset = first << geometry.cluster_bits
        old_offset, old_size = header.l1_offset, len(image.l1)
        try:
            await image.journal.write(
                then=lambda: self._move_l1(WORD64.encode(image.l1), offset, needed)
            )
        except BaseException:
            if header.l1_offset != offset:
                image.journal.free(first, clusters, discard=False)
            raise
        image.overlap.add(overlap.ACTIVE_L1, offset, needed * 8)
        image.overlap.remove(overlap.ACTIVE_L1, old_offset, old_size * 8)
        if old_size:
            image.journal.free(
                old_offset >> geometry.cluster_bits,
                geometry.clusters(old_size * 8),
                discard=image.discard_other,
            )

    async def _move_l1(self, content: memoryview, offset: int, entries: int) -> None:
        """Put a copy of the L1 table in its new place, and let the header name that.

        Clusters that the copy refers to have been written before; no entry is written
        meanwhile.
        """
        image, size = self._image, self._image.geometry.cluster_size
        rest = bytes(align_up(entries * 8, size) - len(content))
        await pipeline.pwrite(image.file, offset, memoryview(bytes(content) + rest))
        await pipeline.flush(image.file)
        await image.header_writer.change(l1_offset=offset, l1_size=entries)
        image.l1.extend(array("Q", bytes(8 * (entries - len(image.l1)))))

    # -- shorter --------------------------------------------------------------------------

    async def _shrink(self, length: int) -> None:
        image, geometry = self._image, self._image.geometry
        cluster = geometry.cluster_size
        await self._discarder.discard_clusters(
            align_up(length, cluster), align_up(image.size, cluster), full=True
        )
        first = geometry.l1_entries(length)
        for index in range(first, len(image.l1)):
            word = image.l1[index]
            if not word & OFFSET_MASK:
                continue
            offset = word & OFFSET_MASK
            image.l1[index] = 0
            image.journal.l1_changed(index)
            image.overlap.remove(overlap.ACTIVE_L2, offset, 1)
            if word & COPIED:
                for start in range(offset, offset + cluster, geometry.slice_bytes):
                    image.l2.drop(start)
            image.journal.free(offset >> geometry.cluster_bits, 1, discard=image.discard_other)
        await image.journal.flush(everything=True)
        if image.data is not image.file:
            await pipeline.truncate(image.data, length)
        await image.header_writer.change(size=length)
        image.size = length

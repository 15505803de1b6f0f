"""Counting references again, for images that were not closed properly.

With lazy refcounts a crash leaves refcounts that are too low or too high; everything else is
right. So they are counted anew from all tables. Source: qcow2 specification, "dirty bit".
"""

from array import array
from typing import TYPE_CHECKING

from qmpfleece.base.errors import QmpError
from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2.bitmapdir import Entry
from qmpfleece.block.drivers.qcow2.layout import (
    COMPRESSED,
    OFFSET_MASK,
    REFBLOCK_MASK,
    Incompatible,
)
from qmpfleece.block.drivers.qcow2.snapshots import read_l1
from qmpfleece.block.drivers.qcow2.tables import WORD64

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image


class Recount:
    """Counts the references to every cluster of an image and corrects the refcounts.

    Args:
        image: The image; no request is in flight.
    """

    def __init__(self, image: "Image") -> None:
        self._image = image
        self._entries = image.geometry.block_entries
        #: References by region; only regions with any.
        self._counts: dict[int, array[int]] = {}

    def _count(self, offset: int, length: int) -> None:
        bits = self._image.geometry.cluster_bits
        for cluster in range(offset >> bits, (offset + length - 1 >> bits) + 1):
            region, slot = divmod(cluster, self._entries)
            if region not in self._counts:
                if region >= len(self._image.refcounts.table):
                    raise QmpError("Could not repair dirty image: Input/output error")
                self._counts[region] = array("I", bytes(4 * self._entries))
            self._counts[region][slot] += 1

    async def run(self, bitmaps: list[Entry], directory: int) -> None:
        """Correct all refcounts, and take the dirty bit away.

        Args:
            bitmaps: The persistent bitmaps.
            directory: Where their directory lies.

        Raises:
            QmpError: The image is damaged in other ways.
            OSError: It can't be read or written.
        """
        image, header = self._image, self._image.header
        cluster = image.geometry.cluster_size
        self._count(0, cluster)
        self._count(header.refcount_table_offset, header.refcount_table_clusters * cluster)
        for word in image.refcounts.table:
            if word & REFBLOCK_MASK:
                self._count(word & REFBLOCK_MASK, cluster)
        await self._count_l1(header.l1_offset, image.l1)
        if image.snapshot_table_bytes:
            self._count(header.snapshots_offset, image.snapshot_table_bytes)
        for snapshot in image.snapshots:
            await self._count_l1(snapshot.l1_offset, await read_l1(image, snapshot))
        await self._count_bitmaps(bitmaps, directory)
        await self._correct()
        await image.journal.write()
        await pipeline.flush(image.file)
        header.incompatible &= ~Incompatible.DIRTY
        await image.write_features()

    async def _count_l1(self, offset: int, l1: "array[int]") -> None:
        image, geometry = self._image, self._image.geometry
        if l1:
            self._count(offset, len(l1) * 8)
        table = bytearray(geometry.cluster_size)
        for entry in l1:
            if place := entry & OFFSET_MASK:
                self._count(place, geometry.cluster_size)
                await image.read(place, memoryview(table))
                self._count_l2(WORD64.decode(table))

    def _count_l2(self, words: "array[int]") -> None:
        geometry = self._image.geometry
        with_data_file = self._image.data is not self._image.file
        for word in words[:: geometry.entry_words]:
            if word & COMPRESSED:
                self._count(*geometry.compressed(word))
            elif word & OFFSET_MASK and not with_data_file:
                self._count(word & OFFSET_MASK, 1)

    async def _count_bitmaps(self, bitmaps: list[Entry], directory: int) -> None:
        image, cluster = self._image, self._image.geometry.cluster_size
        if bitmaps:
            size = sum(entry.stored_size for entry in bitmaps)
            self._count(directory, size)
        for entry in bitmaps:
            raw = bytearray(entry.table_size * 8)
            self._count(entry.table_offset, len(raw))
            await image.read(entry.table_offset, memoryview(raw))
            for word in WORD64.decode(raw):
                if word & OFFSET_MASK:
                    self._count(word & OFFSET_MASK, cluster)

    async def _correct(self) -> None:
        image = self._image
        most = image.geometry.refcount_max
        for region, word in enumerate(image.refcounts.table):
            counts = self._counts.pop(region, None)
            offset = word & REFBLOCK_MASK
            if not offset:
                if counts is not None:
                    raise QmpError("Could not repair dirty image: Input/output error")
                continue
            while (block := image.blocks.peek(offset)) is None:
                await image.blocks.load(offset)
            for slot in range(self._entries):
                wanted = min(counts[slot], most) if counts is not None else 0
                if block.words[slot] != wanted:
                    block.words[slot] = wanted
                    block.dirty = True

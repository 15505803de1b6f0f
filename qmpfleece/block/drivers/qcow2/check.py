"""Counting references again, for images that were not closed properly.

With lazy refcounts a crash leaves refcounts that are too low or too high, and entries whose
"copied" flag does not say what the refcounts say. So references are counted anew from all
tables, and both are corrected in place. What else is damaged is left as it is: it is met by
the request that runs into it.

Source: qcow2 specification, "dirty bit"; what QEMU 7.2 repairs and says on opening.
"""

import asyncio
import sys
from array import array
from typing import TYPE_CHECKING

from qmpfleece.base.errors import QmpError
from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.bitmapdir import Entry
from qmpfleece.block.drivers.qcow2.layout import (
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    REFBLOCK_MASK,
)
from qmpfleece.block.drivers.qcow2.snapshots import read_l1
from qmpfleece.block.drivers.qcow2.tables import WORD64, Table

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image


class Recount:
    """Counts the references to every cluster of an image, and makes the image say the same.

    Args:
        image: The image; no request is in flight.
    """

    def __init__(self, image: "Image") -> None:
        self._image = image
        self._entries = image.geometry.block_entries
        #: References by region; only regions with any.
        self._counts: dict[int, array[int]] = {}
        #: Whether there is damage beside refcounts and flags.
        self._damaged = False

    async def run(self, bitmaps: list[Entry], directory: tuple[int, int]) -> None:
        """Correct all refcounts and flags, and take the dirty bit away if all is well then.

        Args:
            bitmaps: The persistent bitmaps.
            directory: Where their directory lies, and its bytes.

        Raises:
            QmpError: The refcount table lies on something else, or is too small.
            OSError: The image can't be read or written. It stays dirty until it is counted.
        """
        image, header = self._image, self._image.header
        image.uncounted = True
        await self._count_all(bitmaps, directory)
        table = header.refcount_table_offset, header.refcount_table_clusters
        if any(self._references(number) for number in self._numbers(*table)):
            raise _beyond_repair()
        self._count(table[0], table[1] << image.geometry.cluster_bits)
        regions = self._misplaced_blocks()
        await self._load_others(regions)
        self._replace_blocks(regions)
        await self._compare(repair=False)
        await self._compare(repair=True)
        await image.journal.write()
        await self._correct_flags()
        await pipeline.flush(image.file)
        image.uncounted = image.outdated = False
        image.refcounts.hint = 0  # there may be free ones anywhere
        if not self._damaged:
            await image.header_writer.clear_dirty_bit()

    # -- counting -------------------------------------------------------------------------

    async def _count_all(self, bitmaps: list[Entry], directory: tuple[int, int]) -> None:
        """Count everything but what refcounts lie in."""
        image, header = self._image, self._image.header
        self._count(0, image.geometry.cluster_size)
        await self._count_l1(header.l1_offset, image.l1)
        if image.snapshot_table_bytes:
            self._count(header.snapshots_offset, image.snapshot_table_bytes)
        for snapshot in image.snapshots:
            await self._count_l1(snapshot.l1_offset, await read_l1(image, snapshot))
        await self._count_bitmaps(bitmaps, directory)

    def _numbers(self, offset: int, clusters: int) -> range:
        first = offset >> self._image.geometry.cluster_bits
        return range(first, first + clusters)

    def _references(self, cluster: int) -> int:
        region, slot = divmod(cluster, self._entries)
        counts = self._counts.get(region)
        return counts[slot] if counts is not None else 0

    def _count(self, offset: int, length: int) -> None:
        geometry = self._image.geometry
        if offset + length - self._image.file.node.length >= geometry.cluster_size:
            self._complain(
                "ERROR: counting reference for region exceeding the end of the file by one"
                f" cluster or more: offset {offset:#x} size {length:#x}"
            )
            return
        bits = geometry.cluster_bits
        for cluster in range(offset >> bits, (offset + length - 1 >> bits) + 1):
            self._add(cluster)

    def _add(self, cluster: int) -> None:
        region, slot = divmod(cluster, self._entries)
        if (counts := self._counts.get(region)) is None:
            if region >= len(self._image.refcounts.table):
                raise _beyond_repair()
            counts = self._counts[region] = array("I", bytes(4 * self._entries))
        counts[slot] += 1

    async def _count_l1(self, offset: int, l1: "array[int]") -> None:
        geometry = self._image.geometry
        if l1:
            self._count(offset, len(l1) * 8)
        for entry in l1:
            if place := entry & OFFSET_MASK:
                self._count(place, geometry.cluster_size)
                if place % geometry.cluster_size:
                    self._complain(
                        f"ERROR l2_offset={place:x}: Table is not cluster aligned;"
                        " L1 entry corrupted"
                    )
                    continue
                self._count_l2(await self._read_table(place))

    async def _read_table(self, offset: int) -> "array[int]":
        raw = bytearray(self._image.geometry.cluster_size)
        await self._image.read(offset, memoryview(raw))
        await asyncio.sleep(0)  # others have their turn between tables
        return WORD64.decode(raw)

    def _count_l2(self, words: "array[int]") -> None:
        geometry = self._image.geometry
        size = geometry.cluster_size
        with_data_file = self._image.data is not self._image.file
        for word in words[:: geometry.entry_words]:
            if word & COMPRESSED:
                offset, length = geometry.compressed(word)
                if word & COPIED:
                    self._complain(
                        f"ERROR: coffset=0x{offset:x}: copied flag must never be set for"
                        " compressed clusters"
                    )
                self._count(offset, length)
            elif (host := word & OFFSET_MASK) and not with_data_file:
                if host % size:
                    self._complain(
                        f"ERROR offset={host:x}: Data cluster is not properly aligned;"
                        " L2 entry corrupted."
                    )
                self._count(host, size)

    async def _count_bitmaps(self, bitmaps: list[Entry], directory: tuple[int, int]) -> None:
        image, cluster = self._image, self._image.geometry.cluster_size
        if bitmaps:
            self._count(*directory)
        for entry in bitmaps:
            raw = bytearray(entry.table_size * 8)
            self._count(entry.table_offset, len(raw))
            await image.read(entry.table_offset, memoryview(raw))
            for word in WORD64.decode(raw):
                if word & OFFSET_MASK:
                    self._count(word & OFFSET_MASK, cluster)

    # -- refcounts ------------------------------------------------------------------------

    def _misplaced_blocks(self) -> list[int]:
        """Count the refcount blocks; return regions that need one, or one somewhere else."""
        bits, size = self._image.geometry.cluster_bits, self._image.geometry.cluster_size
        misplaced = []
        for region, word in enumerate(self._image.refcounts.table):
            offset = word & REFBLOCK_MASK
            if not offset:
                continue
            if offset % size:
                _say(
                    f"ERROR refcount block {region} is not cluster aligned; refcount table"
                    " entry corrupted"
                )
            elif offset >= self._image.file.node.length:
                _say(f"ERROR refcount block {region} is outside image")
            elif not self._references(offset >> bits):
                self._count(offset, size)
                continue
            misplaced.append(region)
        table = self._image.refcounts.table
        missing = (region for region in self._counts if not table[region] & REFBLOCK_MASK)
        return sorted({*misplaced, *missing})

    def _replace_blocks(self, regions: list[int]) -> None:
        """Make blocks for these regions, at the end of the file."""
        image, geometry = self._image, self._image.geometry
        free = geometry.clusters(image.file.node.length)
        while regions:
            self._add(free)
            image.refcounts.place_block(regions.pop(), free << geometry.cluster_bits)
            home = free // self._entries
            if not image.refcounts.table[home] and home not in regions:
                regions.append(home)
            free += 1

    async def _load_others(self, regions: list[int]) -> None:
        """See that all other blocks can be read, before there are blank ones."""
        table, blocks, replaced = self._image.refcounts.table, self._image.blocks, set(regions)
        for region, word in enumerate(table):
            if (offset := word & REFBLOCK_MASK) and region not in replaced:
                await blocks.load(offset)

    async def _compare(self, *, repair: bool) -> None:
        """Compare all refcounts with what was counted; say what differs, or correct it."""
        image = self._image
        for region, word in enumerate(image.refcounts.table):
            if not (offset := word & REFBLOCK_MASK):
                continue
            await asyncio.sleep(0)  # others have their turn between blocks
            while (block := image.blocks.peek(offset)) is None:
                await image.blocks.load(offset)
            counts = self._counts.get(region) or array("I", bytes(4 * self._entries))
            self._compare_block(block, counts, region * self._entries, repair=repair)

    def _compare_block(
        self, block: Table, counts: "array[int]", first: int, *, repair: bool
    ) -> None:
        most, words = self._image.geometry.refcount_max, block.words
        if words == counts:
            return  # as nearly all are
        for slot, references in enumerate(counts):
            known = words[slot]
            if known == min(references, most):
                continue
            what = "ERROR" if known < references else "Leaked"
            if repair:
                what = "Repairing"
                words[slot] = min(references, most)
                block.dirty = True
            _say(f"{what} cluster {first + slot} refcount={known} reference={references}")

    # -- flags ----------------------------------------------------------------------------

    async def _correct_flags(self) -> None:
        """Make "copied" flags of the active tables say which clusters have one reference."""
        image, geometry = self._image, self._image.geometry
        for index, entry in enumerate(image.l1):
            place = entry & OFFSET_MASK
            if not place or place % geometry.cluster_size:
                continue
            if (flagged := self._flagged(entry)) != entry:
                _say(
                    f"Repairing OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x}"
                    f" refcount={self._references(place >> geometry.cluster_bits)}"
                )
                image.l1[index] = flagged
                image.journal.l1_changed(index)
            words = await self._read_table(place)
            if self._correct_l2(words):
                await image.write_metadata(place, WORD64.encode(words), overlap.ACTIVE_L2)
        await image.journal.write()

    def _correct_l2(self, words: "array[int]") -> bool:
        """Correct the flags of an L2 table; returns whether any was wrong."""
        if self._image.data is not self._image.file:
            return False  # clusters of a data file have no refcounts
        bits, wrong = self._image.geometry.cluster_bits, False
        for at in range(0, len(words), self._image.geometry.entry_words):
            word = words[at]
            if not word & OFFSET_MASK or word & COMPRESSED:
                continue
            if (flagged := self._flagged(word)) != word:
                count = self._references((word & OFFSET_MASK) >> bits)
                _say(f"Repairing OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}")
                words[at] = flagged
                wrong = True
        return wrong

    def _flagged(self, word: int) -> int:
        cluster = (word & OFFSET_MASK) >> self._image.geometry.cluster_bits
        return word | COPIED if self._references(cluster) == 1 else word & ~COPIED

    def _complain(self, text: str) -> None:
        self._damaged = True
        _say(text)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _beyond_repair() -> QmpError:
    return QmpError("Could not repair dirty image: Input/output error")

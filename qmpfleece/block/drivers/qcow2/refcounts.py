"""Refcounts of the file's clusters: taking free ones, giving them back.

Clusters are found and claimed in one step without await: a claim sets the refcount in the
cached block, and ``journal`` writes it before anything that refers to the cluster. Blocks and
the table grow in the same way, in memory first.
"""

import asyncio
import contextlib
import errno
from array import array
from typing import TYPE_CHECKING

from qmpfleece.base.errors import BlockError
from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.journal import Free
from qmpfleece.block.drivers.qcow2.layout import MAX_REFTABLE_SIZE, REFBLOCK_MASK, hexa
from qmpfleece.block.drivers.qcow2.tables import WORD64, Table

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image


class _Missing(Exception):  # noqa: N818 - no error, a request for a block
    """A refcount block must be loaded first."""

    def __init__(self, region: int) -> None:
        self.region = region


class Refcounts:
    """The refcount table and what it leads to. A region is what one block counts.

    Attributes:
        table: Offsets of the blocks.
        hint: No cluster before this one is free.
        last_was_untouched: Whether the file has never held anything, and so reads as zeroes,
            where the last ``allocate`` has been. To be asked in the step in which it returns.
    """

    def __init__(self, image: "Image", table: "array[int]") -> None:
        self._image = image
        self.table = table
        self._entries = image.geometry.block_entries
        self.last_was_untouched = False
        self._changed: set[int] = set()
        self._moved = 0
        self.hint = 0
        #: From this cluster on nothing has been ours; see ``BlockDriver.is_past_end``.
        self._untouched = image.geometry.clusters(image.file.node.length)
        #: Where the next compressed data goes, 0 when a new cluster is needed.
        self._tail = 0

    # -- what the journal asks ------------------------------------------------------------

    @property
    def changed(self) -> bool:
        """Whether the table is to be written."""
        return bool(self._changed or self._moved)

    def take_changes(self) -> tuple[dict[int, int], tuple[int, memoryview] | None]:
        """Return entries to be written, or place and content if the table has moved."""
        changed = {index: self.table[index] for index in self._changed}
        moved, self._moved = self._moved, 0
        self._changed.clear()
        return ({}, (moved, WORD64.encode(self.table))) if moved else (changed, None)

    def put_changes(self, entries: dict[int, int], *, moved: bool) -> None:
        """Undo ``take_changes``: writing has failed."""
        self._changed.update(entries)
        if moved and not self._moved:
            self._moved = self._image.reftable_offset

    # -- asking ---------------------------------------------------------------------------

    def _peek(self, region: int) -> Table | None:
        """Return the block of a region, None if the region has none.

        Raises:
            _Missing: It is not in memory.
            BlockError: The table entry is corrupt.
        """
        offset = self.table[region] & REFBLOCK_MASK if region < len(self.table) else 0
        if not offset:
            return None
        if (block := self._image.blocks.peek(offset)) is None:
            if offset % self._image.geometry.cluster_size:
                raise self._image.corrupt(
                    f"Refblock offset {hexa(offset)} unaligned (reftable index: {hexa(region)})"
                )
            raise _Missing(region)
        return block

    async def _load(self, region: int) -> None:
        await self._image.note("refblock_load")
        await self._image.blocks.load(self.table[region] & REFBLOCK_MASK)

    async def _block(self, region: int) -> Table | None:
        """Return what ``_peek`` does; it stays in memory until the caller awaits."""
        while True:
            try:
                return self._peek(region)
            except _Missing as missing:
                await self._load(missing.region)

    async def get(self, cluster: int) -> int:
        """Return the refcount of a cluster."""
        block = await self._block(cluster // self._entries)
        return block.words[cluster % self._entries] if block is not None else 0

    async def in_use(self, enough: int) -> int:
        """Return how many clusters of the file have references, at least until there are enough.

        Args:
            enough: Where counting may stop.
        """
        image, entries = self._image, self._entries
        last = image.geometry.clusters(image.file.node.length)
        found = region = 0
        while found < enough and region < len(self.table) and region * entries < last:
            await asyncio.sleep(0)  # others have their turn
            block = await self._block(region)
            if block is not None:
                words = block.words[: last - region * entries]
                found += len(words) - words.count(0)
            region += 1
        return found

    # -- taking ---------------------------------------------------------------------------

    async def allocate(self, wanted: int) -> tuple[int, int]:
        """Claim up to ``wanted`` clusters that follow each other.

        On return they belong to the caller, who drops what it does not use.

        Returns:
            Number of the first one, and how many.

        Raises:
            OSError: No block can be read, or the file is as large as it can get; EIO: what is in
                use may be counted as free, as counting again has failed.
        """
        if self._image.uncounted:
            raise BlockError(errno.EIO)
        if self._image.debug is not None:
            await self._image.note("cluster_alloc")
            await self._image.note("refblock_alloc")
        if self._image.blocks.overfull:
            await self._image.blocks.make_room()
        while True:
            try:
                first, count = self._claim(wanted)
            except _Missing as missing:
                await self._load(missing.region)
                continue
            self._image.check_allocation(first, count)
            self.last_was_untouched = first >= self._untouched
            self._untouched = max(self._untouched, first + count)
            return first, count

    def _claim(self, wanted: int) -> tuple[int, int]:
        entries = self._entries
        while True:
            region, slot = divmod(self.hint, entries)
            if region >= len(self.table):
                self._grow(region + 1)
                continue
            block = self._peek(region)
            if block is None:
                self._fill(region, 0, 1)
                continue
            words = block.words
            try:
                slot = words.index(0, slot)
            except ValueError:
                self.hint = (region + 1) * entries
                continue
            stop = min(slot + wanted, entries)
            words[slot] = 1
            end = slot + 1
            while end < stop and not words[end]:
                words[end] = 1
                end += 1
            block.dirty = True
            self.hint = region * entries + end
            return region * entries + slot, end - slot

    def allocate_run(self, count: int) -> int:
        """Claim exactly ``count`` clusters in a row behind everything else; returns the first.

        For tables, which need to be in one piece. Nothing is awaited.

        Raises:
            BlockError: EFBIG: the file is as large as it can get.
        """
        blocks = -(-count // (self._entries - 1))
        while (region := self._unused_region()) + blocks > len(self.table):
            self._grow(region + blocks)
        self._fill(region, count, blocks)
        return region * self._entries

    async def allocate_table(self, count: int) -> int:
        """Claim exactly ``count`` clusters in a row, near the others if there is room."""
        first, got = await self.allocate(count)
        if got == count:
            return first
        self._image.journal.free(first, got, discard=False)
        for region in range(self.hint // self._entries, len(self.table)):
            await asyncio.sleep(0)  # others have their turn
            block = await self._block(region)
            slot = _free_run(block.words, count) if block is not None else -1
            if block is not None and slot >= 0:
                return self._claim_run(region, block, slot, count)
        return self.allocate_run(count)

    def _claim_run(self, region: int, block: Table, slot: int, count: int) -> int:
        first = region * self._entries + slot
        self._image.check_allocation(first, count)
        for index in range(slot, slot + count):
            block.words[index] = 1
        block.dirty = True
        self._untouched = max(self._untouched, first + count)
        return first

    def _unused_region(self) -> int:
        region = len(self.table)
        while region and not self.table[region - 1]:
            region -= 1
        return region

    def _fill(self, region: int, count: int, blocks: int) -> None:
        """Make blocks for regions that have none; they follow ``count`` claimed clusters."""
        image, entries = self._image, self._entries
        first = region * entries
        image.check_allocation(first, count + blocks)
        total = count + blocks
        self._untouched = max(self._untouched, first + total)
        for index in range(blocks):
            words = image.blocks.codec.blank(entries)
            for slot in range(min(entries, total - index * entries)):
                words[slot] = 1
            offset = first + count + index << image.geometry.cluster_bits
            self._insert_block(region + index, Table(offset, words, dirty=True))

    def place_block(self, region: int, offset: int) -> None:
        """Give a region a new block, in a cluster that nobody else uses; all is free in it."""
        words = self._image.blocks.codec.blank(self._entries)
        self._insert_block(region, Table(offset, words, dirty=True))

    def _insert_block(self, region: int, block: Table) -> None:
        image = self._image
        before = self.table[region]
        if before and self.table.count(before) == 1:
            image.overlap.remove(overlap.REFBLOCK, before & REFBLOCK_MASK, 1)
        image.blocks.insert(block)
        image.overlap.add(overlap.REFBLOCK, block.offset, 1)
        number = block.offset >> image.geometry.cluster_bits
        self._untouched = max(self._untouched, number + 1)
        self.table[region] = block.offset
        self._changed.add(region)

    def _grow(self, needed: int) -> None:
        """Move the table to where it has room for ``needed`` regions at least."""
        image, geometry = self._image, self._image.geometry
        region = self._unused_region()
        needed = max(needed, len(self.table) * 3 // 2)
        while True:
            clusters = geometry.clusters(8 * needed)
            blocks = -(-clusters // (self._entries - 1))
            if region + blocks <= clusters * geometry.cluster_size // 8 and needed > region:
                break
            needed = max(needed + 1, region + blocks)
        if 8 * needed > MAX_REFTABLE_SIZE:
            raise BlockError(errno.EFBIG)
        old_offset, old_clusters = image.reftable_offset, image.reftable_clusters
        self.table.extend(
            array("Q", bytes(clusters * geometry.cluster_size - 8 * len(self.table)))
        )
        self._fill(region, clusters, blocks)
        offset = region * self._entries << geometry.cluster_bits
        image.overlap.remove(overlap.REFTABLE, old_offset, old_clusters * geometry.cluster_size)
        image.overlap.add(overlap.REFTABLE, offset, clusters * geometry.cluster_size)
        image.reftable_offset, image.reftable_clusters = offset, clusters
        self._moved = offset
        image.journal.free(
            old_offset >> geometry.cluster_bits, old_clusters, discard=image.discard_other
        )

    # -- compressed data ------------------------------------------------------------------

    async def allocate_bytes(self, length: int) -> int:
        """Claim room for compressed data, less than a cluster; returns its offset.

        Clusters are shared: each piece of data counts one reference.
        """
        geometry = self._image.geometry
        await self._image.note("cluster_alloc_bytes")
        while self._tail and self._tail % geometry.cluster_size + length <= geometry.cluster_size:
            cluster = self._tail >> geometry.cluster_bits
            try:
                block = self._peek(cluster // self._entries)
            except _Missing as missing:
                await self._load(missing.region)
                continue
            slot = cluster % self._entries
            if block is None or not 0 < block.words[slot] < geometry.refcount_max:
                break
            block.words[slot] += 1
            block.dirty = True
            return self._advance(self._tail, length)
        first, _ = await self.allocate(1)
        return self._advance(first << geometry.cluster_bits, length)

    def leave_cluster(self, cluster: int) -> None:
        """Put the next compressed data elsewhere than into this cluster."""
        if self._tail >> self._image.geometry.cluster_bits == cluster:
            self._tail = 0

    def leave_tail(self) -> None:
        """Put the next compressed data into a new cluster."""
        self._tail = 0

    def _advance(self, offset: int, length: int) -> int:
        self._tail = offset + length
        if not self._tail % self._image.geometry.cluster_size:
            self._tail = 0
        return offset

    async def add(self, first: int, count: int) -> int:
        """Count one reference more to each cluster of a run.

        Returns:
            How many of them could be; fewer than ``count`` when one has the most already.

        Raises:
            OSError: A block can't be read; what was counted is given back.
        """
        done = 0
        while done < count:
            region, slot = divmod(first + done, self._entries)
            try:
                block = await self._block(region)
            except BaseException:
                if done:
                    self._image.journal.free(first, done, discard=False)
                raise
            for index in range(slot, min(slot + count - done, self._entries)):
                if block is None or block.words[index] >= self._image.geometry.refcount_max:
                    return done
                block.words[index] += 1
                block.dirty = True
                done += 1
        return done

    # -- giving back ----------------------------------------------------------------------

    async def release(self, item: Free) -> None:
        """Drop one reference to each cluster of a run; no table on disk has it any more."""
        first, left = item.first, item.clusters
        while left:
            region, slot = divmod(first, self._entries)
            part = min(left, self._entries - slot)
            try:
                block = self._peek(region)
                if block is not None and item.discard:
                    await self._discard(first, block.words[slot : slot + part])
                    block = self._peek(region)
            except _Missing as missing:
                await self._load(missing.region)
                continue
            if block is not None:
                self._drop(block, slot, part, first)
            first += part
            left -= part

    def _drop(self, block: Table, slot: int, count: int, first: int) -> None:
        words, image = block.words, self._image
        block.dirty = True
        for index in range(slot, slot + count):
            value = words[index]
            if value:
                words[index] = value - 1
            if value == 1:
                cluster = first + index - slot
                self.hint = min(self.hint, cluster)
                self.leave_cluster(cluster)
        image.forget_compressed()

    async def discard(self, first: int, count: int) -> None:
        """Give a run of clusters back to the file, as far as it has one reference only.

        That reference has been dropped in memory. Until it is released, which the caller
        prevents by being in an epoch, nobody can get these clusters.
        """
        while count:
            region, slot = divmod(first, self._entries)
            part = min(count, self._entries - slot)
            block = await self._block(region)
            if block is not None:
                await self._discard(first, block.words[slot : slot + part])
            first += part
            count -= part

    async def _discard(self, first: int, words: "array[int]") -> None:
        """Punch holes where the last reference goes; the clusters can't be taken meanwhile."""
        if self._image.uncounted:
            return  # others may have references to them
        bits, image = self._image.geometry.cluster_bits, self._image
        if first <= self._tail >> bits < first + len(words):
            self._tail = 0  # else compressed data would follow what is being discarded
        start = 0
        while start < len(words):
            end = start
            while end < len(words) and words[end] == 1:
                end += 1
            if end > start:
                offset = first + start << bits
                length = min(end - start << bits, image.file.node.length - offset)
                if length > 0:
                    # A file that can't give it back is no worse for it.
                    with contextlib.suppress(OSError):
                        await pipeline.pdiscard(image.file, offset, length)
            start = end + 1


def _free_run(words: "array[int]", count: int) -> int:
    """Return where ``count`` clusters in a row are free, -1 for nowhere."""
    slot = 0
    while slot + count <= len(words):
        used = count
        while used and not words[slot + used - 1]:
            used -= 1
        if not used:
            return slot
        slot += used
    return -1

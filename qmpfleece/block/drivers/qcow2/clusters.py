"""From the disk to the file: looking up runs of clusters, and getting L2 tables to change.

A run is what one request to the file can serve: clusters of one kind that follow each other
there. Looking up is synchronous; None says that the slice has to be loaded first.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.layout import (
    ALL_ALLOCATED,
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    SUBCLUSTERS,
    ZERO,
    hexa,
)
from qmpfleece.block.drivers.qcow2.tables import Table

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

_ZEROES: Final = bytes(1 << 16)


class Kind:
    """What a run is, plain integers."""

    #: Decided by the backing file.
    UNALLOCATED: Final = 0
    #: Zeroes, without clusters in the file.
    ZERO_PLAIN: Final = 1
    #: Zeroes, with clusters in the file.
    ZERO_ALLOCATED: Final = 2
    #: Subclusters decided by the backing file, in clusters that are in the file.
    UNALLOCATED_HOST: Final = 3
    #: Data.
    NORMAL: Final = 4
    #: One compressed cluster.
    COMPRESSED: Final = 5


class Run:
    """A run of equal clusters or subclusters.

    Attributes:
        kind: One of ``Kind``.
        host: Where it begins in the file that has the data; of a compressed run the L2 entry;
            else without meaning.
        length: Bytes.
        copied: Whether nobody else refers to the clusters.
    """

    __slots__ = ("copied", "host", "kind", "length")

    def __init__(self, kind: int, host: int, length: int, *, copied: bool = False) -> None:
        self.kind = kind
        self.host = host
        self.length = length
        self.copied = copied


class Clusters:
    """Looks into the L2 tables of an image."""

    def __init__(self, image: "Image") -> None:
        self._image = image
        self._geometry = image.geometry
        self._with_data_file = image.data is not image.file
        self._mask = image.geometry.cluster_size - 1
        #: L1 indexes whose L2 table is being made.
        self._making: dict[int, asyncio.Future[None]] = {}

    # -- looking up -----------------------------------------------------------------------

    def lookup(self, offset: int, length: int, *, writing: bool = False) -> Run | None:
        """Return the run that begins at ``offset``, cut to ``length``.

        Args:
            offset: Where on the disk.
            length: Bytes, more than 0.
            writing: What the run is for; corruption is worded accordingly.

        Returns:
            None when the slice is not in memory; see ``load``.

        Raises:
            BlockError: The entry is corrupt.
        """
        geometry = self._geometry
        span, slice_span = geometry.l2_span, geometry.slice_span
        index, inside = offset // span, offset % span
        l1 = self._image.l1
        # COPIED goes first: what takes more than 62 bits is slow when this is compiled.
        entry = l1[index] - COPIED & OFFSET_MASK if index < len(l1) else 0
        if not entry:
            return Run(Kind.UNALLOCATED, 0, min(length, span - inside))
        table = self._image.l2.peek(entry + inside // slice_span * geometry.slice_bytes)
        inside %= slice_span
        if table is None:
            return None
        if geometry.extended:
            return self._run_extended(table, inside, length, offset if writing else -1)
        return self._run(table, inside, length, offset if writing else -1)

    def _run(self, table: Table, inside: int, length: int, guest: int) -> Run:
        geometry, words = self._geometry, table.words
        bits = geometry.cluster_bits
        index = inside >> bits
        within = inside & self._mask
        word = words[index]
        kind, host, copied = Kind.NORMAL, word - COPIED, True
        if not 0 < host <= OFFSET_MASK or host & self._mask:  # else the usual data
            if word & COMPRESSED:
                part = min(length, geometry.cluster_size - within)
                return Run(Kind.COMPRESSED, word, part)
            kind, host = self._classify(table, index, word, guest)
            copied = bool(word & COPIED)
        last = min(inside + length - 1 >> bits, len(words) - 1)
        count = 1
        if last > index:
            step = geometry.cluster_size if host or kind == Kind.NORMAL else 0
            expected = word
            for other in words[index + 1 : last + 1]:
                expected += step
                if other != expected:
                    break
                count += 1
        part = min(length, (count << bits) - within)
        return Run(kind, host + within, part, copied=copied)

    def _classify(self, table: Table, index: int, word: int, guest: int) -> tuple[int, int]:
        """Return kind and offset of an entry that is not compressed and has no subclusters.

        ``guest`` is where a write begins, -1 for reading.
        """
        host = word & OFFSET_MASK
        # A write that does not use the cluster need not look where it is.
        if host & self._mask and (guest < 0 or word & COPIED):
            raise self._unaligned(table, index, host, guest, zero=bool(word & ZERO))
        if word & ZERO:
            if self._geometry.version < 3 and guest < 0:
                raise self._image.corrupt(
                    "Zero cluster entry found in pre-v3 image"
                    f" (L2 offset: {hexa(self._table_offset(table))},"
                    f" L2 index: {hexa(self._table_index(table, index))})"
                )
            return (Kind.ZERO_ALLOCATED if host else Kind.ZERO_PLAIN), host
        if host or (word & COPIED and self._with_data_file):
            return Kind.NORMAL, host
        return Kind.UNALLOCATED, 0

    def _run_extended(self, table: Table, inside: int, length: int, guest: int) -> Run:
        geometry, words = self._geometry, table.words
        bits = geometry.cluster_bits
        index = inside >> bits
        within = inside & self._mask
        word = words[2 * index]
        if word & COMPRESSED:
            part = min(length, geometry.cluster_size - within)
            return Run(Kind.COMPRESSED, word, part)
        first = within // geometry.subcluster_size
        kind, host = self._classify_sub(table, index, first, guest)
        got = 0
        expected = word
        # Count equal subclusters, over cluster borders as long as the clusters follow.
        while True:
            got_here = self._equal_subclusters(table, index, first, kind)
            got += got_here
            if first + got_here < SUBCLUSTERS or index + 1 >= len(words) // 2:
                break
            if got * geometry.subcluster_size >= length + geometry.subcluster_size:
                break
            index += 1
            first = 0
            expected += geometry.cluster_size if word & OFFSET_MASK or word & COPIED else 0
            if words[2 * index] != expected or words[2 * index] & COMPRESSED:
                break
            if self._classify_sub(table, index, 0, guest)[0] != kind:
                break
        part = min(
            length,
            got * geometry.subcluster_size - within % geometry.subcluster_size,
        )
        return Run(kind, host + within, part, copied=bool(word & COPIED))

    def _classify_sub(self, table: Table, index: int, sub: int, guest: int) -> tuple[int, int]:
        word, bitmap = table.words[2 * index], table.words[2 * index + 1]
        host = word & OFFSET_MASK
        if host & self._mask and (guest < 0 or word & COPIED):
            raise self._unaligned(table, index, host, guest, zero=False)
        allocated, zero = bitmap >> sub & 1, bitmap >> (sub + SUBCLUSTERS) & 1
        has_host = host or (word & COPIED and self._with_data_file)
        if bitmap & (bitmap >> SUBCLUSTERS if has_host else ALL_ALLOCATED):
            space = "" if guest >= 0 else " "
            raise self._image.corrupt(
                f"Invalid cluster entry found {space}"
                f"(L2 offset: {hexa(self._table_offset(table))},"
                f" L2 index: {hexa(self._table_index(table, index))})"
            )
        if allocated:
            return Kind.NORMAL, host
        if zero:
            return (Kind.ZERO_ALLOCATED if has_host else Kind.ZERO_PLAIN), host
        return (Kind.UNALLOCATED_HOST if has_host else Kind.UNALLOCATED), host

    def _equal_subclusters(self, table: Table, index: int, first: int, kind: int) -> int:
        bitmap = table.words[2 * index + 1]
        allocated = bitmap & 0xFFFFFFFF
        zero = bitmap >> SUBCLUSTERS
        if allocated & zero:
            return 1  # corrupt somewhere: found when it is that one's turn
        if kind == Kind.NORMAL:
            same = allocated
        elif kind in {Kind.ZERO_PLAIN, Kind.ZERO_ALLOCATED}:
            same = zero
        else:
            same = ~(allocated | zero) & 0xFFFFFFFF
        other = ~(same >> first) & (1 << SUBCLUSTERS - first) - 1
        return (other & -other).bit_length() - 1 if other else SUBCLUSTERS - first

    def _table_offset(self, table: Table) -> int:
        return table.offset - table.offset % self._geometry.cluster_size

    def _table_index(self, table: Table, index: int) -> int:
        inside = table.offset % self._geometry.cluster_size
        return inside // (8 * self._geometry.entry_words) + index

    def _unaligned(
        self, table: Table, index: int, host: int, guest: int, *, zero: bool
    ) -> OSError:
        if guest >= 0:
            what = "Preallocated zero" if zero else "Data"
            return self._image.corrupt(
                f"{what} cluster offset {hexa(host)} unaligned (guest offset: {hexa(guest)})"
            )
        return self._image.corrupt(
            f"Cluster allocation offset {hexa(host)} unaligned"
            f" (L2 offset: {hexa(self._table_offset(table))},"
            f" L2 index: {hexa(self._table_index(table, index))})"
        )

    async def load(self, offset: int) -> None:
        """Bring the slice for ``offset`` into memory, for a moment at least.

        Raises:
            OSError: It can't be read, or its place is corrupt.
        """
        place = self._slice_offset(offset)
        if place is not None and self._image.l2.peek(place) is None:
            await self._image.note("l2_load")
            place = self._slice_offset(offset)  # the table may have been replaced meanwhile
            if place is not None:
                await self._image.l2.load(place)

    def _slice_offset(self, offset: int) -> int | None:
        geometry = self._geometry
        index, inside = divmod(offset, geometry.l2_span)
        entry = self._image.l1[index] & OFFSET_MASK
        if not entry:
            return None
        if entry & self._mask:
            raise self._image.corrupt(
                f"L2 table offset {hexa(entry)} unaligned (L1 index: {hexa(index)})"
            )
        return entry + inside // geometry.slice_span * geometry.slice_bytes

    # -- changing -------------------------------------------------------------------------

    def peek_to_change(self, offset: int) -> tuple[Table, int] | None:
        """Return the slice that maps ``offset`` and the index of its entry there.

        Returns:
            None when it must not be changed, or is not in memory; see ``prepare``.

        Raises:
            BlockError: Writing it would destroy other metadata.
        """
        geometry = self._geometry
        index, inside = divmod(offset, geometry.l2_span)
        entry = self._image.l1[index]
        if not entry & COPIED:
            return None
        part, inside = divmod(inside, geometry.slice_span)
        table = self._image.l2.peek((entry & OFFSET_MASK) + part * geometry.slice_bytes)
        if table is None:
            return None
        if not table.checked:
            found = self._image.overlap.find(table.offset, 1, overlap.ACTIVE_L2)
            if found is not None:
                raise self._image.corrupt_write(found, table.offset, geometry.slice_bytes)
            table.checked = True
        return table, inside >> geometry.cluster_bits

    async def to_change(self, offset: int) -> tuple[Table, int]:
        """Return what ``peek_to_change`` does, which may be changed until the caller awaits.

        Raises:
            OSError: As it and ``prepare`` do.
        """
        while (place := self.peek_to_change(offset)) is None:
            await self.prepare(offset)
        return place

    async def prepare(self, offset: int) -> None:
        """Bring the slice for ``offset`` into memory, in an L2 table that is ours to change.

        Raises:
            OSError: It can't be read, or no table can be allocated.
        """
        index = offset // self._geometry.l2_span
        l1 = self._image.l1
        while not (l1[index] & COPIED and l1[index] & OFFSET_MASK):
            if (making := self._making.get(index)) is not None:
                await asyncio.shield(making)
                continue
            done = asyncio.get_running_loop().create_future()
            self._making[index] = done
            try:
                await self._make_table(index)
            finally:
                del self._making[index]
                done.set_result(None)
        await self.load(offset)

    async def _make_table(self, index: int) -> None:
        """Give an L1 entry an L2 table of its own: blank, or a copy of a snapshot's.

        Where there was no space, but is now, nothing is changed.
        """
        image, geometry = self._image, self._geometry
        old = image.l1[index] & OFFSET_MASK
        if old & self._mask:
            raise image.corrupt(f"L2 table offset {hexa(old)} unaligned (L1 index: {hexa(index)})")
        if image.l2.overfull:
            await image.l2.make_room()
        cluster, _ = await image.refcounts.allocate(1)
        offset = cluster << geometry.cluster_bits
        try:
            await self._write_table(old, offset)
        except BaseException as error:
            image.journal.free(cluster, 1, discard=image.discard_other)
            if await image.journal.found_room(error, cluster):
                return
            raise
        image.l1[index] = offset | COPIED
        image.journal.l1_changed(index)
        image.overlap.add(overlap.ACTIVE_L2, offset, 1)
        if not old:
            self._insert_blank(offset)
            return
        image.overlap.remove(overlap.ACTIVE_L2, old, 1)
        for start in range(old, old + geometry.cluster_size, geometry.slice_bytes):
            image.l2.drop(start)
        image.journal.free(old >> geometry.cluster_bits, 1, discard=image.discard_other)
        await image.note("cluster_free")

    def _insert_blank(self, offset: int) -> None:
        """Spare reading back a table of zeroes, where it is one slice."""
        if self._geometry.slice_bytes == self._geometry.cluster_size:
            l2 = self._image.l2
            l2.insert(Table(offset, l2.codec.blank(self._geometry.slice_bytes // 8)))

    async def _write_table(self, old: int, offset: int) -> None:
        image, size = self._image, self._geometry.cluster_size
        if old:
            await image.note("l2_alloc_cow_read")
            content = memoryview(bytearray(size))
            await image.read(old, content)
            await image.note("l2_alloc_write")
            await pipeline.pwrite(image.file, offset, content)
            return
        await image.note("l2_alloc_write")
        if size <= len(_ZEROES):
            await pipeline.pwrite(image.file, offset, memoryview(_ZEROES)[:size])
        else:
            await pipeline.pwrite_zeroes(image.file, offset, size)

    def drop_reference(self, word: int, *, discard: bool = False) -> tuple[int, int]:
        """Give up what an L2 entry referred to; the entry has been changed.

        Args:
            word: The entry as it was.
            discard: Whether to discard it in the file when it is given back.

        Returns:
            Number of the first cluster, and how many.
        """
        image, bits = self._image, self._geometry.cluster_bits
        first, count = 0, 0
        if word & COMPRESSED:
            offset, length = self._geometry.compressed(word)
            first = offset >> bits
            count = (offset + length - 1 >> bits) + 1 - first
        elif (host := word & OFFSET_MASK) and not self._with_data_file:
            if host & self._mask:
                image.corrupt(f"Cannot free unaligned cluster {hexa(host)}", fatal=False)
            else:
                first, count = host >> bits, 1
        if count:
            image.journal.free(first, count, discard=discard)
        return first, count

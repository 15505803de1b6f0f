"""Taking and deleting internal snapshots, while no request is in flight.

A snapshot is a copy of the L1 table; whatever that leads to gets one more reference. ::

    take:    dirty bit -> refcounts up -> COPIED off -> L1 copy, list -> header -> dirty bit off
    delete:  dirty bit -> list -> header -> refcounts down -> COPIED on -> dirty bit off

with flushes in between. So no cluster ever has fewer references on disk than lead to it; a
process that dies leaves an image that its next user counts again (version 3), or one with
leaks and outdated COPIED flags (version 2), which endanger nothing. Source: as QEMU does it.
"""

import asyncio
import contextlib
import errno
import re
from array import array
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

from qmpfleece.base import utf8
from qmpfleece.base.digits import decimal
from qmpfleece.base.errors import BlockError
from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.layout import (
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    Incompatible,
    hexa,
)
from qmpfleece.block.drivers.qcow2.snapshots import (
    MAX_SNAPSHOTS,
    Snapshot,
    encode_snapshots,
    read_l1,
    tables_of,
)
from qmpfleece.block.drivers.qcow2.tables import WORD64, Table

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

#: Bytes of a name, as far as it is kept.
_MAX_NAME: Final = 255
#: What an id may begin with, and the largest number that counts.
_LEADING: Final = re.compile(r"\s*([+-]?)([0-9]*)", re.ASCII)
_MAX_NUMBER: Final = (1 << 64) - 1


class Snapshotter:
    """Changes the snapshots of an image."""

    def __init__(self, image: "Image") -> None:
        self._image = image

    async def take(self, name: str, date_ns: int, clock_ns: int) -> Snapshot:
        """Keep the disk as it is now; the node is drained.

        Args:
            name: What it is called.
            date_ns: When that was, since the epoch.
            clock_ns: How long the guest has run.

        Raises:
            OSError: EINVAL: a cluster has as many references as can be counted; EFBIG: there
                are too many snapshots; else what the file says. There is no new snapshot.
        """
        image = self._image
        if len(image.snapshots) >= MAX_SNAPSHOTS:
            raise BlockError(errno.EFBIG)
        await image.journal.settle()
        size = len(image.l1)
        clusters = image.geometry.clusters(size * 8)
        first = await image.refcounts.allocate_table(clusters) if clusters else 0
        made = Snapshot(
            first << image.geometry.cluster_bits,
            size,
            self._new_id(),
            utf8.unpack(utf8.pack(name)[:_MAX_NAME]),
            *divmod(date_ns, 1_000_000_000),
            clock_ns,
            0,
            image.size,
        )
        try:
            async with self._counting_anew():
                if (counted := await self._add_references()) is not None:
                    await self._keep_l1(made, counted)
        except BaseException:
            if made not in image.snapshots:
                image.journal.free(first, clusters, discard=False)
            raise
        if counted is None:
            image.journal.free(first, clusters, discard=False)
            raise BlockError(errno.EINVAL)
        return made

    async def _keep_l1(self, made: Snapshot, counted: list[tuple[int, int]]) -> None:
        """Write the L1 table of a snapshot and enter it; what it leads to has been counted."""
        image = self._image
        try:
            await self._clear_flags()
            await image.journal.flush(everything=True)
            await self._write_l1(made.l1_offset)
            await self._write_list([*image.snapshots, made])
        except BaseException:
            self._take_back(counted)
            try:
                await self._refresh_flags()
            except OSError:
                image.outdated = True
            raise
        image.overlap.add(overlap.INACTIVE_L1, made.l1_offset, made.l1_size * 8)
        image.overlap.add_many(overlap.INACTIVE_L2, tables_of(image.l1))

    async def delete(self, snapshot: Snapshot) -> None:
        """Forget a snapshot and give back what only it led to; the node is drained.

        Raises:
            OSError: It could not be done; what can't be given back is lost.
        """
        image, geometry = self._image, self._image.geometry
        await image.journal.settle()
        l1 = await read_l1(image, snapshot)
        async with self._counting_anew():
            await self._write_list([item for item in image.snapshots if item is not snapshot])
            image.overlap.remove(overlap.INACTIVE_L1, snapshot.l1_offset, len(l1) * 8)
            for offset in tables_of(l1):
                image.overlap.remove(overlap.INACTIVE_L2, offset, 1)
            image.outdated, before = True, image.outdated
            await self._drop_references(l1, discard=image.discard_snapshot)
            image.journal.free(
                snapshot.l1_offset >> geometry.cluster_bits,
                geometry.clusters(len(l1) * 8),
                discard=image.discard_snapshot,
            )
            await image.journal.settle()
            await self._refresh_flags()
            image.outdated = before

    @contextlib.asynccontextmanager
    async def _counting_anew(self) -> AsyncIterator[None]:
        """Have the image counted again if the process dies in between."""
        image = self._image
        mine = image.header.version >= 3 and not image.header.incompatible & Incompatible.DIRTY
        if mine:
            await image.header_writer.set_dirty_bit()
        yield  # if that fails the bit stays, until the image is closed
        with contextlib.suppress(OSError):  # it stays, too; what was to be done is done
            await image.journal.settle()
            if mine:
                await image.header_writer.clear_dirty_bit()
            else:
                await pipeline.flush(image.file)

    def _new_id(self) -> str:
        numbers = [_leading_number(item.snapshot_id) for item in self._image.snapshots]
        return str((max(numbers, default=0) + 1) & _MAX_NUMBER)

    # -- references -----------------------------------------------------------------------

    async def _tables(self, l1: "array[int]") -> "AsyncIterator[tuple[int, array[int]]]":
        """Yield offset and content of each L2 table; nothing of them is dirty in memory."""
        image, size = self._image, self._image.geometry.cluster_size
        for index, word in enumerate(l1):
            if not (offset := word & OFFSET_MASK):
                continue
            if offset % size:
                raise image.corrupt(
                    f"L2 table offset {hexa(offset)} unaligned (L1 index: {hexa(index)})"
                )
            raw = bytearray(size)
            await image.read(offset, memoryview(raw))
            yield offset, WORD64.decode(raw)
            await asyncio.sleep(0)  # others have their turn

    def _clusters(self, words: "array[int]") -> Iterator[tuple[int, int]]:
        """Yield what the entries of a table refer to, as runs: the first cluster, how many."""
        geometry = self._image.geometry
        bits = geometry.cluster_bits
        first = count = 0
        for word in words[:: geometry.entry_words]:
            begin, number = (word & OFFSET_MASK) >> bits, 1
            if word & COMPRESSED:
                offset, length = geometry.compressed(word)
                begin = offset >> bits
                number = (offset + length - 1 >> bits) + 1 - begin
            elif not begin:
                continue
            if begin == first + count:
                count += number
                continue
            if count:
                yield first, count
            first, count = begin, number
        if count:
            yield first, count

    async def _add_references(self) -> list[tuple[int, int]] | None:
        """Count one reference more to all that the active L1 table leads to, or none.

        Returns:
            The runs of clusters; None when one has as many as can be counted.
        """
        refcounts, bits = self._image.refcounts, self._image.geometry.cluster_bits
        done: list[tuple[int, int]] = []
        full = False
        try:
            async for offset, words in self._tables(self._image.l1):
                for first, count in ((offset >> bits, 1), *self._clusters(words)):
                    got = await refcounts.add(first, count)
                    done.append((first, got))
                    full = full or got < count
                if full:
                    break
        except BaseException:
            self._take_back(done)
            raise
        if full:
            self._take_back(done)
            return None
        return done

    def _take_back(self, runs: list[tuple[int, int]]) -> None:
        for first, count in runs:
            if count:
                self._image.journal.free(first, count, discard=False)

    async def _drop_references(self, l1: "array[int]", *, discard: bool) -> None:
        """Count one reference less to all that an L1 table leads to."""
        journal, bits = self._image.journal, self._image.geometry.cluster_bits
        async for offset, words in self._tables(l1):
            journal.free(offset >> bits, 1, discard=discard)
            for first, count in self._clusters(words):
                journal.free(first, count, discard=discard)
            if journal.long:
                await journal.settle()

    # -- flags ----------------------------------------------------------------------------

    async def _clear_flags(self) -> None:
        """Let nothing be changed in place any more, once the refcounts are on disk."""
        image = self._image
        await image.journal.flush(everything=True)
        for index, word in enumerate(image.l1):
            offset = word & OFFSET_MASK
            if not offset or not word & COPIED:
                continue
            async for table in self._slices(offset):
                _set_flags(table, image.geometry.entry_words, set())
            image.l1[index] = offset
            image.journal.l1_changed(index)

    async def _refresh_flags(self) -> None:
        """Say COPIED of what has one reference, and only of that."""
        image, geometry = self._image, self._image.geometry
        bits = geometry.cluster_bits
        await image.journal.settle()
        for index, word in enumerate(image.l1):
            if not (offset := word & OFFSET_MASK):
                continue
            async for table in self._slices(offset):
                hosts = {
                    word & OFFSET_MASK
                    for word in table.words[:: geometry.entry_words]
                    if not word & COMPRESSED and word & OFFSET_MASK
                }
                alone = {host for host in hosts if await image.refcounts.get(host >> bits) == 1}
                _set_flags(table, geometry.entry_words, alone)
            alone_here = await image.refcounts.get(offset >> bits) == 1
            if image.l1[index] != (flagged := offset | (COPIED if alone_here else 0)):
                image.l1[index] = flagged
                image.journal.l1_changed(index)
        await image.journal.settle()

    async def _slices(self, offset: int) -> AsyncIterator[Table]:
        """Yield the parts of the L2 table at an offset; none is dropped while it is held."""
        cache, geometry = self._image.l2, self._image.geometry
        for start in range(offset, offset + geometry.cluster_size, geometry.slice_bytes):
            while (table := cache.peek(start)) is None:
                await cache.load(start)
            was, table.writing = table.writing, True
            try:
                yield table
            finally:
                table.writing = was
        await asyncio.sleep(0)

    # -- the list -------------------------------------------------------------------------

    async def _write_l1(self, offset: int) -> None:
        if self._image.l1:
            await pipeline.pwrite(self._image.file, offset, WORD64.encode(self._image.l1))

    async def _write_list(self, snapshots: list[Snapshot]) -> None:
        """Write the list in a new place, let the header name that, and give up the old one."""
        image, header, geometry = self._image, self._image.header, self._image.geometry
        content = encode_snapshots(snapshots)
        clusters = geometry.clusters(len(content))
        offset = 0
        if clusters:
            offset = await image.refcounts.allocate_table(clusters) << geometry.cluster_bits
        before = header.snapshots, header.snapshots_offset
        try:
            if clusters:
                await image.journal.flush(everything=True)
                await pipeline.pwrite(image.file, offset, memoryview(content))
            await pipeline.flush(image.file)
            await image.header_writer.change(snapshots=len(snapshots), snapshots_offset=offset)
        except BaseException:
            if clusters:
                image.journal.free(offset >> geometry.cluster_bits, clusters, discard=False)
            raise
        old_size, image.snapshot_table_bytes = image.snapshot_table_bytes, len(content)
        image.snapshots = snapshots
        image.overlap.add(overlap.SNAPSHOTS, offset, len(content))
        if before[0]:
            image.overlap.remove(overlap.SNAPSHOTS, before[1], old_size)
            image.journal.free(
                before[1] >> geometry.cluster_bits, geometry.clusters(old_size), discard=False
            )


def _leading_number(text: str) -> int:
    """Return the number that a text begins with, 0 for none: as ``strtoul`` of C has it."""
    sign, digits = _LEADING.match(text).groups()  # type: ignore[union-attr]  # as anything does
    value = decimal(digits or "0")
    if value > _MAX_NUMBER:
        return _MAX_NUMBER
    return -value & _MAX_NUMBER if sign == "-" else value


def _set_flags(table: Table, step: int, alone: set[int]) -> None:
    """Say COPIED of the entries that refer to clusters in ``alone``, and of no other one."""
    words = table.words
    for index in range(0, len(words), step):
        word = words[index]
        if word & COMPRESSED or not word & OFFSET_MASK:
            continue
        flagged = word | COPIED if word & OFFSET_MASK in alone else word & ~COPIED
        if flagged != word:
            words[index] = flagged
            table.dirty = True

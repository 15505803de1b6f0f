"""Writing data: in place where the clusters are ours, else to new ones, copying what is around.

An allocating write goes: claim clusters in memory, write data and what has to be copied, then
link the clusters into the L2 table, in one step. While it is under way its clusters are on the
image's ``allocating`` list, and requests that would change the same entries wait for it.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from qmpfleece.base.units import KIB, align_down, align_up
from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2.clusters import Clusters, Kind
from qmpfleece.block.drivers.qcow2.layout import (
    ALL_ALLOCATED,
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    SUBCLUSTERS,
    ZERO,
)
from qmpfleece.block.drivers.qcow2.reader import Reader
from qmpfleece.block.drivers.qcow2.tables import Table

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

#: Up to this size data and copied parts are put together and written at once.
_MERGE: Final = 256 * KIB


class _Plan(NamedTuple):
    """How to write the beginning of a request that needs clusters.

    Attributes:
        start: Offset of the first cluster on the disk.
        clusters: How many.
        host: Where they are in the file, -1 when they have to be allocated.
        head: Where on the disk copying begins.
        end: Where the data ends.
        tail: Where copying ends.
        untouched: Whether the file reads as zeroes there.
    """

    start: int
    clusters: int
    host: int
    head: int
    end: int
    tail: int
    untouched: bool = False


class Writer:
    """Writes data to an image."""

    def __init__(self, image: "Image", clusters: Clusters, reader: Reader) -> None:
        self._image = image
        self._clusters = clusters
        self._reader = reader
        self._geometry = image.geometry
        self._with_data_file = image.data is not image.file

    async def pwrite(self, offset: int, buf: memoryview) -> None:
        """Write ``buf`` at ``offset``.

        Raises:
            OSError: EIO: the image is corrupt; else what the file or the backing file says.
        """
        image, clusters = self._image, self._clusters
        position, length = 0, len(buf)
        while position < length:
            at = offset + position
            run = clusters.lookup(at, length - position, writing=True)
            if run is None:
                await clusters.load(at)
                continue
            if run.kind == Kind.NORMAL and run.copied:
                part = run.length
                await self._write_data(
                    run.host, buf if part == length else buf[position : position + part]
                )
            else:
                part = await self._allocating_write(at, buf[position:])
            position += part
        if image.journal.overfull:
            await image.journal.flush()

    async def _write_data(self, host: int, buf: memoryview) -> None:
        image = self._image
        self._check_place(host, len(buf))
        with image.journal.epoch:
            if image.debug is not None:
                await image.note("write_aio")
            await pipeline.pwrite(image.data, host, buf)

    def _check_place(self, host: int, length: int) -> None:
        """Refuse to write data where metadata is."""
        image = self._image
        if not self._with_data_file and (found := image.overlap.find(host, length)):
            raise image.corrupt_write(found, host, length)

    # -- allocating -----------------------------------------------------------------------

    async def _allocating_write(self, at: int, buf: memoryview) -> int:
        """Write the beginning of ``buf``; returns how many bytes, 0 to look again."""
        image, geometry = self._image, self._geometry
        start = align_down(at, geometry.cluster_size)
        if await image.allocating.wait_one(start, geometry.cluster_size):
            return 0
        place = self._clusters.peek_to_change(at)
        if place is None:
            await self._clusters.prepare(at)
            return 0
        plan = self._plan(*place, at, len(buf))
        if plan is None:
            return 0
        request = image.allocating.add(plan.start, plan.clusters * geometry.cluster_size)
        try:
            if plan.host < 0:
                first, count = await image.refcounts.allocate(plan.clusters)
                plan = self._allocated(plan, first << geometry.cluster_bits, count)
                try:
                    await self._write_around(plan, at, buf)
                    dropped = await self._link(plan)
                except BaseException as error:
                    image.journal.free(first, count, discard=image.discard_other)
                    if await image.journal.found_room(error, first):
                        return 0
                    raise
            else:
                self._check_place(plan.host + at - plan.start, plan.end - at)
                await self._write_around(plan, at, buf)
                dropped = await self._link(plan)
            if dropped:  # told here, where who is cancelled does not give back what is linked
                await image.note("cluster_free")
        finally:
            request.remove()
        return plan.end - at

    def _allocated(self, plan: _Plan, host: int, count: int) -> _Plan:
        """Return the plan with its clusters, cut down to what could be had."""
        start, _, _, head, end, tail, _ = plan
        if count != plan.clusters:
            end = tail = start + count * self._geometry.cluster_size
        untouched = self._image.refcounts.last_was_untouched
        return _Plan(start, count, host, head, end, tail, untouched)

    def _plan(self, table: Table, index: int, at: int, length: int) -> _Plan | None:
        """Decide what to do from ``at`` on; None when there is nothing to allocate any more."""
        size = self._geometry.cluster_size
        start = align_down(at, size)
        most = min(
            (at + length - start + size - 1) // size,
            self._geometry.slice_entries - index,
        )
        if most > 1:
            for request in self._image.allocating:
                if start < request.offset < start + most * size:
                    most = (request.offset - start) // size
        if self._geometry.extended:
            return self._plan_extended(table, index, at, length, most)
        host, count = self._run_to_change(table, index, start, most)
        if not count:
            return None
        stop = start + count * size
        end = min(at + length, stop)
        return _Plan(start, count, host, start, end, stop)

    def _run_to_change(self, table: Table, index: int, start: int, most: int) -> tuple[int, int]:
        """Return host offset, -1 for new clusters, and number of clusters that are alike."""
        words = table.words
        first = words[index]
        if _reusable(first):
            if not first & ZERO:
                return 0, 0
            count = 1
            while count < most and words[index + count] == first + (
                count << self._geometry.cluster_bits
            ):
                count += 1
            return first & OFFSET_MASK, count
        count = 1
        while count < most and not _reusable(words[index + count]):
            if self._with_data_file and words[index + count] & COPIED:
                break
            count += 1
        return (start if self._with_data_file else -1), count

    def _plan_extended(
        self, table: Table, index: int, at: int, length: int, most: int
    ) -> _Plan | None:
        geometry, words = self._geometry, table.words
        size, unit = geometry.cluster_size, geometry.subcluster_size
        start = align_down(at, size)
        word, bitmap = words[2 * index], words[2 * index + 1]
        if _reusable(word) or (self._with_data_file and word & COPIED):
            end = min(at + length, start + size)
            first, last = (at - start) // unit, (end - 1 - start) // unit
            mask = (1 << last + 1) - (1 << first)
            if bitmap & mask == mask:
                return None
            head = at if bitmap >> first & 1 else align_down(at, unit)
            tail = end if bitmap >> last & 1 else align_up(end, unit)
            return _Plan(start, 1, word & OFFSET_MASK, head, end, tail)
        count = 1
        while count < most and not _reusable(words[2 * (index + count)]):
            if self._with_data_file and words[2 * (index + count)] & COPIED:
                break
            count += 1
        stop = start + count * size
        end = min(at + length, stop)
        head = min(start + _data_of(word, bitmap)[0] * unit, align_down(at, unit))
        last = index + count - 1
        rest = _data_of(words[2 * last], words[2 * last + 1])[1] * unit
        tail = max(stop - size + rest, align_up(end, unit))
        return _Plan(start, count, start if self._with_data_file else -1, head, end, tail)

    async def _write_around(self, plan: _Plan, at: int, buf: memoryview) -> None:
        """Write the data, and before and behind it what the disk shows there now."""
        image, read = self._image, self._reader.pread
        data = buf[: plan.end - at]
        host = plan.host - plan.start
        if plan.head == at and plan.tail == plan.end:
            if image.debug is not None:
                await image.note("write_aio")
            await pipeline.pwrite(image.data, host + at, data)
            return
        if (
            plan.untouched
            and self._is_zero(plan.head, at)
            and self._is_zero(plan.end, plan.tail)
            and image.file.node.driver.is_past_end(plan.host)
        ):
            if image.debug is not None:
                await image.note("cluster_alloc_space")
                await image.note("write_aio")
            await pipeline.pwrite(image.data, host + at, data)
            return
        if plan.tail - plan.head <= _MERGE:
            whole = memoryview(bytearray(plan.tail - plan.head))
            await image.note("cow_read")
            if plan.head < at:
                await read(plan.head, whole[: at - plan.head])
            if plan.end < plan.tail:
                await read(plan.end, whole[plan.end - plan.head :])
            whole[at - plan.head : plan.end - plan.head] = data
            await image.note("write_aio")
            await image.note("cow_write")
            await pipeline.pwrite(image.data, host + plan.head, whole)
            return
        await image.note("write_aio")
        await pipeline.pwrite(image.data, host + at, data)
        for first, last in ((plan.head, at), (plan.end, plan.tail)):
            if first < last:
                around = memoryview(bytearray(last - first))
                await image.note("cow_read")
                await read(first, around)
                await image.note("cow_write")
                await pipeline.pwrite(image.data, host + first, around)

    def _is_zero(self, start: int, end: int) -> bool:
        """Return whether this part of the disk is known to read as zeroes, or is empty."""
        if start >= end:
            return True
        run = self._clusters.lookup(start, end - start)
        if run is None or run.length != end - start:
            return False
        if run.kind == Kind.UNALLOCATED:
            backing = self._reader.backing
            return backing is None or start >= backing.node.length
        return run.kind == Kind.ZERO_PLAIN

    async def _link(self, plan: _Plan) -> int:
        """Enter the clusters into the L2 table, in one step; returns how many were dropped."""
        table, index = await self._clusters.to_change(plan.start)
        words, size = table.words, self._geometry.cluster_size
        table.dirty = True
        dropped = 0
        for number in range(plan.clusters):
            host = plan.host + number * size
            if self._geometry.extended:
                start = plan.start + number * size
                first = max(plan.head, start) - start
                last = min(plan.tail, start + size) - start
                old = self._link_extended(table, 2 * (index + number), host, first, last)
            else:
                old = words[index + number]
                words[index + number] = host | COPIED
            if old and (old & COMPRESSED or old & OFFSET_MASK != host):
                dropped += self._clusters.drop_reference(old)[1]
        return dropped

    def _link_extended(self, table: Table, at: int, host: int, first: int, last: int) -> int:
        """Enter one cluster of which the bytes from ``first`` to ``last`` are written."""
        words, unit = table.words, self._geometry.subcluster_size
        old, bitmap = words[at], words[at + 1]
        mask = (1 << -(-last // unit)) - (1 << first // unit)
        if old & COMPRESSED:
            bitmap = 0
        words[at] = host | COPIED
        words[at + 1] = (bitmap | mask) & ~(mask << SUBCLUSTERS)
        return old


def _reusable(word: int) -> bool:
    """Return whether an entry has a cluster that nobody else refers to."""
    return bool(word & COPIED and word & OFFSET_MASK and not word & COMPRESSED)


def _data_of(word: int, bitmap: int) -> tuple[int, int]:
    """Return the first subcluster with data of a cluster to be replaced, and the end of it all."""
    if word & COMPRESSED:
        return 0, SUBCLUSTERS
    data = bitmap & ALL_ALLOCATED
    return ((data & -data).bit_length() - 1 if data else SUBCLUSTERS), data.bit_length()

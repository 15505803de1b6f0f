"""Reading: each run from where it lies, straight into the caller's buffer."""

import errno
from typing import TYPE_CHECKING

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError
from qmpfleece.base.workers import WorkerQueue
from qmpfleece.block import pipeline
from qmpfleece.block.child import Child
from qmpfleece.block.driver import Extent, Io, Status
from qmpfleece.block.drivers.qcow2 import compression
from qmpfleece.block.drivers.qcow2.clusters import Clusters, Kind, Run
from qmpfleece.block.drivers.qcow2.image import read_padded
from qmpfleece.block.places import Places
from qmpfleece.block.status import block_status

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

_FLAGS = {
    Kind.UNALLOCATED: 0,
    Kind.ZERO_PLAIN: Status.ZERO | Status.ALLOCATED,
    Kind.ZERO_ALLOCATED: Status.ZERO | Status.ALLOCATED | Status.OFFSET_VALID,
    Kind.UNALLOCATED_HOST: Status.OFFSET_VALID,
    Kind.NORMAL: Status.DATA | Status.ALLOCATED | Status.OFFSET_VALID,
    Kind.COMPRESSED: Status.DATA | Status.ALLOCATED | Status.COMPRESSED,
}


class Reader:
    """Reads the disk.

    Args:
        image: The image.
        clusters: Its clusters.
        queue: Where clusters are decompressed.
    """

    def __init__(self, image: "Image", clusters: Clusters, queue: WorkerQueue) -> None:
        self._image = image
        self._clusters = clusters
        self._queue = queue

    @property
    def backing(self) -> Child | None:
        """The backing file."""
        return self._image.node.children.get("backing")

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Fill ``buf`` from ``offset``.

        Raises:
            OSError: EIO: the image is corrupt; else what the file or the backing file says.
        """
        length = len(buf)
        run = self._clusters.lookup(offset, length) if length else None
        if run is not None and run.kind == Kind.NORMAL and run.length == length:
            return self._read_data(run.host, buf)
        return self._read_runs(offset, buf)

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Find runs of data, as far as the tables are in memory; they keep their place."""
        image = self._image
        if image.debug is not None:
            return False
        while length:
            run = self._clusters.lookup(offset, length)
            if run is None or run.kind != Kind.NORMAL:
                return False
            if not pipeline.locate(image.data, run.host, run.length, places):
                return False
            offset += run.length
            length -= run.length
        epoch = image.journal.epoch
        epoch.enter()
        places.held.append(epoch.leave)
        return True

    def _read_data(self, host: int, buf: memoryview) -> Io:
        """Read clusters that lie one behind the other, which keep their place meanwhile."""
        image = self._image
        if image.debug is not None or host + len(buf) > image.data.node.length:
            return self._holding_places(self._read_told(host, buf))
        io = pipeline.pread(image.data, host, buf)
        return io if io is DONE else self._holding_places(io)

    async def _holding_places(self, io: Io) -> None:
        with self._image.journal.epoch:
            await io

    async def _read_told(self, host: int, buf: memoryview) -> None:
        """Read what reaches past the end of the file, or once who listens knows of it."""
        image = self._image
        if image.debug is not None:
            await image.note("read_aio")
        await read_padded(image.data, host, buf)

    async def _read_runs(self, offset: int, buf: memoryview) -> None:
        """Read run by run."""
        clusters = self._clusters
        position, length = 0, len(buf)
        while position < length:
            run = clusters.lookup(offset + position, length - position)
            if run is None:
                await clusters.load(offset + position)
                continue
            kind, host, part = run.kind, run.host, run.length
            view = buf if part == length else buf[position : position + part]
            if kind == Kind.NORMAL:
                await self._read_data(host, view)
            elif kind == Kind.COMPRESSED:
                await self._read_compressed(host, offset + position, view)
            elif kind in {Kind.ZERO_PLAIN, Kind.ZERO_ALLOCATED}:
                view[:] = bytes(part)
            else:
                await self._read_backing(offset + position, view)
            position += part

    async def _read_backing(self, offset: int, buf: memoryview) -> None:
        """Read what the backing file has; zeroes behind its end or where there is none."""
        backing = self.backing
        if backing is None:
            buf[:] = bytes(len(buf))
        else:
            await self._image.note("read_backing_aio")
            await read_padded(backing, offset, buf)

    async def _read_compressed(self, entry: int, offset: int, buf: memoryview) -> None:
        image = self._image
        known, cluster = image.decompressed
        if known != entry:
            cluster = await self._decompress(entry)
        within = offset % image.geometry.cluster_size
        buf[:] = memoryview(cluster)[within : within + len(buf)]

    async def _decompress(self, entry: int) -> bytes:
        image = self._image
        place, length = image.geometry.compressed(entry)
        data = bytearray(length)
        with image.journal.epoch:
            await image.note("read_compressed")
            await read_padded(image.file, place, memoryview(data))
            try:
                cluster = await self._queue.submit(
                    compression.decompress,
                    image.header.compression,
                    data,
                    image.geometry.cluster_size,
                )
            except ValueError as error:
                raise BlockError(errno.EIO) from error
            # Remembered before others may use its place: it is forgotten when they do.
            image.decompressed = (entry, cluster)
        return cluster

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return runs; see ``BlockDriver.block_status``."""
        clusters = self._clusters
        extents: list[Extent] = []
        end = offset + length
        while offset < end:
            run = clusters.lookup(offset, end - offset)
            if run is None:
                await clusters.load(offset)
                continue
            found = [self._extent(run)]
            if run.kind == Kind.NORMAL and await self._may_be_empty():
                found = await self._look_below(run, limit)
            for extent in found:
                if not _merge(extents, extent):
                    if len(extents) == limit:
                        return extents
                    extents.append(extent)
            offset += sum(extent.length for extent in found)
        return extents

    def _extent(self, run: Run) -> Extent:
        flags = _FLAGS[run.kind]
        if flags & Status.OFFSET_VALID:
            return Extent(run.length, flags, run.host, self._image.data.node)
        return Extent(run.length, flags)

    async def _may_be_empty(self) -> bool:
        """Tell whether more clusters are in use than the file has: some were allocated ahead.

        Source: QEMU looks into the file under preallocation only, as that is slow.
        """
        image = self._image
        if image.metadata_preallocation is None:
            try:
                image.metadata_preallocation = await self._is_fuller_than_the_file()
            except OSError:
                # Source: QEMU takes one that can't be counted for one without.
                image.metadata_preallocation = False
        return image.metadata_preallocation

    async def _is_fuller_than_the_file(self) -> bool:
        image = self._image
        occupied = await image.file.node.driver.allocated_size()
        if occupied is None:
            return False
        clusters = occupied >> image.geometry.cluster_bits
        many = max(clusters * 10 // 9, clusters + 2)
        # Counted only if it can be so, as the blocks of a large image take a while to read.
        if many > image.geometry.clusters(image.file.node.length):
            return False
        return await image.refcounts.in_use(many) >= many

    async def _look_below(self, run: Run, limit: int) -> list[Extent]:
        """Return the extents of a run of data, with what the file knows to be zeroes.

        A cluster may lie behind the end of the file, where nothing has been written to it.
        """
        node = self._image.data.node
        extents, host, end = [], run.host, run.host + run.length
        inside = min(end, node.length) - host
        for below in await block_status(node, host, inside, limit) if inside > 0 else ():
            flags = _FLAGS[Kind.NORMAL] | (below.flags & Status.ZERO)
            extents.append(Extent(below.length, flags, host, node))
            host += below.length
        if host < end and host >= node.length:
            extents.append(Extent(end - host, _FLAGS[Kind.NORMAL] | Status.ZERO, host, node))
        return extents


def _merge(extents: list[Extent], extent: Extent) -> bool:
    """Lengthen the last extent by one that continues it; False if it does not."""
    if not extents:
        return False
    last = extents[-1]
    if last.flags != extent.flags or last.node is not extent.node:
        return False
    if extent.host_offset >= 0 and last.host_offset + last.length != extent.host_offset:
        return False
    extents[-1] = last._replace(length=last.length + extent.length)
    return True

"""Writing compressed clusters, for backups. Source: QEMU's BDRV_REQ_WRITE_COMPRESSED."""

import errno
from typing import TYPE_CHECKING

from qmpfleece.base.errors import BlockError
from qmpfleece.base.workers import WorkerQueue
from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2 import compression
from qmpfleece.block.drivers.qcow2.clusters import Clusters
from qmpfleece.block.drivers.qcow2.layout import COMPRESSED, OFFSET_MASK
from qmpfleece.block.drivers.qcow2.writer import Writer

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image


class Compressor:
    """Writes compressed clusters.

    Args:
        image: The image.
        clusters: Its clusters.
        writer: Writes what compression does not make smaller.
        queue: Where clusters are compressed.
    """

    def __init__(
        self, image: "Image", clusters: Clusters, writer: Writer, queue: WorkerQueue
    ) -> None:
        self._image = image
        self._clusters = clusters
        self._writer = writer
        self._queue = queue

    async def pwrite(self, offset: int, buf: memoryview) -> None:
        """Write whole clusters, each compressed if that makes it smaller.

        The last cluster of the disk may be cut short by its end.

        Raises:
            OSError: ENOTSUP: there is an external data file; EINVAL: not whole clusters;
                EIO: one has data already; else what the file says.
        """
        image = self._image
        size = image.geometry.cluster_size
        if image.data is not image.file:
            raise BlockError(errno.ENOTSUP)
        end = offset + len(buf)
        if offset % size or (end % size and end < image.size):
            raise BlockError(errno.EINVAL)
        for start in range(0, len(buf), size):
            await self._pwrite_cluster(offset + start, buf[start : start + size])
        if image.journal.overfull:
            await image.journal.flush()

    async def _pwrite_cluster(self, offset: int, buf: memoryview) -> None:
        image, size = self._image, self._image.geometry.cluster_size
        data = bytes(buf) + bytes(size - len(buf))
        packed = await self._queue.submit(compression.compress, image.header.compression, data)
        if packed is None:
            await self._writer.pwrite(offset, buf)
            return
        while await image.allocating.wait_one(offset, size):
            pass
        request = image.allocating.add(offset, size)
        try:
            while not await self._store(offset, packed):
                pass
        finally:
            request.remove()

    async def _store(self, offset: int, packed: bytes) -> bool:
        """Write compressed data; False where there was no space for it, but is now."""
        image = self._image
        await self._check_free(offset)
        place = await image.refcounts.allocate_bytes(len(packed))
        try:
            await image.note("write_compressed")
            await pipeline.pwrite(image.file, place, memoryview(packed))
            table, index = await self._clusters.to_change(offset)
        except BaseException as error:
            entry = image.geometry.compressed_entry(place, len(packed))
            first, _ = self._clusters.drop_reference(entry)
            if await image.journal.found_room(error, first):
                image.refcounts.leave_cluster(first)
                return False
            raise
        at = index * image.geometry.entry_words
        table.words[at] = image.geometry.compressed_entry(place, len(packed))
        if image.geometry.extended:
            table.words[at + 1] = 0
        table.dirty = True
        return True

    async def _check_free(self, offset: int) -> None:
        """Refuse where there is a cluster already, as compressed data never replaces one."""
        table, index = await self._clusters.to_change(offset)
        word = table.words[index * self._image.geometry.entry_words]
        if word & (COMPRESSED | OFFSET_MASK):
            raise BlockError(errno.EIO)

"""Reading: each run from where it lies, straight into the caller's buffer."""

import errno
from typing import TYPE_CHECKING

from qmpfleece.base.errors import BlockError
from qmpfleece.base.workers import WorkerQueue
from qmpfleece.block.child import Child
from qmpfleece.block.driver import Extent, Status
from qmpfleece.block.drivers.qcow2 import compression
from qmpfleece.block.drivers.qcow2.clusters import Clusters, Kind
from qmpfleece.block.drivers.qcow2.image import read_padded

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

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Fill ``buf`` from ``offset``.

        Raises:
            OSError: EIO: the image is corrupt; else what the file or the backing file says.
        """
        image, clusters = self._image, self._clusters
        position, length = 0, len(buf)
        while position < length:
            run = clusters.lookup(offset + position, length - position)
            if run is None:
                await clusters.load(offset + position)
                continue
            kind, host, part, _ = run
            view = buf if part == length else buf[position : position + part]
            if kind == Kind.NORMAL:
                epoch = image.journal.epoch
                epoch.users += 1
                try:
                    if image.debug is not None:
                        await image.debug("read_aio")
                    await read_padded(image.data, host, view)
                finally:
                    epoch.users -= 1
            elif kind == Kind.COMPRESSED:
                await self._read_compressed(host, offset + position, view)
            elif kind in {Kind.ZERO_PLAIN, Kind.ZERO_ALLOCATED}:
                view[:] = bytes(part)
            else:
                await self.read_backing(offset + position, view)
            position += part

    async def read_backing(self, offset: int, buf: memoryview) -> None:
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
        epoch = image.journal.epoch
        epoch.users += 1
        try:
            await image.note("read_compressed")
            await read_padded(image.file, place, memoryview(data))
            cluster = await self._queue.submit(
                compression.decompress,
                image.header.compression,
                data,
                image.geometry.cluster_size,
            )
            # Remembered before others may use its place: it is forgotten when they do.
            image.decompressed = (entry, cluster)
        except ValueError as error:
            raise BlockError(errno.EIO) from error
        finally:
            epoch.users -= 1
        return cluster

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return runs; see ``BlockDriver.block_status``."""
        image, clusters = self._image, self._clusters
        extents: list[Extent] = []
        end = offset + length
        while offset < end:
            run = clusters.lookup(offset, end - offset)
            if run is None:
                await clusters.load(offset)
                continue
            flags = _FLAGS[run.kind]
            valid = flags & Status.OFFSET_VALID
            host = run.host if valid else -1
            node = image.data.node if valid else None
            last = extents[-1] if extents else None
            if (
                last is not None
                and last.flags == flags
                and (not valid or last.host_offset + last.length == host)
            ):
                extents[-1] = last._replace(length=last.length + run.length)
            elif len(extents) == limit:
                break
            else:
                extents.append(Extent(run.length, flags, host, node))
            offset += run.length
        return extents

"""The driver: the verbs, put together from the parts of this package."""

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any, ClassVar, TypeVar

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError, QmpError, errno_of
from qmpfleece.base.units import SECTOR, align_down, align_up
from qmpfleece.base.workers import WorkerQueue
from qmpfleece.block import pipeline
from qmpfleece.block.child import Child
from qmpfleece.block.driver import (
    BlockDriver,
    Extent,
    Io,
    Opener,
    Reopening,
    ReqFlags,
    fail,
    register,
)
from qmpfleece.block.drivers.qcow2 import extensions, info, opening, settings
from qmpfleece.block.drivers.qcow2.backing import open_backing
from qmpfleece.block.drivers.qcow2.bitmaps import Bitmaps
from qmpfleece.block.drivers.qcow2.check import Recount
from qmpfleece.block.drivers.qcow2.clusters import Clusters
from qmpfleece.block.drivers.qcow2.compress import Compressor
from qmpfleece.block.drivers.qcow2.discard import Discarder
from qmpfleece.block.drivers.qcow2.header import Header
from qmpfleece.block.drivers.qcow2.image import Image
from qmpfleece.block.drivers.qcow2.layout import Autoclear, Incompatible, named
from qmpfleece.block.drivers.qcow2.options import Qcow2Options
from qmpfleece.block.drivers.qcow2.reader import Reader
from qmpfleece.block.drivers.qcow2.reopen import MUTABLE, Reopener
from qmpfleece.block.drivers.qcow2.resize import Resizer
from qmpfleece.block.drivers.qcow2.snapshotting import Snapshotter
from qmpfleece.block.drivers.qcow2.writer import Writer
from qmpfleece.block.hostfile.names import file_definition
from qmpfleece.block.perm import Perm, Role
from qmpfleece.block.places import Places
from qmpfleece.qapi.blockdev import BlockdevOptions, validate_blockdev

T = TypeVar("T")


class Qcow2(BlockDriver[Qcow2Options]):
    """An image in qcow2 format, version 2 or 3."""

    driver_name = "qcow2"

    strong_options: ClassVar[tuple[str, ...]] = ("encrypt",)
    mutable_options: ClassVar[frozenset[str] | None] = MUTABLE
    zero_flags = ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK
    supports_backing = True
    compresses = True
    holds_metadata = True

    image: Image
    _loaded = False
    #: The file name of the backing file that the image names, and whether it was opened by it.
    _expected_backing = ""
    _found_backing = False
    _clusters: Clusters
    _reader: Reader
    _writer: Writer
    _discarder: Discarder
    _compressor: Compressor
    _resizer: Resizer
    _snapshotter: Snapshotter
    _queue: WorkerQueue
    _bitmaps: Bitmaps
    _reopener: Reopener | None = None

    # -- opening, closing -----------------------------------------------------------------

    async def open(self, opener: Opener) -> None:
        """Open the image, its data file and its backing file."""
        options, node = self.options, self.node
        header = await self._open_file(opener)
        data = await self._open_data_file(opener, header)
        try:
            opening.check_tables(header)
            image = await opening.load(node, self._file, data, header, options)
        except OSError as error:
            raise QmpError(f"Could not open image: {error.strerror}") from error
        image.events = opener.events
        self.image = image
        self._bitmaps = Bitmaps(image)
        self._loaded = True
        node.length = align_down(header.size, SECTOR)
        backing = await open_backing(opener, options, header, self._file.node)
        self._found_backing = backing is not None and "backing" not in options.model_fields_set
        if backing is not None and self._found_backing:
            self._expected_backing = backing.node.exact_filename
        else:
            self._expected_backing = header.backing_name  # as it stands there, as QEMU does
        self._queue = opener.workers.queue(limit=4)
        self._clusters = Clusters(image)
        self._reader = Reader(image, self._clusters, self._queue)
        self._writer = Writer(image, self._clusters, self._reader)
        self._discarder = Discarder(image, self._clusters, self._reader, self._writer)
        self._compressor = Compressor(image, self._clusters, self._writer, self._queue)
        self._snapshotter = Snapshotter(image)
        self._resizer = Resizer(image, self._clusters, self._reader, self._writer, self._discarder)
        self._resizing = asyncio.Lock()
        try:
            await self._watch(self._take_possession())
        except OSError as error:
            raise QmpError(f"Could not update qcow2 header: {error.strerror}") from error
        image.cleaner.start(settings.clean_interval(options))

    async def _take_possession(self) -> None:
        image, bitmaps = self.image, self._bitmaps
        if image.writable:
            await opening.clear_unknown_autoclear(image)
        await bitmaps.load()
        if image.header.incompatible & Incompatible.DIRTY and image.writable:
            await Recount(image).run(bitmaps.entries, bitmaps.directory)
        await bitmaps.claim()

    async def _open_file(self, opener: Opener) -> Header:
        self._file = await opener.open_child("file", self.options.file, Role.IMAGE)
        header = await opening.read_header(self._file, writable=not self.node.read_only)
        if self.options.encrypt is not None:
            raise QmpError(
                "No encryption in image header, but options specified format"
                f" '{self.options.encrypt.format}'"
            )
        return header

    async def _open_data_file(self, opener: Opener, header: Header) -> Child | None:
        given: str | BlockdevOptions | None = self.options.data_file
        if given is None and (name := header.extension(extensions.DATA_FILE)) is not None:
            given = validate_blockdev(file_definition(os.fsdecode(named(name))))
        data = None
        if given is not None:
            data = await opener.open_child("data-file", given, Role.DATA)
        if header.data_file:
            if data is None:
                raise QmpError("'data-file' is required for this image")
        elif data is not None:
            raise QmpError("'data-file' can only be set for images with an external data file")
        elif header.autoclear & Autoclear.DATA_FILE_RAW:
            raise QmpError("data-file-raw requires a data file")
        return data

    async def close(self) -> None:
        """Write everything that is not written yet; what fails is said, and given up."""
        if not self._loaded:
            return
        image = self.image
        image.cleaner.stop()
        if not image.dead:
            await self._store_bitmaps()
        if image.writable:
            await self._write_all()
        await image.mark_corrupt()

    async def _write_all(self) -> None:
        image = self.image
        try:
            await image.journal.settle()
        except OSError as error:
            for name, cache in (("L2 table", image.l2), ("refcount block", image.blocks)):
                if any(table.dirty for table in cache):
                    sys.stderr.write(f"Failed to flush the {name} cache: {error.strerror}\n")
            return
        # As in QEMU nobody is told: whoever opens the image next counts once more.
        with contextlib.suppress(OSError):
            await image.header_writer.clear_dirty_bit()

    async def _store_bitmaps(self) -> None:
        """Store the persistent bitmaps; what fails is said, the rest is closed all the same."""
        try:
            await self._bitmaps.store()
        except QmpError as error:
            sys.stderr.write(
                f"Lost persistent bitmaps during inactivation of node '{self.node.name}':"
                f" {error.desc}\n"
            )

    # -- reopening ------------------------------------------------------------------------

    async def reopen_prepare(self, change: Reopening[Qcow2Options]) -> None:
        """Check the options; store bitmaps if the image becomes read-only."""
        self._reopener = Reopener(self.image, self._bitmaps)
        await self._watch(self._reopener.prepare(change))

    def reopen_commit(self) -> None:
        """Put the options in force."""
        if self._reopener is not None:
            self._reopener.commit()

    async def reopen_abort(self) -> None:
        """Go on with the old ones."""
        if self._reopener is not None:
            await self._watch(self._reopener.abort())
            self._reopener = None

    async def reopen_finish(self) -> None:
        """Mark bitmaps in use if the image has become writable."""
        if self._reopener is not None:
            await self._watch(self._reopener.finish())
            self._reopener = None

    def child_perms(self, child: str, role: Role, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
        """Return the default ones; who resizes the disk has zeroes written where it was cut."""
        if child == "data-file" and perm & Perm.RESIZE:
            perm |= Perm.WRITE
        return super().child_perms(child, role, perm, shared)

    # -- requests -------------------------------------------------------------------------

    def _guard(self, request: Coroutine[Any, Any, None]) -> Io:
        """Run a request, unless corruption was found before."""
        if self.image.dead:
            request.close()
            return self._refuse()
        return self._watch(request)

    async def _refuse(self) -> None:
        """Refuse a request, as the image was given up; mark it if nobody has yet."""
        # What ``locate`` has found is told by the read that it was asked for, as that comes next;
        # or by the request of another client, if that was sooner.
        first = await self.image.mark_corrupt()
        raise BlockError(errno.EIO if first else errno.ENOMEDIUM)

    async def _watch(self, io: Awaitable[T]) -> T:
        """Await whatever may find corruption; mark the image if it does."""
        try:
            result = await io
        except (OSError, QmpError):
            await self.image.mark_corrupt()
            raise
        if self.image.dead:  # found by what may fail
            await self.image.mark_corrupt()
        return result

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read; see ``Reader.pread``."""
        if self.image.dead:
            return self._refuse()
        try:
            io = self._reader.pread(offset, buf)
        except OSError as error:
            return self._watch(fail(errno_of(error)))
        return io if io is DONE else self._watch(io)

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Find plain data in the file of a sound image."""
        try:
            return not self.image.dead and self._reader.locate(offset, length, places)
        except OSError:
            return False  # the read that follows says so, and marks the image

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Write; see ``Writer.pwrite``."""
        if offset + len(buf) > self.node.length:
            return self._guard(self._grow_and_write(offset, buf))
        return self._guard(self._writer.pwrite(offset, buf))

    async def _grow_and_write(self, offset: int, buf: memoryview) -> None:
        """Write past the end, which only a format that lies in this disk may do.

        Where the disk is just growing nothing is written before all that is new reads as zeroes.
        """
        end = align_up(offset + len(buf), SECTOR)
        async with self._resizing:
            if end > self.image.size:
                before = self.image.size
                await self._truncate(end)
                try:
                    pipeline.set_length(self.node, end)  # it stays, whatever becomes of the write
                except OSError:
                    await self._truncate(before)
                    raise
        await self._writer.pwrite(offset, buf)

    async def _resize(self, length: int) -> None:
        async with self._resizing:
            await self._truncate(length)

    async def _truncate(self, length: int) -> None:
        await self._resizer.truncate(length)
        opening.limit_caches(self.image, settings.cache_sizes(self.options, self.image.header))

    def pwrite_zeroes(self, offset: int, length: int, flags: int) -> Io:
        """Write zeroes; see ``Discarder.pwrite_zeroes``."""
        if offset + length > self.node.length:
            return fail(errno.ENOTSUP)
        return self._guard(self._discarder.pwrite_zeroes(offset, length, flags))

    def pdiscard(self, offset: int, length: int) -> Io:
        """Discard; see ``Discarder.pdiscard``."""
        return self._guard(self._discarder.pdiscard(offset, length))

    def flush(self) -> Io:
        """Write all metadata; see ``Journal``. The file is flushed afterwards."""
        return self._guard(self.image.journal.flush())

    async def truncate(self, length: int) -> int:
        """Resize; see ``Resizer.truncate``."""
        if self.image.dead:
            raise BlockError(errno.ENOMEDIUM, "No medium inserted")
        await self._watch(self._resize(length))
        return length

    def pwrite_compressed(self, offset: int, buf: memoryview) -> Io:
        """Write whole clusters compressed; see ``Compressor.pwrite``."""
        return self._guard(self._compressor.pwrite(offset, buf))

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return runs of clusters."""
        if self.image.dead:
            await self._refuse()
        return await self._watch(self._reader.block_status(offset, length, limit))

    # -- internal snapshots ---------------------------------------------------------------

    def internal_snapshots(self) -> list[dict[str, Any]]:
        """Return ``SnapshotInfo`` of all; see ``InternalSnapshots``."""
        if self.image.data is not self._file:
            raise BlockError(errno.ENOTSUP)
        return [info.snapshot_info(snapshot) for snapshot in self.image.snapshots]

    async def take_snapshot(self, name: str, date_ns: int, clock_ns: int) -> str:
        """Take one and return its id; see ``InternalSnapshots``."""
        taken = await self._watch(self._snapshotter.take(name, date_ns, clock_ns))
        return taken.snapshot_id

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete one; see ``InternalSnapshots``."""
        if not self.image.writable:
            raise BlockError(errno.EPERM)
        for snapshot in self.image.snapshots:
            if snapshot.snapshot_id == snapshot_id:
                await self._watch(self._snapshotter.delete(snapshot))
                return
        raise BlockError(errno.ENOENT)

    # -- persistent bitmaps ---------------------------------------------------------------

    def bitmap_refusal(self, name: str, granularity: int) -> str | None:
        """Return why the image can't store a new bitmap; see ``PersistentBitmaps``."""
        return self._bitmaps.refusal(name, granularity)

    async def remove_persistent_bitmap(self, name: str) -> None:
        """Remove a bitmap from the image, unless that was given up; see ``PersistentBitmaps``."""
        if not self.image.dead:
            await self._watch(self._bitmaps.remove(name))

    # -- what queries ask -----------------------------------------------------------------

    @property
    def has_medium(self) -> bool:
        """Whether the image has not been given up as corrupt."""
        return not self.image.dead

    @property
    def cluster_size(self) -> int:
        """The cluster size."""
        return self.image.geometry.cluster_size

    @property
    def vm_state_offset(self) -> int:
        """The first byte that no L2 table of the disk maps."""
        geometry = self.image.geometry
        return geometry.l1_entries(self.node.length) * geometry.l2_span

    @property
    def names_backing(self) -> bool:
        """Whether the header names a backing file."""
        return bool(self.image.header.backing_name)

    async def change_backing(self, name: str, backing_format: str) -> None:
        """Write the name and the format into the header; what is open stays open."""
        await info.change_backing(self.image, name, backing_format)
        self._expected_backing = name  # as it stands there, as QEMU does
        self._found_backing = False
        self.node.described_anew()

    @property
    def overrides_backing(self) -> bool:
        """Whether the backing file is another than the one that would be found by its name."""
        backing = self.node.children.get("backing")
        if backing is None:
            return bool(self._expected_backing)
        shown = backing.node.exact_filename
        return shown != self._expected_backing or not (shown or self._found_backing)

    def exact_filename(self) -> str:
        """The file's, if the backing file is the one that would be found by it."""
        return "" if self.overrides_backing else self._file.node.exact_filename

    def image_info(self) -> dict[str, Any]:
        """Return what only the driver knows; see ``BlockDriver.image_info``."""
        return info.image_info(self.image, self._bitmaps.entries)

    async def allocated_size(self) -> int | None:
        """Return what image and data file occupy together."""
        sizes = [await self._file.node.driver.allocated_size()]
        if self.image.data is not self._file:
            sizes.append(await self.image.data.node.driver.allocated_size())
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


register(Qcow2, __name__)

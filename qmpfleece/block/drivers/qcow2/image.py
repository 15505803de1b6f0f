"""What all parts of the driver share: the header, the tables, the children, corruption."""

import asyncio
import contextlib
import errno
import sys
from array import array
from typing import TYPE_CHECKING

from qmpfleece.base.errors import BlockError
from qmpfleece.block import pipeline
from qmpfleece.block.child import Child
from qmpfleece.block.drivers.qcow2.cleaning import Cleaner
from qmpfleece.block.drivers.qcow2.events import BlockImageCorrupted
from qmpfleece.block.drivers.qcow2.header import Header
from qmpfleece.block.drivers.qcow2.header_writer import HeaderWriter
from qmpfleece.block.drivers.qcow2.journal import Journal
from qmpfleece.block.drivers.qcow2.layout import Geometry, Incompatible
from qmpfleece.block.drivers.qcow2.overlap import Overlap
from qmpfleece.block.drivers.qcow2.refcounts import Refcounts
from qmpfleece.block.drivers.qcow2.tables import TableCache
from qmpfleece.block.node import MAX_LENGTH, Listener, Node
from qmpfleece.block.reqlist import ReqList
from qmpfleece.qapi.bus import EventBus

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.snapshots import Snapshot


class Image:
    """An open image.

    Fixed at open: the children, ``geometry``, ``events``.
    Changes only in functions that do not await: everything else.

    Attributes:
        node: The node that shows the image.
        file: Where the metadata lies.
        data: Where guest data lies: ``file``, or an external data file.
        header: What the header on disk says, but for moments in which it is written.
        geometry: What follows from the header.
        l1: The active L1 table.
        l2: Slices of L2 tables.
        blocks: Refcount blocks.
        refcounts: Finds and frees clusters.
        overlap: Where metadata lies.
        header_writer: Writes the header.
        journal: Writes other metadata.
        allocating: Guest ranges whose clusters are being allocated.
        snapshots: The internal snapshots.
        snapshot_table_bytes: Size of their table.
        lazy: Refcounts need not be accurate on disk while the image is in use.
        discard_request: Whether clusters that the guest discards are discarded in the file.
        discard_snapshot: The same for what deleted snapshots leave.
        discard_other: The same for clusters given up otherwise.
        reftable_offset: Where the refcount table is to lie; the header says where it lies.
        reftable_clusters: Its size in clusters.
        size: Bytes of the disk.
        uncounted: Refcounts may be too low: counting the references again is due, or has not
            ended well. The image stays dirty, and nothing is allocated.
        outdated: Refcounts may be too high, or "copied" flags missing, since a snapshot was only
            half taken or deleted: the image stays dirty.
        dead: The image is corrupt beyond use.
        decompressed: The last decompressed cluster, by its L2 entry.
        cleaner: Drops tables that have not been used for a while; runs while the image is open.
        metadata_preallocation: Whether clusters may be allocated that hold no data yet;
            None while that is not known.
    """

    l1: "array[int]"
    l2: TableCache
    blocks: TableCache
    refcounts: Refcounts

    def __init__(
        self, node: Node, file: Child, header: Header, geometry: Geometry, overlap: Overlap
    ) -> None:
        self.node = node
        self.file = file
        self.data = file
        self.header = header
        self.geometry = geometry
        self.overlap = overlap
        self.size = header.size
        self.events: EventBus | None = None
        self.header_writer = HeaderWriter(self)
        self.journal = Journal(self)
        self.allocating = ReqList()
        self.snapshots: list[Snapshot] = []
        self.snapshot_table_bytes = 0
        self.lazy = False
        self.discard_request = False
        self.discard_snapshot = True
        self.discard_other = False
        self.reftable_offset = header.refcount_table_offset
        self.reftable_clusters = header.refcount_table_clusters
        self.uncounted = False
        self.outdated = False
        self.dead = False
        self.decompressed: tuple[int, bytes] = (0, b"")
        self.metadata_preallocation: bool | None = None
        self.cleaner = Cleaner(asyncio.get_running_loop(), self._drop_unused)
        self._signalled = False
        self._mark_due = False

    @property
    def writable(self) -> bool:
        """Whether the image may be changed."""
        return not self.node.read_only and not self.dead

    @property
    def debug(self) -> Listener | None:
        """Who is to be told what happens, in the words of QAPI ``BlkdebugEvent``."""
        return self.node.debug

    # -- the file -------------------------------------------------------------------------

    async def note(self, event: str) -> None:
        """Tell what is about to happen, where somebody wants to know."""
        debug = self.debug  # bound: mypyc awaits wrongly what a property's value returns
        if debug is not None:
            await debug(event)

    async def read(self, offset: int, buf: memoryview) -> None:
        """Read metadata; what lies past the end of the file is zero."""
        await read_padded(self.file, offset, buf)

    async def write_metadata(self, offset: int, data: memoryview | bytes, kind: str) -> None:
        """Write metadata of the given kind, if that is what lies there.

        Raises:
            OSError: EIO: it would destroy other metadata; else what the file says.
        """
        if (found := self.overlap.find(offset, len(data), kind)) is not None:
            raise self.corrupt_write(found, offset, len(data))
        await pipeline.pwrite(self.file, offset, memoryview(data))

    # -- corruption -----------------------------------------------------------------------

    def check_allocation(self, first: int, count: int) -> None:
        """Refuse clusters that hold metadata: they only seem to be free.

        Raises:
            BlockError: EIO; the image is marked corrupt.
        """
        bits = self.geometry.cluster_bits
        if (found := self.overlap.find(first << bits, count << bits)) is not None:
            raise self.corrupt_write(found, first << bits, count << bits)
        if not first:
            raise self.corrupt("Preventing invalid allocation of L2 table at offset 0")

    def corrupt_write(self, found: str, offset: int, length: int) -> BlockError:
        """Mark the image corrupt since a write would destroy metadata; returns the error."""
        return self.corrupt(
            f"Preventing invalid write on metadata (overlaps with {found})", offset, length
        )

    def corrupt(
        self, message: str, offset: int = -1, length: int = -1, *, fatal: bool = True
    ) -> BlockError:
        """Report corruption and, if it can be written, mark the image and use it no more.

        Returns:
            The error to raise. Source: QEMU's event BLOCK_IMAGE_CORRUPTED.
        """
        error = BlockError(errno.EIO)
        fatal = fatal and self.writable
        marked = self.header.incompatible & Incompatible.CORRUPT
        if self._signalled and (not fatal or marked):
            return error
        self._signalled = True
        if fatal:
            text = f"Marking image as corrupt: {message}; further corruption events"
        else:
            text = f"Image is corrupt: {message}; further non-fatal corruption events"
        sys.stderr.write(f"qcow2: {text} will be suppressed\n")
        if self.events is not None:
            self.events.emit(
                BlockImageCorrupted(
                    device=self.node.device_name,
                    node_name=self.node.name,
                    msg=message,
                    offset=offset if offset >= 0 else None,
                    size=length if length >= 0 else None,
                    fatal=fatal,
                )
            )
        if fatal:
            self.dead = True
            self._mark_due = True
            self.header.incompatible |= Incompatible.CORRUPT
        return error

    async def mark_corrupt(self) -> bool:
        """Write the corrupt bit, if corruption was found since the last call.

        As in QEMU nobody is told if that fails.

        Returns:
            Whether it was found since then.
        """
        if not self._mark_due:
            return False
        self._mark_due = False
        if self.header.version >= 3:
            with contextlib.suppress(OSError):
                await self.header_writer.write_features()
                await pipeline.flush(self.file)
        return True

    def _drop_unused(self) -> None:
        """Drop the tables that were not used since the last call."""
        self.l2.drop_unused()
        self.blocks.drop_unused()

    def forget_compressed(self) -> None:
        """Forget the cluster that was decompressed last: its place may be used anew."""
        self.decompressed = (0, b"")


async def read_padded(child: Child, offset: int, buf: memoryview) -> None:
    """Read from ``child``; what lies past its end is zero."""
    inside = child.node.length - offset
    if offset + len(buf) > MAX_LENGTH:
        raise BlockError(errno.EIO)
    if inside >= len(buf):
        await pipeline.pread(child, offset, buf)
        return
    inside = max(inside, 0)
    if inside:
        await pipeline.pread(child, offset, buf[:inside])
    buf[inside:] = bytes(len(buf) - inside)

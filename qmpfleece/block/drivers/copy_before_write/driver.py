"""copy-before-write: what the guest is about to overwrite is first copied to a temporary image.

The filter sits above the active disk. It passes the guest's requests on, and it shows the disk
as it was when the filter was opened, to snapshot-access::

    guest write -> [copy] -> done -> [wait for frozen reads] -> file
    snapshot read:   outside access, or broken   -> EACCES
                     done                        -> target
                     else                        -> file, as a frozen read

The copy bitmap (block_copy) is on ``file``'s node, the access and the done bitmap (snapshot)
are on ours. All three are granular by the cluster. A cluster is done once the target holds it; a
guest write that is not wholly done copies, marks and waits.

Source: QAPI ``BlockdevOptionsCbw``.
"""

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any, ClassVar

from qmpfleece.base import eager
from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.units import SECTOR, align_down
from qmpfleece.bitmap.dirty import DirtyBitmap, find_bitmap
from qmpfleece.block import pipeline, status
from qmpfleece.block.block_copy import BlockCopy, reaches
from qmpfleece.block.child import Child
from qmpfleece.block.copy_limits import cluster_size_for
from qmpfleece.block.driver import BlockDriver, Extent, Io, Opener, ReqFlags, register
from qmpfleece.block.drivers.copy_before_write.options import CopyBeforeWriteOptions
from qmpfleece.block.drivers.copy_before_write.snapshot import Snapshot
from qmpfleece.block.perm import Perm, Role, default_perms
from qmpfleece.block.places import Places
from qmpfleece.qapi.bitmaps import BlockDirtyBitmap


class _TimeLimit:
    """Stops a copy when it has timed out: a ``copy_limits.Halt``."""

    __slots__ = ("stopping",)

    def __init__(self) -> None:
        self.stopping = False


class CopyBeforeWrite(BlockDriver[CopyBeforeWriteOptions]):
    """The filter.

    Fixed at open: the edges, the engine and the options. The disk may grow, when a format above
    adds to its file or it is resized; what is new is not in the snapshot, nor is what is cut off.
    """

    driver_name = "copy-before-write"

    is_filter = True
    passes_flush = True
    #: The temporary image need not survive, and the guest does not wait for it.
    unflushed_children: ClassVar[tuple[str, ...]] = ("target",)
    write_flags = ReqFlags.FUA | ReqFlags.WRITE_UNCHANGED
    zero_flags = write_flags | ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK

    _file: Child
    _target: Child
    _copier: BlockCopy
    snapshot: Snapshot
    #: Whether there is one yet.
    _stands: bool = False
    #: Whether reading the target can lead to the source; None until the filter is open.
    _shown: bool | None = None

    # -- opening, closing ---------------------------------------------------------------------

    async def open(self, opener: Opener) -> None:
        """Open both images; from the end of this on the snapshot stands."""
        options = self.options
        self._file = await opener.open_child("file", options.file, Role.FILTERED | Role.PRIMARY)
        self._target = await opener.open_child("target", options.target, Role.DATA)
        self._shown = self._target_shows_source()
        bitmap = _find_bitmap(opener, options.bitmap) if options.bitmap is not None else None
        self._check_target()
        self.node.length = length = self._file.node.length
        cluster_size = cluster_size_for(self._target.node, options.min_cluster_size or 0)
        done = DirtyBitmap(length, cluster_size, enabled=False)
        access = DirtyBitmap(length, cluster_size, enabled=False)
        try:
            self._copier = BlockCopy(
                self._file, self._target, bitmap=bitmap, cluster_size=cluster_size
            )
        except QmpError as error:
            raise QmpError(f"Cannot create block-copy-state: {error.desc}") from error
        access.merge(self._copier.bitmap)
        self.node.bitmaps[:0] = [access, done]
        self._breaks_snapshot = options.on_cbw_error == "break-snapshot"
        self._timeout_s = options.cbw_timeout or 0
        self._copies: set[asyncio.Task[None]] = set()
        self.snapshot = Snapshot(self._copier, done, access)
        self._stands = True

    def _check_target(self) -> None:
        """Refuse a target that can't hold the disk.

        Differs: QEMU opens the filter and fails, or destroys the disk, later.
        """
        file, target = self._file.node, self._target.node
        if target is file:
            raise QmpError("Source and target cannot be the same")
        if not file.driver.has_medium:
            raise QmpError(
                "Cannot create block-copy-state: could not get length of device: No medium found"
            )
        if target.length < file.length:
            raise QmpError(
                f"Target '{target.name}' ({target.length} bytes) is smaller than source "
                f"'{file.name}' ({file.length} bytes)"
            )

    async def close(self) -> None:
        """Wait for copies that have timed out and are still running; drop the bitmaps."""
        while self._copies:
            await asyncio.wait(self._copies)
        self._copier.close()
        self.node.bitmaps.remove(self.snapshot.access)
        self.node.bitmaps.remove(self.snapshot.done)

    def child_perms(self, child: str, role: Role, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
        """Write to the target alone; with users, be alone in writing to the source.

        Differs: QEMU always lets others write to the target. We only do where the target
        shows what the source holds, because the source is then in use below the target.
        """
        if child == "target":
            shared = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED
            return Perm.WRITE, shared | Perm.WRITE if self._target_shows_source() else shared
        perm, shared = default_perms(role, perm, shared, writable=not self.node.read_only)
        if self.node.parents:
            if perm & Perm.WRITE:
                perm |= Perm.CONSISTENT_READ
            shared &= ~(Perm.WRITE | Perm.RESIZE)
        return perm, shared

    def _target_shows_source(self) -> bool:
        """Tell what was so when the filter was opened; the graph below may change since."""
        if self._shown is not None:
            return self._shown
        file, target = (self.node.children.get(name) for name in ("file", "target"))
        return file is not None and target is not None and reaches(target.node, file.node)

    @property
    def snapshot_source(self) -> Snapshot:
        """The snapshot, for snapshot-access."""
        return self.snapshot

    @property
    def copier(self) -> BlockCopy:
        """The engine, for a job that copies in the background what guest writes don't."""
        return self._copier

    # -- the guest ----------------------------------------------------------------------------

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read the active disk."""
        return pipeline.pread(self._file, offset, buf)

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Ask the active disk."""
        return pipeline.locate(self._file, offset, length, places)

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Write to the active disk, having saved what was there."""
        if flags & ReqFlags.WRITE_UNCHANGED or self.snapshot.lets_pass(offset, len(buf)):
            return pipeline.pwrite(self._file, offset, buf, flags)
        return self._save_and_write(offset, buf, flags)

    def pwrite_zeroes(self, offset: int, length: int, flags: int) -> Io:
        """Write zeroes, having saved what was there."""
        if flags & ReqFlags.WRITE_UNCHANGED or self.snapshot.lets_pass(offset, length):
            return pipeline.pwrite_zeroes(self._file, offset, length, flags)
        return self._save_and_zero(offset, length, flags)

    def pdiscard(self, offset: int, length: int) -> Io:
        """Discard, having saved what was there."""
        if self.snapshot.lets_pass(offset, length):
            return pipeline.pdiscard(self._file, offset, length)
        return self._save_and_discard(offset, length)

    async def truncate(self, length: int) -> int:
        """Resize the active disk. What is cut off is not saved, and can't be read any more.

        Of a file of odd size whole sectors are left, though the file has a part of one more.
        """
        whole = align_down(await self._copier.truncate_source(length), SECTOR)
        self.snapshot.resized(whole)
        return whole

    def child_resized(self) -> None:
        """Give up what has been cut off the active disk, in whatever way."""
        if self._stands:
            self.snapshot.cut(self._file.node.length)

    def block_status(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return the status of the active disk."""
        return status.block_status(self._file.node, offset, length, limit)

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell what is known of the active disk."""
        return self._file.node.driver.is_known_data(offset, length)

    async def _save_and_write(self, offset: int, buf: memoryview, flags: int) -> None:
        await self._save(offset, len(buf))
        await pipeline.pwrite(self._file, offset, buf, flags)

    async def _save_and_zero(self, offset: int, length: int, flags: int) -> None:
        await self._save(offset, length)
        await pipeline.pwrite_zeroes(self._file, offset, length, flags)

    async def _save_and_discard(self, offset: int, length: int) -> None:
        await self._save(offset, length)
        await pipeline.pdiscard(self._file, offset, length)

    async def _save(self, offset: int, length: int) -> None:
        """Copy the clusters of a range, and wait for snapshot reads of it.

        On return no frozen read overlaps the range and none will.

        Raises:
            OSError: The copy has failed, and it is the guest who is to suffer.
        """
        snapshot = self.snapshot
        length = min(length, snapshot.length - offset)
        if snapshot.error is None:
            try:
                if self._timeout_s:
                    await self._copy_in_time(offset, length)
                else:
                    await self._copier.copy(offset, length)
            except OSError as error:
                if not self._breaks_snapshot:
                    raise
                snapshot.broke(error)
            else:
                snapshot.saved(offset, length)
        if snapshot.frozen:
            # Reads that have begun before the snapshot broke are served well, too.
            await snapshot.frozen.wait_all(offset, length)

    async def _copy_in_time(self, offset: int, length: int) -> None:
        """Copy the clusters of a range within the time limit.

        Raises:
            OSError: ETIMEDOUT: what the copy has begun goes on, in flight on the node; else it
                has failed.
        """
        limit = _TimeLimit()
        copying = self._copier.copy(offset, length, halt=limit)
        task = eager.start(copying, asyncio.get_running_loop())
        if task is None:
            return
        self.node.work_begin()
        self._copies.add(task)
        task.add_done_callback(self._copy_ended)
        await asyncio.wait({task}, timeout=self._timeout_s)
        if not task.done():
            limit.stopping = True
            raise BlockError(errno.ETIMEDOUT)
        task.result()

    def _copy_ended(self, task: asyncio.Task[None]) -> None:
        self._copies.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more
        self.node.work_end()


def _find_bitmap(opener: Opener, reference: BlockDirtyBitmap) -> DirtyBitmap:
    try:
        node = opener.find(reference.node)
    except QmpError as error:
        raise QmpError(f"Node '{reference.node}' not found") from error
    return find_bitmap(node.bitmaps, reference.name)


register(CopyBeforeWrite, __name__)

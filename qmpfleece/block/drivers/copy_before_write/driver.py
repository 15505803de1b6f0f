"""copy-before-write: what the guest is about to overwrite is first copied to a temporary image.

The filter sits above the active disk. It passes the guest's requests on, and it shows the disk
as it was when the filter was opened, to snapshot-access::

    guest write -> [copy] -> done -> [wait for frozen reads] -> file
    snapshot read:   outside access, or broken   -> EACCES
                     done                        -> target
                     else                        -> file, as a frozen read

The copy bitmap (block_copy) is on ``file``'s node, the access and the done bitmap are on ours.
All three are granular by the cluster. A cluster is done once the target holds it; a guest
write that is not wholly done copies, marks and waits. The steps between two awaits are alone
on the loop, so a snapshot read that finds a cluster not done is on the list of frozen reads
before any write to the cluster can look at that list.

Source: QAPI ``BlockdevOptionsCbw``.
"""

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from qmpfleece.base import eager
from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.units import SECTOR, align_down, align_up
from qmpfleece.bitmap.dirty import DirtyBitmap, find_bitmap
from qmpfleece.block import pipeline, status
from qmpfleece.block.block_copy import BlockCopy, reaches
from qmpfleece.block.child import Child
from qmpfleece.block.copy_error import CopyError
from qmpfleece.block.copy_limits import cluster_size_for
from qmpfleece.block.driver import (
    BlockDriver,
    Extent,
    Io,
    Opener,
    ReqFlags,
    Status,
    fail,
    register,
)
from qmpfleece.block.drivers.copy_before_write.options import CopyBeforeWriteOptions
from qmpfleece.block.patchwork import Patchwork
from qmpfleece.block.perm import Perm, Role, default_perms
from qmpfleece.block.places import Places
from qmpfleece.block.reqlist import ReqList
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

    Attributes:
        snapshot_error: Why the snapshot can no longer be read, None while it can.
        on_broken: Called when that changes.
    """

    driver_name = "copy-before-write"

    is_filter = True
    length_is_told = True
    passes_flush = True
    #: The temporary image need not survive, and the guest does not wait for it.
    unflushed_children: ClassVar[tuple[str, ...]] = ("target",)
    write_flags = ReqFlags.FUA | ReqFlags.WRITE_UNCHANGED
    zero_flags = write_flags | ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK

    _file: Child
    _target: Child
    _copier: BlockCopy
    #: Bytes of the disk that the snapshot has, as far as it has any; 0 until it stands.
    _length: int = 0
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
        length = self._file.node.length
        self.node.length = length
        cluster_size = cluster_size_for(self._target.node, options.min_cluster_size or 0)
        self._done = DirtyBitmap(length, cluster_size, enabled=False)
        self._access = DirtyBitmap(length, cluster_size, enabled=False)
        try:
            self._copier = BlockCopy(
                self._file, self._target, bitmap=bitmap, cluster_size=cluster_size
            )
        except QmpError as error:
            raise QmpError(f"Cannot create block-copy-state: {error.desc}") from error
        self._access.merge(self._copier.bitmap)
        self.node.bitmaps[:0] = [self._access, self._done]
        self._frozen = ReqList()
        self._breaks_snapshot = options.on_cbw_error == "break-snapshot"
        self._timeout_s = options.cbw_timeout or 0
        self._copies: set[asyncio.Task[None]] = set()
        self.snapshot_error: OSError | None = None
        self.on_broken: Callable[[], None] | None = None
        self._is_cut = False
        self._length = length

    def _check_target(self) -> None:
        """Refuse a target that can't hold the disk.

        Differs: QEMU opens the filter and fails, or destroys the disk, later.
        """
        file, target = self._file.node, self._target.node
        if target is file:
            raise QmpError("Source and target cannot be the same")
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
        self.node.bitmaps.remove(self._access)
        self.node.bitmaps.remove(self._done)

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
    def copier(self) -> BlockCopy:
        """The engine, for a job that copies in the background what guest writes don't."""
        return self._copier

    @property
    def broken_because(self) -> str | None:
        """What a person is told about a broken snapshot; None while it is whole."""
        error = self.snapshot_error
        if error is None:
            return None
        place = ""
        if isinstance(error, CopyError):
            verb = "reading" if error.is_read else "writing"
            edge = self._file if error.is_read else self._target
            place = f" {verb} {error.length} bytes at {error.offset} of '{edge.node.name}'"
        return f"copy before write failed{place}: {error.strerror}"

    # -- the guest ----------------------------------------------------------------------------

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read the active disk."""
        return pipeline.pread(self._file, offset, buf)

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Ask the active disk."""
        return pipeline.locate(self._file, offset, length, places)

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Write to the active disk, having saved what was there."""
        if flags & ReqFlags.WRITE_UNCHANGED or self._may_pass(offset, len(buf)):
            return pipeline.pwrite(self._file, offset, buf, flags)
        return self._save_and_write(offset, buf, flags)

    def pwrite_zeroes(self, offset: int, length: int, flags: int) -> Io:
        """Write zeroes, having saved what was there."""
        if flags & ReqFlags.WRITE_UNCHANGED or self._may_pass(offset, length):
            return pipeline.pwrite_zeroes(self._file, offset, length, flags)
        return self._save_and_zero(offset, length, flags)

    def pdiscard(self, offset: int, length: int) -> Io:
        """Discard, having saved what was there."""
        if self._may_pass(offset, length):
            return pipeline.pdiscard(self._file, offset, length)
        return self._save_and_discard(offset, length)

    async def truncate(self, length: int) -> None:
        """Resize the active disk. What is cut off is not saved, and can't be read any more."""
        whole = align_down(length, SECTOR)
        await self._copier.truncate_source(length, whole)
        self._cut(whole)
        if not self._is_cut:
            self._length = whole

    def child_resized(self) -> None:
        """Give up what has been cut off the active disk, in whatever way."""
        if self._length:
            self._cut(self._file.node.length)

    def _cut(self, length: int) -> None:
        """Take what is cut off out of the snapshot, if that reached so far.

        It is no longer what it was, and does not come back.
        """
        if length < self._length:
            self._is_cut = True
            self._length = length
            self._copier.cut(length)

    def block_status(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return the status of the active disk."""
        return status.block_status(self._file.node, offset, length, limit)

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell what is known of the active disk."""
        return self._file.node.driver.is_known_data(offset, length)

    def _may_pass(self, offset: int, length: int) -> bool:
        """Tell whether a write has nothing to save and nobody to wait for."""
        if offset + length > self._length:  # what a format on top adds is not in the snapshot
            length = self._length - offset
        if length <= 0:
            return True
        if not self._done.bits.all(offset, length) and self.snapshot_error is None:
            return False
        return not self._frozen or self._frozen.find_conflict(offset, length) is None

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
        length = min(length, self._length - offset)
        if self.snapshot_error is None:
            try:
                if self._timeout_s:
                    await self._copy_in_time(offset, length)
                else:
                    await self._copier.copy(offset, length)
            except OSError as error:
                if not self._breaks_snapshot:
                    raise
                if self.snapshot_error is None:
                    self.snapshot_error = error
                    if self.on_broken is not None:
                        self.on_broken()
            else:
                inside = min(length, self._length - offset)  # it may have been cut meanwhile
                if inside > 0:
                    self._done.bits.set(offset, inside)
        if self._frozen:
            # Reads that have begun before the snapshot broke are served well, too.
            await self._frozen.wait_all(offset, length)

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

    # -- the snapshot: driver.SnapshotSource --------------------------------------------------

    def snapshot_pread(self, offset: int, buf: memoryview) -> Io:
        """Read the disk as it was. Never waits for writes.

        Raises:
            OSError: EACCES: the range is not accessible, or the snapshot is broken.
        """
        length = len(buf)
        if not length:
            return DONE
        if not self._is_readable(offset, length):
            return fail(errno.EACCES)
        done = self._done.bits.state(offset, length)
        if done is None:
            return self._pread_spans(offset, buf)
        io = pipeline.pread(self._target if done else self._file, offset, buf)
        return io if io is DONE or done else self._frozen_until_read(offset, length, io)

    def _is_readable(self, offset: int, length: int) -> bool:
        """Tell whether the snapshot has all of a range, and it may be read."""
        return (
            self.snapshot_error is None
            and offset + length <= self._length
            and self._access.bits.all(offset, length)
        )

    def _pread_spans(self, offset: int, buf: memoryview) -> Io:
        """Read span by span; each is decided when it is its turn."""
        while buf:
            _, span = self._done.bits.run(offset, len(buf))
            part, buf = buf[:span], buf[span:]
            io = self.snapshot_pread(offset, part)
            offset += span
            if io is not DONE:
                return self._pread_rest(io, offset, buf)
        return DONE

    async def _pread_rest(self, io: Io, offset: int, buf: memoryview) -> None:
        """Read what follows the span of ``io``, if it may still be read then."""
        await io
        await self.snapshot_pread(offset, buf)

    def snapshot_locate(self, offset: int, length: int, places: Places) -> bool:
        """Find each span where it is now; what is on the active disk stays until it was read."""
        if not self._is_readable(offset, length):
            return False
        while length:
            done, span = self._done.bits.run(offset, length)
            if not pipeline.locate(self._target if done else self._file, offset, span, places):
                return False
            if not done:
                places.held.append(self._frozen.add(offset, span).remove)
            offset += span
            length -= span
        return True

    async def _frozen_until_read(self, offset: int, length: int, io: Io) -> None:
        """Hold writes to the range back while the active disk is read."""
        frozen = self._frozen.add(offset, length)
        try:
            await io
        finally:
            frozen.remove()

    async def snapshot_pdiscard(self, offset: int, length: int) -> None:
        """Give up the clusters that lie wholly in the range, and their place in the target.

        They can't be read any more, and guest writes don't copy them. On return none of them
        is being copied, so that their space stays free.
        """
        cluster_size = self._copier.cluster_size
        end = min(offset + length, self._length)
        start = align_up(offset, cluster_size)
        if end < self._length:
            end = align_down(end, cluster_size)
        if start >= end:
            return
        self._access.bits.reset_touched(start, end - start)
        await self._copier.forget(start, end - start)
        await pipeline.pdiscard(self._target, start, end - start)

    def snapshot_flush(self) -> Io:
        """Flush the target: a format may free space only when its tables are stable."""
        return pipeline.flush(self._target)

    async def snapshot_block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return where the snapshot is data and where zero; it is one layer.

        Raises:
            OSError: EACCES: the first byte is not accessible, or the snapshot is broken.
        """
        extents: list[Extent] = []
        end = min(offset + length, self._length)
        patchwork = Patchwork(self._file.node, self._target.node, self._done.bits, end)
        while offset < end and len(extents) < limit:
            readable, span = self._access.bits.run(offset, end - offset)
            if self.snapshot_error is not None or not readable:
                break
            found = patchwork.known(offset, span)
            if not found:
                await patchwork.look(offset, limit - len(extents))
                end = min(end, self._length)  # the disk may have been cut
            for extent in found:
                extents.append(
                    extent
                    if extent.flags & Status.ALLOCATED
                    else extent._replace(flags=extent.flags | Status.ALLOCATED)
                )
                offset += extent.length
        if not extents:
            raise BlockError(errno.EACCES)
        return extents[:limit]

    def snapshot_is_known_data(self, offset: int, length: int) -> bool:
        """Tell what is known of whoever has the clusters."""
        if not self._is_readable(offset, length):
            return False
        while length:
            done, span = self._done.bits.run(offset, length)
            edge = self._target if done else self._file
            if not edge.node.driver.is_known_data(offset, span):
                return False
            offset += span
            length -= span
        return True


def _find_bitmap(opener: Opener, reference: BlockDirtyBitmap) -> DirtyBitmap:
    try:
        node = opener.find(reference.node)
    except QmpError as error:
        raise QmpError(f"Node '{reference.node}' not found") from error
    return find_bitmap(node.bitmaps, reference.name)


register(CopyBeforeWrite, __name__)

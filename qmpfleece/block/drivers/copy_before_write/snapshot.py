"""The snapshot that copy-before-write keeps: where each cluster is, and who may read it.

Access and done are bitmaps by the cluster. The steps between two awaits are alone on the loop,
so a read that finds a cluster not done is on the list of frozen reads before any write to the
cluster can look at that list.
"""

import errno
from collections.abc import Callable

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import align_down, align_up
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import pipeline
from qmpfleece.block.block_copy import BlockCopy
from qmpfleece.block.child import Child
from qmpfleece.block.copy_error import CopyError
from qmpfleece.block.driver import Extent, Io, Status, fail
from qmpfleece.block.patchwork import Patchwork
from qmpfleece.block.places import Places
from qmpfleece.block.reqlist import ReqList


class Snapshot:
    """The disk as it was: an ``abilities.SnapshotSource``.

    Args:
        copier: What copies from the active disk to the temporary image.
        done: Clusters that the temporary image has; none yet.
        access: Clusters that may be read.

    Attributes:
        length: Bytes of the disk that the snapshot has.
        frozen: Reads of the active disk, which writes wait for.
        error: Why the snapshot can no longer be read, None while it can.
        on_broken: Called when that changes.
    """

    __slots__ = (
        "_copier",
        "_file",
        "_is_cut",
        "_target",
        "access",
        "done",
        "error",
        "frozen",
        "length",
        "on_broken",
    )

    def __init__(self, copier: BlockCopy, done: DirtyBitmap, access: DirtyBitmap) -> None:
        self._copier = copier
        self._file: Child = copier.source
        self._target: Child = copier.target
        self.done = done
        self.access = access
        self.length = copier.length
        self.frozen = ReqList()
        self.error: OSError | None = None
        self.on_broken: Callable[[], None] | None = None
        self._is_cut = False

    @property
    def broken_because(self) -> str | None:
        """What a person is told about a broken snapshot; None while it is whole."""
        error = self.error
        if error is None:
            return None
        place = ""
        if isinstance(error, CopyError):
            verb = "reading" if error.is_read else "writing"
            edge = self._file if error.is_read else self._target
            place = f" {verb} {error.length} bytes at {error.offset} of '{edge.node.name}'"
        return f"copy before write failed{place}: {error.strerror}"

    # -- what changes it ----------------------------------------------------------------------

    def lets_pass(self, offset: int, length: int) -> bool:
        """Tell whether a write has nothing to save and nobody to wait for."""
        if offset + length > self.length:  # what a format on top adds is not in the snapshot
            length = self.length - offset
        if length <= 0:
            return True
        if not self.done.bits.all(offset, length) and self.error is None:
            return False
        return not self.frozen or self.frozen.find_conflict(offset, length) is None

    def saved(self, offset: int, length: int) -> None:
        """Take note that the temporary image has a range; the disk may have been cut before."""
        inside = min(length, self.length - offset)
        if inside > 0:
            self.done.bits.set(offset, inside)

    def broke(self, error: OSError) -> None:
        """Give the snapshot up; the first error is the one that is told."""
        if self.error is None:
            self.error = error
            if self.on_broken is not None:
                self.on_broken()

    def resized(self, length: int) -> None:
        """Follow the disk, which was resized on purpose; what was cut off does not come back."""
        self.cut(length)
        if not self._is_cut:
            self.length = length

    def cut(self, length: int) -> None:
        """Take what is cut off the disk out of the snapshot, if that reached so far."""
        if length < self.length:
            self._is_cut = True
            self.length = length
            self._copier.cut(length)

    # -- reading it ---------------------------------------------------------------------------

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read the disk as it was. Never waits for writes.

        Raises:
            OSError: EACCES: the range is not accessible, or the snapshot is broken.
        """
        length = len(buf)
        if not length:
            return DONE
        if not self._is_readable(offset, length):
            return fail(errno.EACCES)
        done = self.done.bits.state(offset, length)
        if done is None:
            return self._pread_spans(offset, buf)
        io = pipeline.pread(self._target if done else self._file, offset, buf)
        return io if io is DONE or done else self._frozen_until_read(offset, length, io)

    def _is_readable(self, offset: int, length: int) -> bool:
        """Tell whether the snapshot has all of a range, and it may be read."""
        return (
            self.error is None
            and offset + length <= self.length
            and self.access.bits.all(offset, length)
        )

    def _pread_spans(self, offset: int, buf: memoryview) -> Io:
        """Read span by span; each is decided when it is its turn."""
        while buf:
            _, span = self.done.bits.run(offset, len(buf))
            part, buf = buf[:span], buf[span:]
            io = self.pread(offset, part)
            offset += span
            if io is not DONE:
                return self._pread_rest(io, offset, buf)
        return DONE

    async def _pread_rest(self, io: Io, offset: int, buf: memoryview) -> None:
        """Read what follows the span of ``io``, if it may still be read then."""
        await io
        while buf:
            _, span = self.done.bits.run(offset, len(buf))
            part, buf = buf[:span], buf[span:]
            if (io := self.pread(offset, part)) is not DONE:
                await io
            offset += span

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Find each span where it is now; what is on the active disk stays until it was read."""
        if not self._is_readable(offset, length):
            return False
        while length:
            done, span = self.done.bits.run(offset, length)
            if not pipeline.locate(self._target if done else self._file, offset, span, places):
                return False
            if not done:
                places.held.append(self.frozen.add(offset, span).remove)
            offset += span
            length -= span
        return True

    async def _frozen_until_read(self, offset: int, length: int, io: Io) -> None:
        """Hold writes to the range back while the active disk is read."""
        frozen = self.frozen.add(offset, length)
        try:
            await io
        finally:
            frozen.remove()

    async def pdiscard(self, offset: int, length: int) -> None:
        """Give up the clusters that lie wholly in the range, and their place in the target.

        They can't be read any more, and guest writes don't copy them. On return none of them
        is being copied, so that their space stays free.
        """
        cluster_size = self._copier.cluster_size
        end = min(offset + length, self.length)
        start = align_up(offset, cluster_size)
        if end < self.length:
            end = align_down(end, cluster_size)
        if start >= end:
            return
        self.access.bits.reset_touched(start, end - start)
        await self._copier.forget(start, end - start)
        await pipeline.pdiscard(self._target, start, end - start)

    def flush(self) -> Io:
        """Flush the target: a format may free space only when its tables are stable."""
        return pipeline.flush(self._target)

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return where the snapshot is data and where zero; it is one layer.

        Raises:
            OSError: EACCES: the first byte is not accessible, or the snapshot is broken.
        """
        extents: list[Extent] = []
        end = min(offset + length, self.length)
        patchwork = Patchwork(self._file.node, self._target.node, self.done.bits, end)
        while offset < end and len(extents) < limit:
            readable, span = self.access.bits.run(offset, end - offset)
            if self.error is not None or not readable:
                break
            found = patchwork.known(offset, span)
            if not found:
                await patchwork.look(offset, limit - len(extents))
                end = min(end, self.length)  # the disk may have been cut
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

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell what is known of whoever has the clusters."""
        if not self._is_readable(offset, length):
            return False
        while length:
            done, span = self.done.bits.run(offset, length)
            edge = self._target if done else self._file
            if not edge.node.driver.is_known_data(offset, span):
                return False
            offset += span
            length -= span
        return True

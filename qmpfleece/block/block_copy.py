"""The copy engine that copy-before-write and backup share.

What is still to be copied is a bitmap on the source node, seen in queries as an unnamed one.
A copy *claims* dirty clusters in one step without await: it clears their bits and enters them
in a list, so nobody else copies them; who needs them too waits for the entry to go. A copy
that fails makes its clusters dirty again before its entry goes::

        dirty --claim--> in flight --ok--> clean
          ^                  |
          +------failed------+

It knows nothing of guests, snapshots and jobs.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from qmpfleece.base import together
from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import MIB, SECTOR, align_down, align_up
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import edges, pipeline, status
from qmpfleece.block.buffers import Buffers
from qmpfleece.block.child import Child
from qmpfleece.block.copy_error import CopyError
from qmpfleece.block.copy_limits import Halt, Throttle
from qmpfleece.block.driver import ReqFlags, Status
from qmpfleece.block.lookahead import Ask, Lookahead
from qmpfleece.block.node import Node
from qmpfleece.block.reqlist import Req, ReqList

#: Bytes that one request of a copy moves at most, unless the cluster is larger.
MAX_CHUNK: Final = MIB
#: Requests of one copy at once. Source: QAPI ``BackupPerf``.
MAX_WORKERS: Final = 64
#: Bytes of buffers of all copies of one engine. Source: QEMU's limit for block-copy.
MAX_MEMORY: Final = 128 * MIB
#: Requests of one copy at once, whatever the user asks for: as many as QEMU's memory is for.
MAX_REQUESTS: Final = MAX_MEMORY // MAX_CHUNK
#: Bytes of data of one copy on their way: it keeps disks busy, and stays in the processor's
#: caches between being read and being written.
MAX_FLYING: Final = 8 * MIB


def reaches(top: Node, below: Node) -> bool:
    """Tell whether ``below`` is ``top`` or is used by it, however indirectly."""
    return top is below or any(reaches(child.node, below) for child in top.children.values())


class BlockCopy:
    """Copies clusters of ``source`` to the same place of ``target``, each once.

    Fixed: ``source``, ``target``, ``cluster_size``, ``in_flight``.

    Attributes:
        source: Read from. The bitmap belongs to its node.
        target: Written to; as large as the source or larger.
        length: Bytes of the source that are copied: what has been added to it since is not.
        cluster_size: Bytes; all claims are of whole clusters, but for the end of the source.
        bitmap: What is to be copied: unnamed, not recording. Others clear bits by ``forget``.
        in_flight: The claimed ranges.
        skip_unallocated: Drop what the top layer of the source does not have (sync=top).
        on_progress: Called with the bytes of whole clusters that were copied; with 0 when
            some were dropped.

    Raises:
        QmpError: ``bitmap`` can't be used.
    """

    def __init__(
        self,
        source: Child,
        target: Child,
        *,
        bitmap: DirtyBitmap | None = None,
        cluster_size: int,
        max_chunk: int = MAX_CHUNK,
    ) -> None:
        self.source: Final = source
        self.target: Final = target
        self.length = source.node.length
        #: Up to where clusters may be claimed: less than ``length`` while the source is cut.
        self._limit = self.length
        self.cluster_size: Final = cluster_size
        self.in_flight: Final = ReqList()
        self._claimed = 0
        self.skip_unallocated = False
        self.on_progress: Callable[[int], None] | None = None
        self._compresses = False
        self.limit_chunk(max_chunk)
        self._max_piece = max(MAX_CHUNK, target.node.driver.cluster_size)
        self._buffers = Buffers(max(MAX_MEMORY, self._max_piece))
        # A write to a target that shows what the source holds must not meet reads that
        # are on their way through the target to the source.
        shown = reaches(target.node, source.node)
        self._write_flags = ReqFlags.SERIALISING if shown else ReqFlags.NONE
        self.bitmap: Final = DirtyBitmap(self.length, cluster_size, enabled=False)
        if bitmap is None:
            self.bitmap.bits.set_all()
        else:
            try:
                bitmap.check(allow_readonly=True)
                self.bitmap.merge(bitmap)
            except QmpError as error:
                raise QmpError(
                    f"Failed to merge bitmap '{bitmap.name}' to internal copy-bitmap: {error.desc}"
                ) from error
        self._home = source.node
        self._home.bitmaps.insert(0, self.bitmap)
        edges.track_reads(target, on=shown)

    def limit_chunk(self, max_chunk: int) -> None:
        """Move at most the clusters that so many bytes touch with one request."""
        self._max_chunk = align_up(min(max_chunk, MAX_CHUNK), self.cluster_size)

    def compress(self) -> None:
        """Write compressed from now on, cluster by cluster; the target's driver can."""
        assert self.target.node.driver.compresses
        self._compresses = True
        self.limit_chunk(self.cluster_size)

    def cut(self, length: int) -> None:
        """Copy nothing from there on any more; nothing of it is in flight."""
        self.length = min(self.length, length)
        self._limit = min(self._limit, length)

    async def truncate_source(self, length: int) -> int:
        """Resize the source to ``length`` bytes, and return the size that came of it.

        What is cut off, and part of a sector, is not copied, once nothing of it is in flight. Who
        wants to copy it waits for what comes of it: the source may refuse.

        Raises:
            OSError: What ``pipeline.truncate`` raises; everything is still to be copied.
        """
        whole = align_down(length, SECTOR)
        if whole >= self.length:
            return await pipeline.truncate(self.source, length)
        # No cluster is taken in part: its rest would be lost if the source refuses.
        self._limit = first = align_down(whole, self.cluster_size)
        cut = self.in_flight.add(first, self.length - first)
        try:
            while (req := self.in_flight.find_conflict(first, cut.length)) is not cut:
                assert req is not None
                await req.wait()
            length = await pipeline.truncate(self.source, length)
            self.length = min(self.length, align_down(length, SECTOR))
        finally:
            self._limit = self.length
            cut.remove()
        return length

    def close(self) -> None:
        """Take the bitmap off the source, and let reads of the target go. No copy is in flight."""
        assert not self.in_flight
        self._home.bitmaps.remove(self.bitmap)
        edges.track_reads(self.target, on=False)

    @property
    def remaining(self) -> int:
        """Bytes of clusters that are dirty or in flight."""
        return self.bitmap.count + self._claimed

    # -- copying --------------------------------------------------------------------------

    async def copy(
        self,
        offset: int,
        length: int,
        *,
        throttle: Throttle | None = None,
        halt: Halt | None = None,
        workers: int = MAX_WORKERS,
    ) -> None:
        """Copy every dirty cluster that the range touches; wait for those in flight.

        On return all these clusters are clean and none is in flight, and that stays so until
        the caller awaits. Cancellation-safe: what was claimed is dirty again.

        Args:
            offset: Bytes.
            length: Bytes; what is behind the source's end is not copied.
            throttle: Limits the rate. When it stops the copy, clusters remain dirty on return.
            halt: Only stops the copy.
            workers: Requests at once.

        Raises:
            CopyError: A copy has failed; the clusters that are not copied are dirty. Copies
                in flight have ended.
        """
        start = align_down(offset, self.cluster_size)
        end = align_up(offset + length, self.cluster_size)
        stop = min(end, self._limit)
        # The cluster that a small write touches needs no more than a claim of its own.
        alone = end - start <= self.cluster_size and throttle is None
        if alone and (req := self._claim(start, stop)) is not None:
            if self.source.node.driver.is_known_data(req.offset, req.length):
                await self._transfer(req, zero=False)
            else:
                await self._copy_claimed(req)
            return
        until = halt if throttle is None else throttle
        while True:
            if self._is_dirty(start, end):
                await self._copy_dirty(start, end, throttle, until, workers)
            if until is not None and until.stopping:
                return
            conflict = self.in_flight.find_conflict(start, end - start)
            if conflict is not None:
                await conflict.wait()
            elif not self._is_dirty(start, end):
                return

    def _is_dirty(self, start: int, end: int) -> bool:
        """Tell whether something may be claimed."""
        end = min(end, self._limit)
        return start < end and self.bitmap.bits.any(start, end - start)

    async def forget(self, offset: int, length: int) -> None:
        """Copy these clusters never again; wait until none is in flight. Cancellation-safe.

        The range is of whole clusters, but for the end of the source.
        """
        bits = self.bitmap.bits
        # The filter may have become larger than the node whose bitmap it is.
        bits.reset_touched(offset, min(length, bits.length - offset))
        if self.in_flight:
            await self.in_flight.wait_all(offset, length)
            # One of them may have failed, and its clusters be dirty again.
            bits.reset_touched(offset, min(length, bits.length - offset))

    async def drop_unallocated(self, offset: int) -> int:
        """Make the next clusters clean if the top layer of the source does not have them.

        Args:
            offset: Where to look, a multiple of the cluster size, within the source.

        Returns:
            Where to look next.

        Raises:
            OSError: The status can't be found out.
        """
        size = self.cluster_size
        extent = (await status.block_status(self.source.node, offset, self.length - offset, 1))[0]
        end = min(offset + extent.length, self.length)  # which may have become less
        if extent.flags & Status.ALLOCATED:
            return align_up(end, size)
        whole = end if end == self.length else align_down(end, size)
        if whole > offset:
            self.bitmap.bits.reset_touched(offset, whole - offset)
            self._progress(0)
        return end if whole == end else whole + size  # a cluster partly missing stays

    async def _copy_dirty(
        self, offset: int, end: int, throttle: Throttle | None, until: Halt | None, workers: int
    ) -> None:
        """Claim and copy what is dirty now, in order; several requests at once."""
        crew = together.Crew()
        workers = min(workers, MAX_REQUESTS)
        ahead = Lookahead(self.source.node, self._ask) if throttle is not None else None
        try:
            while not crew.failed and (until is None or not until.stopping):
                stop = min(end, self._limit)
                if offset >= stop or (req := self._claim(offset, stop)) is None:
                    break
                zero = await self._settle(req, ahead)
                if zero is None:
                    self._leave(req)
                    self._progress(0)
                    offset = req.offset + req.length
                    await asyncio.sleep(0)  # others have their turn, as below
                    continue
                if throttle is not None:
                    delay = throttle.delay_s()
                    if delay or throttle.stopping:
                        self._unclaim(req)
                        if throttle.stopping:
                            break
                        await throttle.pause(delay)
                        continue
                    throttle.account(req.length)
                offset = req.offset + req.length
                if not crew and not self._is_dirty(offset, end):
                    await self._transfer(req, zero=zero)
                    break
                weight = 0 if zero else min(req.length, self._max_piece)
                if not crew.start(self._transfer(req, zero=zero), weight):
                    # Of memory and holes all may end at once: others, such as who would end
                    # this, have their turn, too.
                    await asyncio.sleep(0)
                elif len(crew) >= workers or crew.load >= MAX_FLYING:
                    await crew.some_done()
        except asyncio.CancelledError:
            await crew.cancel()
            raise
        except BaseException:
            await crew.all_done()
            raise
        if (error := await crew.all_done()) is not None:
            raise error

    async def _copy_claimed(self, req: Req) -> None:
        """Copy one cluster or a part of it, which no status makes smaller."""
        if (zero := await self._settle(req, None)) is None:
            self._leave(req)
            self._progress(0)
        else:
            await self._transfer(req, zero=zero)

    def _claim(self, offset: int, end: int) -> Req | None:
        """Take the next dirty clusters. No await inside: nobody else can take them."""
        area = self.bitmap.bits.take(offset, end, self._max_chunk)
        if area is None:
            return None
        start, length = area
        self._claimed += align_up(length, self.cluster_size)
        return self.in_flight.add(start, length)

    def _unclaim(self, req: Req) -> None:
        """Make the clusters of a failed copy dirty again, and wake those who wait for it."""
        self.bitmap.bits.set(req.offset, req.length)
        self._leave(req)

    def _leave(self, req: Req) -> int:
        """Take a claim off the list; returns the bytes of its whole clusters."""
        req.remove()
        whole = align_up(req.length, self.cluster_size)
        self._claimed -= whole
        return whole

    def _progress(self, copied: int) -> None:
        if self.on_progress is not None:
            self.on_progress(copied)

    @property
    def _ask(self) -> Ask:
        return status.block_status if self.skip_unallocated else status.status_above

    async def _settle(self, req: Req, ahead: Lookahead | None) -> bool | None:
        """Cut the claim down to one run of equal status; ``ahead`` knows more than the claim.

        Returns:
            Whether it is all zero; None when there is nothing to copy.
        """
        if self.source.node.driver.is_known_data(req.offset, req.length):
            return False
        try:
            if ahead is not None:
                extent = await ahead.get(req.offset, req.length)
            else:
                ask = self._ask
                extent = (await ask(self.source.node, req.offset, req.length, 1))[0]
            length, flags = extent.length, extent.flags
        except OSError:
            length, flags = 0, Status.DATA | Status.ALLOCATED
        except BaseException:
            self._unclaim(req)
            raise
        if length < req.length:
            length = align_down(length, self.cluster_size)
            if not length:  # mixed within a cluster
                length = min(self.cluster_size, req.length)
                flags = Status.DATA | Status.ALLOCATED
            if length < req.length:
                self.bitmap.bits.set(req.offset + length, req.length - length)
                self._claimed -= align_up(req.length - length, self.cluster_size)
                req.shrink(length)
        if self.skip_unallocated and not flags & Status.ALLOCATED:
            return None
        return bool(flags & Status.ZERO)

    async def _transfer(self, req: Req, *, zero: bool) -> None:
        """Move the data, a huge cluster that the user wished for in pieces."""
        buf: memoryview | None = None
        is_read = False
        end = req.offset + req.length
        piece = min(req.length, self._max_piece)
        try:
            if zero:
                flags = self._write_flags | ReqFlags.MAY_UNMAP
                await pipeline.pwrite_zeroes(self.target, req.offset, req.length, flags)
            else:
                buf = self._buffers.take(piece) or await self._buffers.wait_for(piece)
                for offset in range(req.offset, end, piece):
                    part = buf[: end - offset]
                    is_read = True
                    if (io := pipeline.pread(self.source, offset, part)) is not DONE:
                        await io
                    is_read = False
                    if self._compresses:
                        await pipeline.pwrite_compressed(self.target, offset, part)
                    else:
                        await pipeline.pwrite(self.target, offset, part, self._write_flags)
        except OSError as error:
            self._unclaim(req)
            raise CopyError(error, req, is_read=is_read) from error
        except BaseException:
            self._unclaim(req)
            raise
        finally:
            if buf is not None:
                self._buffers.give(buf)
        self._progress(self._leave(req))

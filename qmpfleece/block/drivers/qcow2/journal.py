"""The order in which metadata reaches the file, so that a crash leaves a valid image.

One round takes a copy of all that is dirty, in one step, and writes it::

    refcount blocks -> [flush] -> refcount table -> [flush]
                    -> L2 tables, L1 entries -> [flush] -> given-back clusters

* What an L2 entry refers to has been written before, and its refcount too.
* Clusters are given back by the round after the one that wrote the tables without them, and
  only when no request that may still use them is in flight. Until then nobody can get them.

So a crash leaves at most clusters with too high a refcount: leaks. With lazy refcounts the
blocks are left out and the image is marked dirty; whoever opens it next counts again.
"""

import asyncio
import contextlib
import errno
from array import array
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.tables import WORD64, Table, TableCache

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

#: So many runs, or clusters, may wait to be given back before requests see to it themselves: runs
#: take time to be given back, clusters let the file grow.
MANY_FREES = 4096
MANY_CLUSTERS = 32768


class Free(NamedTuple):
    """A reference to ``clusters`` clusters from number ``first`` on, that is to be dropped.

    Attributes:
        first: Number of the first cluster.
        clusters: How many.
        discard: Whether to discard them in the file when nobody refers to them any more.
    """

    first: int
    clusters: int
    discard: bool


class Epoch:
    """Requests that began in one span of time; the clusters that they use must stay.

    As a context manager it holds them for the length of the block.

    Attributes:
        users: How many are in flight.
    """

    __slots__ = ("_over", "users")

    def __init__(self) -> None:
        self.users = 0
        self._over: asyncio.Future[None] | None = None

    def enter(self) -> None:
        """Be one user more."""
        self.users += 1

    def leave(self) -> None:
        """Be one user less."""
        self.users -= 1
        if not self.users and self._over is not None:
            over, self._over = self._over, None
            over.set_result(None)

    async def over(self) -> None:
        """Wait until nobody is left. Cancellation-safe."""
        while self.users:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._over)

    def __enter__(self) -> None:
        self.users += 1

    def __exit__(self, *_: object) -> None:
        self.leave()


class _Given(NamedTuple):
    """What a round has dropped, which no table in the file refers to any more.

    Attributes:
        number: Of the round.
        epoch: The requests that may still use it.
        frees: The clusters.
    """

    number: int
    epoch: Epoch
    frees: list[Free]


class _Round(NamedTuple):
    """What one round writes: copies, so that changes meanwhile belong to the next one."""

    blocks: list[tuple[Table, memoryview]]
    reftable: dict[int, int]
    move: tuple[int, memoryview] | None
    tables: list[tuple[Table, memoryview]]
    l1: dict[int, int]
    frees: list[Free]
    epoch: Epoch


class Journal:
    """Writes the metadata of an image.

    Attributes:
        epoch: What requests enter while they use clusters of the file.
    """

    def __init__(self, image: "Image") -> None:
        self._image = image
        self.epoch = Epoch()
        self._busy: asyncio.Future[None] | None = None
        self._l1_dirty: set[int] = set()
        self._frees: list[Free] = []
        self._free_clusters = 0
        #: Dropped on disk, by the rounds that did it.
        self._ready: deque[_Given] = deque()
        #: How many rounds have been written.
        self._rounds = 0
        #: Who gives back what is no more among ``_ready``.
        self._releasing = Epoch()

    # -- noting, synchronously ------------------------------------------------------------

    def l1_changed(self, index: int) -> None:
        """Note that an L1 entry is to be written."""
        self._l1_dirty.add(index)

    def free(self, first: int, count: int, *, discard: bool) -> None:
        """Drop a reference to clusters; whatever referred to them is already changed."""
        self._free_clusters += count
        if self._frees and self._frees[-1].discard == discard:
            last = self._frees[-1]
            if last.first + last.clusters == first:
                self._frees[-1] = Free(last.first, last.clusters + count, discard)
                return
        self._frees.append(Free(first, count, discard))

    @property
    def long(self) -> bool:
        """Whether giving back what waits for it takes long by now."""
        return len(self._frees) > MANY_FREES

    @property
    def overfull(self) -> bool:
        """Whether so many clusters wait to be given back that a request should see to it."""
        return self.long or self._free_clusters > MANY_CLUSTERS

    @property
    def waiting(self) -> bool:
        """Whether any clusters wait to be given back."""
        return bool(self._frees or self._ready)

    # -- writing --------------------------------------------------------------------------

    async def flush(self, *, everything: bool = False) -> None:
        """Write all metadata, then give back what can be given back.

        Args:
            everything: Write refcounts also where they are lazy.

        Raises:
            OSError: Something could not be written; it stays dirty.
        """
        await self.write(everything=everything)
        if self._ready:
            await self._give_back()

    async def found_room(self, error: BaseException, first: int) -> bool:
        """Give back what is needed, if there is no space; wait for who may still use it.

        Called by who holds no epoch and has freed what could not be written.

        Args:
            error: Why it could not.
            first: Number of the first cluster that was to be written.

        Returns:
            Whether a cluster before that one may be free: it has its place in the file already.
        """
        if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
            return False
        with contextlib.suppress(OSError):  # that there is no space is what counts
            await self.write(everything=False)
        last = self._rounds
        refcounts = self._image.refcounts
        with contextlib.suppress(OSError):
            while refcounts.hint >= first:
                if self._releasing.users:
                    await self._releasing.over()
                elif self._ready and self._ready[0].number <= last:
                    epoch = self._ready[0].epoch
                    await epoch.over()
                    await self._give_back()
                else:
                    break
        return refcounts.hint < first

    async def settle(self) -> None:
        """Write everything until nothing is left to do. No request is in flight."""
        while True:
            await self.flush(everything=True)
            if not (self.waiting or self._any_dirty()):
                return

    def _any_dirty(self) -> bool:
        image = self._image
        return bool(
            self._l1_dirty
            or image.refcounts.changed
            or any(table.dirty for table in image.l2)
            or any(table.dirty for table in image.blocks)
        )

    async def write(
        self,
        *,
        everything: bool = True,
        then: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Write what is dirty now, after a round that is under way.

        Args:
            everything: Write refcounts also where they are lazy.
            then: Called in the step that takes the copies; what it returns is awaited after
                they are written, before the next round.

        Raises:
            OSError: Something could not be written; it stays dirty.
        """
        while self._busy is not None:
            await asyncio.shield(self._busy)
        work = self._take(everything=everything)
        if work is None:
            if then is None and not self._image.header_writer.due:
                return
            work = _Round([], {}, None, [], {}, [], self.epoch)
        last = then() if then is not None else None
        self._busy = asyncio.get_running_loop().create_future()
        try:
            await self._write_round(work)
            if last is not None:
                await last
        except BaseException:
            self._undo(work)
            raise
        finally:
            if last is not None:
                last.close()
            for table, _ in work.blocks + work.tables:
                table.writing = False
            busy, self._busy = self._busy, None
            busy.set_result(None)
        self._rounds += 1
        if work.frees:
            self._ready.append(_Given(self._rounds, work.epoch, work.frees))

    def _take(self, *, everything: bool) -> _Round | None:
        image = self._image
        # Blocks that exist must be known on disk, so that they can be counted again.
        lazy = image.lazy and not everything and not image.refcounts.changed
        tables = _take_dirty(image.l2)
        blocks = [] if lazy else _take_dirty(image.blocks)
        changed, move = ({}, None) if lazy else image.refcounts.take_changes()
        l1 = {index: image.l1[index] for index in self._l1_dirty if index < len(image.l1)}
        if not (tables or blocks or changed or move or l1 or self._frees):
            return None
        frees, self._frees, self._free_clusters = self._frees, [], 0
        epoch = self.epoch
        if frees:
            self.epoch = Epoch()
        self._l1_dirty.clear()
        return _Round(blocks, changed, move, tables, l1, frees, epoch)

    def _undo(self, work: _Round) -> None:
        """Make dirty again what may not have been written."""
        for table, _ in work.blocks + work.tables:
            table.dirty = True
        self._image.refcounts.put_changes(work.reftable, moved=work.move is not None)
        self._l1_dirty.update(work.l1)
        # The requests of the old epoch are still told apart: the frees join a later one.
        if work.frees:
            self._ready.append(_Given(self._rounds, work.epoch, []))
            self._frees = work.frees + self._frees
            self._free_clusters += sum(item.clusters for item in work.frees)

    async def _write_round(self, work: _Round) -> None:
        image = self._image
        await image.header_writer.write_due()
        how = "refblock_update_part"
        if work.move is not None:
            await image.note("reftable_grow")
            how = "refblock_alloc_write_blocks"
        new = set(work.reftable.values())
        for table, data in work.blocks:
            await image.note("refblock_alloc_write" if table.offset in new else how)
            await image.write_metadata(table.offset, data, overlap.REFBLOCK)
        if work.move is not None:
            offset, data = work.move
            await pipeline.flush(image.file)
            await image.note("refblock_alloc_write_table")
            await image.write_metadata(offset, data, overlap.REFTABLE)
            await pipeline.flush(image.file)
            image.header.refcount_table_offset = offset
            image.header.refcount_table_clusters = len(data) >> image.geometry.cluster_bits
            await image.note("refblock_alloc_switch_table")
            await image.header_writer.write_fields()
        elif work.reftable:
            await image.note("refblock_alloc_hookup")
            await pipeline.flush(image.file)
            await self._write_words(
                image.header.refcount_table_offset, work.reftable, overlap.REFTABLE
            )
        if work.tables or work.l1:
            if image.lazy:
                await image.header_writer.set_dirty_bit()
            await pipeline.flush(image.file)
            if image.data is not image.file:
                await pipeline.flush(image.data)
        for table, data in work.tables:
            await image.note("l2_update")
            await image.write_metadata(table.offset, data, overlap.ACTIVE_L2)
        if work.l1:
            await image.note("l1_update")
        await self._write_words(image.header.l1_offset, work.l1, overlap.ACTIVE_L1)

    async def _write_words(self, base: int, words: dict[int, int], kind: str) -> None:
        """Write entries of a table, in runs."""
        run: list[int] = []
        start = 0
        for index in sorted(words):
            if run and index != start + len(run):
                await self._image.write_metadata(base + 8 * start, _words(run), kind)
                run = []
            if not run:
                start = index
            run.append(words[index])
        if run:
            await self._image.write_metadata(base + 8 * start, _words(run), kind)

    async def _give_back(self) -> None:
        """Give back clusters whose last reference is gone from the file.

        What a round writes during the flush may still be lost with the power: that waits.
        """
        stable = self._rounds
        await pipeline.flush(self._image.file)
        while self._ready and self._ready[0].number <= stable and not self._ready[0].epoch.users:
            number, _, frees = self._ready.popleft()
            with self._releasing:
                for position, item in enumerate(frees):
                    try:
                        await self._image.refcounts.release(item)
                    except BaseException:
                        self._ready.appendleft(_Given(number, Epoch(), frees[position + 1 :]))
                        raise


def _take_dirty(cache: TableCache) -> list[tuple[Table, memoryview]]:
    taken = []
    for table in cache:
        if table.dirty:
            table.dirty = False
            table.writing = True
            taken.append((table, cache.codec.encode(table.words)))
    return taken


def _words(values: list[int]) -> memoryview:
    return WORD64.encode(array("Q", values))

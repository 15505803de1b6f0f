"""backup: copy a disk, as it was when the job began, to another node while it is in use.

A copy-before-write filter is put above the source, under whatever uses it. Guest writes copy
what they are about to overwrite; the job copies the rest in the background, through the same
engine, so each cluster is copied once::

    [users] -> [filter] -> [source]        guest writes:  filter -> engine
                  |                        the job:       engine
               [target]

A bitmap may decide what is copied, and may be brought up to date when the job ends: from the
start on a successor records new writes in its place.

Source: QAPI ``BackupCommon``, ``MirrorSyncMode``, ``BitmapSyncMode``.
"""

from contextlib import suppress
from typing import Final, Literal, NamedTuple

from qmpfleece.base.errors import BlockError, QmpError, errno_of
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.block_copy import MAX_WORKERS, BlockCopy
from qmpfleece.block.copy_error import CopyError
from qmpfleece.block.drain import drained
from qmpfleece.block.drivers.copy_before_write import CopyBeforeWrite, CopyBeforeWriteOptions
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.jobs.block_job import BlockJob, OnError
from qmpfleece.jobs.job import Job
from qmpfleece.jobs.manager import JobManager
from qmpfleece.jobs.ratelimit import SLICE_S, Allowance
from qmpfleece.jobs.txn import JobTxn
from qmpfleece.jobs.users import movable

#: What is copied. ``incremental`` of QAPI is ``bitmap`` with bitmap mode ``on-success``.
SyncMode = Literal["full", "top", "bitmap", "none"]
#: QAPI ``OnCbwError``.
CbwError = Literal["break-guest-write", "break-snapshot"]
#: QAPI ``BitmapSyncMode``.
BitmapMode = Literal["on-success", "never", "always"]

_MAX_INT: Final = (1 << 31) - 1


class BackupSettings(NamedTuple):
    """What a backup is to do; units are bytes.

    Attributes:
        job_id: None for the name of the device that uses the source.
        source: What is backed up.
        target: Where to; as large as the source.
        sync: What is copied.
        bitmap: A bitmap of the source, to copy by or to bring up to date.
        bitmap_mode: When it is brought up to date.
        speed: Bytes per second, 0 for no limit.
        max_workers: Requests at once.
        max_chunk: Bytes of a request at most, 0 for no wish.
        filter_name: The filter's node name.
        compress: Write compressed.
        on_cbw_error: Whether the guest's write or the backup fails when copying for it does.
        cbw_timeout: Seconds after which such a copy counts as failed, 0 for never.
        on_source_error: What to do when reading fails.
        on_target_error: What to do when writing fails.
        auto_finalize: Finish without being asked.
        auto_dismiss: Be forgotten at the end.
    """

    job_id: str | None
    source: Node
    target: Node
    sync: SyncMode
    bitmap: DirtyBitmap | None = None
    bitmap_mode: BitmapMode = "on-success"
    speed: int = 0
    max_workers: int = MAX_WORKERS
    max_chunk: int = 0
    filter_name: str | None = None
    compress: bool = False
    on_cbw_error: CbwError = "break-guest-write"
    cbw_timeout: int = 0
    on_source_error: OnError = "report"
    on_target_error: OnError = "report"
    auto_finalize: bool = True
    auto_dismiss: bool = True


class BackupJob(BlockJob, kind="backup"):
    """The job. ``create_backup`` makes one."""

    def __init__(self, graph: Graph, settings: BackupSettings, cbw: CopyBeforeWrite) -> None:
        super().__init__(
            graph,
            settings.job_id or "",
            auto_finalize=settings.auto_finalize,
            auto_dismiss=settings.auto_dismiss,
        )
        self._settings: Final = settings
        self._cbw: Final = cbw
        self._copier: Final = cbw.copier
        self._choose_clusters(self._copier)
        self._copier.on_progress = self._progress
        self._progress(0)
        cbw.snapshot.on_broken = self.interrupt

    def _choose_clusters(self, copier: BlockCopy) -> None:
        settings = self._settings
        if settings.compress:
            copier.compress()
        elif settings.max_chunk:
            copier.limit_chunk(settings.max_chunk)
        if settings.sync == "top":
            copier.skip_unallocated = True
        elif settings.sync == "bitmap":
            assert settings.bitmap is not None
            copier.bitmap.clear()
            copier.bitmap.merge(settings.bitmap)

    def _progress(self, copied: int) -> None:
        self.current += copied
        self.total = self.current + self._copier.remaining

    # -- running ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Copy everything, or wait for guest writes to do it."""
        if self._settings.sync == "none":
            while not self.cancelled:
                await self.pause_point()
                self._check_snapshot()
                await self.sleep(None)
            return
        if self._settings.sync == "top":
            await self._drop_unallocated()
        while not await self._copy():
            await self.pause_point()

    async def _copy(self) -> bool:
        """Copy until there is something to look at.

        Returns:
            Whether everything is copied, or the job is to end.

        Raises:
            CopyError: A request has failed, and that ends the job.
        """
        if self.cancelled or not self._copier.length:
            return True
        self._check_snapshot()
        if self.paused:
            return False
        self.limit.stopping = False
        try:
            await self._copier.copy(
                0, self._copier.length, throttle=self.limit, workers=self._settings.max_workers
            )
        except CopyError as error:
            # Source: observed. What fails after it was interrupted is no matter: a job that
            # goes on copies it again.
            if not self.limit.stopping:
                await self._failed(error)
            return False
        return not self.limit.stopping

    def _check_snapshot(self) -> None:
        """Fail when a guest write has broken the snapshot.

        Raises:
            BlockError: It has; with the errno of the copy that failed.
        """
        if (error := self._cbw.snapshot.error) is not None:
            raise BlockError(errno_of(error))

    def interrupt(self) -> None:
        """Let requests in flight end, and begin no more."""
        super().interrupt()
        self.limit.stop()

    async def _failed(self, error: CopyError) -> None:
        """Decide about an error.

        Raises:
            CopyError: The same: it ends the job.
        """
        settings = self._settings
        policy = settings.on_source_error if error.is_read else settings.on_target_error
        action = self.on_error(error, policy, is_read=error.is_read)
        if action == "report":
            raise error
        if action == "ignore":
            # It is tried again; what fails for ever must not keep the loop busy.
            await self.sleep(SLICE_S)
        else:
            await self.pause_point()
            if self.cancelled:
                await self._begin_again()

    async def _begin_again(self) -> None:
        """Copy what is begun at once.

        QEMU's job begins anew after the pause, and only then sees that it is to end. What
        fails now is no matter.
        """
        workers = self._settings.max_workers
        # One more than work at a time: it waits for its turn already.
        few = Allowance(self.limit, workers + 1)
        with suppress(CopyError):
            await self._copier.copy(0, self._copier.length, throttle=few, workers=workers)

    async def _drop_unallocated(self) -> None:
        """Leave out what the top layer of the source does not have."""
        offset = 0

        async def look() -> None:
            nonlocal offset
            offset = await self._copier.drop_unallocated(offset)

        while offset < self._copier.length and not self.cancelled:
            await self.pause_point()
            await self.work(look())
        self._copier.skip_unallocated = False

    @property
    def sleeps(self) -> bool:
        """Whether nothing is being copied."""
        return super().sleeps or (self.limit.waiting and not self._copier.in_flight)

    # -- the end ------------------------------------------------------------------------------

    def commit(self) -> None:
        """Bring the bitmap up to date."""
        self._release_bitmap(failed=False)

    def abort(self) -> None:
        """Put the bitmap back, or add to it what was not copied."""
        self._release_bitmap(failed=True)

    def _release_bitmap(self, *, failed: bool) -> None:
        settings = self._settings
        bitmap, bitmaps = settings.bitmap, settings.source.bitmaps
        if bitmap is None:
            return
        mode = settings.bitmap_mode
        # A job that never ran has not happened.
        if mode == "never" or (failed and (mode == "on-success" or not self.started)):
            bitmaps.remove(bitmap.reclaim())
            return
        heir = bitmap.abdicate()
        bitmaps.remove(bitmap)
        if failed:
            heir.merge(self._copier.bitmap)
            for req in self._copier.in_flight:  # copies for the guest, which may fail as well
                heir.bits.set(req.offset, req.length)

    async def clean(self) -> None:
        """Take the filter out, and give the target back."""
        self._copier.on_progress = self._cbw.snapshot.on_broken = None
        node = self._cbw.node
        async with drained(node):
            nodes = self.let_go()
            remove_filter(self.graph, node)
        for node in nodes:
            await self.graph.release(node)


async def create_backup(
    graph: Graph, jobs: JobManager, settings: BackupSettings, txn: JobTxn | None = None
) -> BackupJob:
    """Put the filter in place and make the job, which is not started.

    The snapshot is that of the moment at which this returns. The source is drained by the
    caller, and stays so until the job is started or cancelled.

    Raises:
        QmpError: It is refused; nothing has changed.
    """
    source, bitmap = settings.source, settings.bitmap
    _check(settings)
    if bitmap is not None:
        if settings.bitmap_mode != "never":
            bitmap.check()
        source.bitmaps.insert(0, bitmap.create_successor())
    try:
        _check_sizes(settings)
        node = await insert_filter(graph, settings)
        try:
            return _create_job(graph, jobs, settings, node, txn)
        except BaseException:
            remove_filter(graph, node)
            await graph.release(node)
            raise
    except BaseException:
        if bitmap is not None:
            source.bitmaps.remove(bitmap.reclaim())
        raise


def _check(settings: BackupSettings) -> None:
    """Check what can be checked before anything changes, in QEMU's order."""
    if settings.source is settings.target:
        raise QmpError("Source and target cannot be the same")
    for node in (settings.source, settings.target):
        if not node.has_medium:
            raise QmpError(f"Device is not inserted: {node.device_name}")
    if settings.compress and not settings.target.driver.compresses:
        name = settings.target.device_name
        raise QmpError(f"Compression is not supported for this drive {name}")
    settings.source.check_free(may_be_backing=True)
    settings.target.check_free(may_be_backing=True)
    if not 1 <= settings.max_workers <= _MAX_INT:
        raise QmpError(f"max-workers must be between 1 and {_MAX_INT}")
    if settings.max_chunk < 0:
        raise QmpError("max-chunk must be zero (which means no limit) or positive")


def _check_sizes(settings: BackupSettings) -> None:
    if settings.source.length != settings.target.length:
        raise QmpError("Source and target image have different sizes")


def _create_job(
    graph: Graph, jobs: JobManager, settings: BackupSettings, node: Node, txn: JobTxn | None
) -> BackupJob:
    cbw = node.driver
    assert isinstance(cbw, CopyBeforeWrite)
    cluster_size = cbw.copier.cluster_size
    if 0 < settings.max_chunk < cluster_size:
        raise QmpError(
            f"Required max-chunk ({settings.max_chunk}) is less than backup cluster size"
            f" ({cluster_size})"
        )
    if settings.job_id is None:
        settings = settings._replace(job_id=node.device_name)
    assert settings.job_id is not None
    jobs.check_id(settings.job_id)
    job = BackupJob(graph, settings, cbw)
    jobs.add(job, txn)
    try:
        if settings.speed:
            job.set_speed(settings.speed)
        # Where nobody uses the source, the filter writes to the target from now on only.
        job.hold("main node", node)
        job.hold("target", settings.target)
    except QmpError:
        job.let_go()
        jobs.discard(job)
        raise
    return job


async def insert_filter(graph: Graph, settings: BackupSettings) -> Node:
    """Put a copy-before-write filter above the source, under whatever is attached.

    The source is drained.

    Raises:
        QmpError: It can't be done; nothing has changed.
    """
    source = settings.source
    options = CopyBeforeWriteOptions(
        driver="copy-before-write",
        node_name=settings.filter_name,
        file=source.name,
        target=settings.target.name,
        on_cbw_error=settings.on_cbw_error,
        cbw_timeout=settings.cbw_timeout,
    )
    try:
        node = await graph.open(options)
    except QmpError as error:
        raise QmpError(f"Could not create node: {error.desc}") from error
    try:
        graph.replace_node(movable(source, node), node)
    except QmpError as error:
        await graph.release(node)
        raise QmpError(f"Could not replace node: {error.desc}") from error
    return node


def remove_filter(graph: Graph, node: Node) -> None:
    """Let those above the filter use what is below it. The filter is drained.

    That need not be the source: another backup may have put its filter in between.
    """
    users = [edge for edge in node.parents if not isinstance(edge.parent, Job)]
    graph.replace_node(users, node.children["file"].node)

"""blockdev-backup and drive-backup: back up a disk while it is in use.

Both commands are transactions of one action.

Source: QAPI ``BlockdevBackup``, ``DriveBackup``, ``BackupCommon``.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.block_copy import MAX_WORKERS
from qmpfleece.block.node import Node
from qmpfleece.block.status import skip_filters
from qmpfleece.control import images, transaction
from qmpfleece.control.command import Boxed, command
from qmpfleece.control.describe import filename
from qmpfleece.control.system import System
from qmpfleece.control.transaction import Action
from qmpfleece.jobs.block_job import OnError
from qmpfleece.jobs.kinds.backup import (
    BackupJob,
    BackupSettings,
    BitmapMode,
    CbwError,
    SyncMode,
    create_backup,
)
from qmpfleece.jobs.txn import JobTxn
from qmpfleece.qapi.model import Int64, Model, Uint32

_SYNC: Final[dict[str, SyncMode]] = {
    "full": "full",
    "top": "top",
    "none": "none",
    "bitmap": "bitmap",
    "incremental": "bitmap",
}


class BackupPerf(Model):
    """QAPI ``BackupPerf``.

    Attributes:
        use_copy_range: Accepted, without effect: data is always read and written.
        max_workers: Requests at once.
        max_chunk: Bytes of a request at most, 0 for no wish.
    """

    use_copy_range: bool | None = None
    max_workers: Int64 | None = None
    max_chunk: Int64 | None = None


class BackupCommon(Model):
    """QAPI ``BackupCommon``, with ``on-cbw-error`` and ``cbw-timeout`` of QEMU 10."""

    job_id: str | None = None
    device: str
    sync: Literal["top", "full", "none", "incremental", "bitmap"]
    speed: Int64 | None = None
    bitmap: str | None = None
    bitmap_mode: BitmapMode | None = None
    compress: bool | None = None
    on_source_error: OnError | None = None
    on_target_error: OnError | None = None
    auto_finalize: bool | None = None
    auto_dismiss: bool | None = None
    filter_node_name: str | None = None
    on_cbw_error: CbwError | None = None
    cbw_timeout: Uint32 | None = None
    x_perf: BackupPerf | None = None


class BlockdevBackup(BackupCommon):
    """QAPI ``BlockdevBackup``."""

    target: str


class DriveBackup(BackupCommon):
    """QAPI ``DriveBackup``.

    Attributes:
        target: The file name of the image.
        format: Its driver; that of the source by default, or what the image looks like.
        mode: Whether the image is made.
    """

    target: str
    format: str | None = None
    mode: Literal["existing", "absolute-paths"] | None = None


class BackupAction(Action):
    """Start a backup; of the job nothing is left when the transaction fails."""

    grouped = True

    def __init__(self, system: System, data: Any, txn: JobTxn | None = None) -> None:
        super().__init__(system, data, txn)
        self._job: BackupJob | None = None

    async def prepare_job(self, source: Node, target: Node) -> None:
        """Create the job. The source stays drained until ``clean``.

        Raises:
            QmpError: It is refused.
        """
        settings = backup_settings(self.data, source, target)
        self._job = await create_backup(self.system.graph, self.system.jobs, settings, self.txn)

    def commit(self) -> None:
        """Start the job, which pauses until the source is no longer drained."""
        assert self._job is not None
        self._job.start()

    async def abort(self) -> None:
        """Cancel the job."""
        if self._job is not None:
            await self._job.cancel()


class BlockdevBackupAction(BackupAction, type="blockdev-backup"):
    """Start a backup to a node."""

    model: ClassVar[type[Model]] = BlockdevBackup

    async def prepare(self) -> None:
        """Create the job."""
        graph = self.system.graph
        source = await self.find_drained(lambda: graph.find(self.data.device))
        await self.prepare_job(source, graph.find(self.data.target))


@command("blockdev-backup")
async def blockdev_backup(system: System, options: Annotated[BlockdevBackup, Boxed]) -> None:
    """Start a backup to a node, which is as large as the source."""
    await transaction.run(system, [BlockdevBackupAction(system, options)])


class DriveBackupAction(BackupAction, type="drive-backup"):
    """Start a backup to an image, which is made first and closed in the end."""

    model: ClassVar[type[Model]] = DriveBackup

    async def prepare(self) -> None:
        """Make and open the image, and create the job."""
        graph = self.system.graph
        source = await self.find_drained(lambda: graph.find(self.data.device))
        source.check_free(may_be_backing=True)
        target = await self._open_target(source)
        try:
            await self.prepare_job(source, target)
        except BaseException:
            await graph.release(target)
            raise

    async def _open_target(self, source: Node) -> Node:
        """Return the target, which nobody holds yet.

        An image for sync=none gets the source as its backing file: it shows the disk as it
        was, all the time. One for sync=top gets the source's own; without one, all is copied.
        """
        graph, given = self.system.graph, self.data
        layer = skip_filters(source)
        below = source if given.sync == "none" else None
        if given.sync == "top":
            if (backing := layer.children.get("backing")) is not None:
                below = backing.node
            else:
                self.data = given = given.model_copy(update={"sync": "full"})
        image_format = given.format
        probed = image_format is None and given.mode == "existing"
        if given.mode == "existing":
            if image_format is None:
                image_format = await images.probe(graph, given.target)
        else:
            if image_format is None:
                image_format = source.driver.driver_name
            named = (filename(below), below.driver.driver_name) if below is not None else None
            await images.create_image(graph, given.target, image_format, source.length, named)
        options: dict[str, str | None] = {"discard": "unmap", "detect-zeroes": "unmap"}
        if given.sync == "none" and image_format == "qcow2":
            options["backing"] = source.name
        target = await images.open_image(
            graph,
            given.target,
            image_format,
            like=source.options,
            options=options,
            probed=probed,
        )
        if given.sync == "none" and image_format != "qcow2":
            await graph.release(target)
            raise QmpError(
                f"Driver '{image_format}' of node '{target.name}' does not support backing files"
            )
        return target


@command("drive-backup")
async def drive_backup(system: System, options: Annotated[DriveBackup, Boxed]) -> None:
    """Start a backup to an image file, which is made unless it exists already."""
    await transaction.run(system, [DriveBackupAction(system, options)])


def backup_settings(given: BackupCommon, source: Node, target: Node) -> BackupSettings:
    """Return what a backup job is to do.

    Raises:
        QmpError: The members don't fit together; QEMU's checks in QEMU's order.
    """
    mode = given.bitmap_mode
    if given.sync in {"bitmap", "incremental"} and given.bitmap is None:
        raise QmpError(f"must provide a valid bitmap name for '{given.sync}' sync mode")
    if given.sync == "incremental":
        if mode not in {None, "on-success"}:
            raise QmpError(
                "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"
            )
        mode = "on-success"
    bitmap = _bitmap(given, source, mode)
    perf = given.x_perf or BackupPerf()
    return BackupSettings(
        job_id=given.job_id,
        source=source,
        target=target,
        sync=_SYNC[given.sync],
        bitmap=bitmap,
        bitmap_mode=mode or "on-success",
        speed=given.speed or 0,
        max_workers=MAX_WORKERS if perf.max_workers is None else perf.max_workers,
        max_chunk=perf.max_chunk or 0,
        filter_name=given.filter_node_name,
        compress=bool(given.compress),
        on_cbw_error=given.on_cbw_error or "break-guest-write",
        cbw_timeout=given.cbw_timeout or 0,
        on_source_error=given.on_source_error or "report",
        on_target_error=given.on_target_error or "report",
        auto_finalize=given.auto_finalize is not False,
        auto_dismiss=given.auto_dismiss is not False,
    )


def _bitmap(given: BackupCommon, source: Node, mode: BitmapMode | None) -> DirtyBitmap | None:
    if given.bitmap is None:
        if mode is not None:
            raise QmpError("Cannot specify bitmap sync mode without a bitmap")
        return None
    bitmap = next((item for item in source.bitmaps if item.name == given.bitmap), None)
    if bitmap is None:
        raise QmpError(f"Bitmap '{given.bitmap}' could not be found")
    if mode is None:
        raise QmpError("Bitmap sync mode must be given when providing a bitmap")
    bitmap.check(allow_readonly=True)
    if given.sync == "none":
        raise QmpError("sync mode 'none' does not produce meaningful bitmap outputs")
    if mode == "never" and given.sync not in {"bitmap", "incremental"}:
        raise QmpError(
            "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode"
            f" '{given.sync}'"
        )
    return bitmap

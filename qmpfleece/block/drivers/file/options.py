"""What is said of the driver. Apart from it: compiled modules keep no annotations for pydantic."""

from typing import Literal

from qmpfleece.qapi.blockdev import AioOption, BlockdevOptions, OnOffAuto
from qmpfleece.qapi.model import Int64


class FileOptions(BlockdevOptions):
    """QAPI ``BlockdevOptionsFile``.

    Attributes:
        filename: Path on the host.
        pr_manager: Refused: SCSI reservations are not supported.
        locking: Whether to take QEMU's lock bytes; ``auto`` takes them.
        aio: ``threads``: nothing but worker threads; else the best there is. ``native`` needs
            ``cache.direct``.
        aio_max_batch: Accepted, without effect.
        drop_cache: Accepted, without effect.
        x_check_cache_dropped: Accepted, without effect.
    """

    driver: Literal["file"]
    filename: str
    pr_manager: str | None = None
    locking: OnOffAuto | None = None
    aio: AioOption | None = None
    aio_max_batch: Int64 | None = None
    drop_cache: bool | None = None
    x_check_cache_dropped: bool | None = None


class HostDeviceOptions(FileOptions):
    """The same for the driver ``host_device``."""

    driver: Literal["host_device"]  # type: ignore[assignment]  # another literal, by design

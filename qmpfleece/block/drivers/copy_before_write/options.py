"""What is said of the driver. Apart from it: compiled modules keep no annotations for pydantic."""

from typing import Literal

from qmpfleece.qapi.bitmaps import BlockDirtyBitmap
from qmpfleece.qapi.blockdev import BlockdevOptions, BlockdevRef
from qmpfleece.qapi.model import Size, Uint32


class CopyBeforeWriteOptions(BlockdevOptions):
    """QAPI ``BlockdevOptionsCbw``.

    Attributes:
        file: The active disk.
        target: The temporary image.
        bitmap: Only what is dirty here is copied and can be read; all by default.
        on_cbw_error: Whether the guest's write or the snapshot fails when a copy does.
        cbw_timeout: Seconds after which a copy counts as failed, 0 for never.
        min_cluster_size: The least unit of copying, in bytes, a power of two.
    """

    driver: Literal["copy-before-write"]
    file: BlockdevRef
    target: BlockdevRef
    bitmap: BlockDirtyBitmap | None = None
    on_cbw_error: Literal["break-guest-write", "break-snapshot"] | None = None
    cbw_timeout: Uint32 | None = None
    min_cluster_size: Size | None = None

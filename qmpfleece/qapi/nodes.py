"""What is told about block nodes.

Source: QAPI ``BlockDeviceInfo``, ``ImageInfo``, ``BlockDirtyInfo``, ``BlockInfo``.
"""

from typing import Any, Literal

from pydantic import Field

from qmpfleece.qapi.blockdev import DetectZeroes
from qmpfleece.qapi.io_limits import IoBursts, IoRates
from qmpfleece.qapi.model import Int64, Model, Uint32


class BlockDirtyInfo(Model):
    """QAPI ``BlockDirtyInfo``; an unnamed bitmap belongs to a driver or a job."""

    name: str | None = None
    count: Int64
    granularity: Uint32
    recording: bool
    busy: bool
    persistent: bool
    inconsistent: bool | None = None


class BlockdevCacheInfo(Model):
    """QAPI ``BlockdevCacheInfo``."""

    writeback: bool
    direct: bool
    no_flush: bool


class ImageInfo(Model):
    """QAPI ``ImageInfo``; sizes in bytes.

    ``format_specific`` is QAPI's union ``ImageInfoSpecific``, ``snapshots`` are ``SnapshotInfo``;
    the driver of the format fills them.
    """

    filename: str
    format: str
    dirty_flag: bool | None = None
    actual_size: Int64 | None = None
    virtual_size: Int64
    cluster_size: Int64 | None = None
    encrypted: bool | None = None
    compressed: bool | None = None
    backing_filename: str | None = None
    full_backing_filename: str | None = None
    backing_filename_format: str | None = None
    snapshots: list[dict[str, Any]] | None = None
    backing_image: "ImageInfo | None" = None
    format_specific: dict[str, Any] | None = None


class _NodeInfo(Model):
    """The members of ``BlockDeviceInfo`` before the rates."""

    file: str
    node_name: str | None = None
    ro: bool
    drv: str
    backing_file: str | None = Field(None, alias="backing_file")
    backing_file_depth: Int64 = Field(alias="backing_file_depth")
    encrypted: bool
    detect_zeroes: DetectZeroes = Field(alias="detect_zeroes")


class _ShownImage(Model):
    """The member of ``BlockDeviceInfo`` between the rates and the bursts."""

    image: ImageInfo


class BlockDeviceInfo(IoBursts, _ShownImage, IoRates, _NodeInfo):
    """QAPI ``BlockDeviceInfo``; the throttling members are those of the disk, 0 for a node.

    The members of the last base come first.
    """

    group: str | None = None
    cache: BlockdevCacheInfo
    write_threshold: Int64 = Field(alias="write_threshold")
    dirty_bitmaps: list[BlockDirtyInfo] | None = None


class BlockInfo(Model):
    """QAPI ``BlockInfo``: a device that uses a node."""

    device: str
    qdev: str | None = None
    type: str
    removable: bool
    locked: bool
    inserted: BlockDeviceInfo | None = None
    tray_open: bool | None = Field(None, alias="tray_open")
    io_status: Literal["ok", "failed", "nospace"] | None = None

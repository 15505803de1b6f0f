"""What is told about block nodes.

Source: QAPI ``BlockDeviceInfo``, ``ImageInfo``, ``BlockDirtyInfo``, ``BlockInfo``.
"""

from typing import Any, Literal

from pydantic import Field

from qmpfleece.qapi.blockdev import DetectZeroes
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


class BlockDeviceInfo(Model):
    """QAPI ``BlockDeviceInfo``; the throttling members are those of the disk, 0 for a node."""

    file: str
    node_name: str | None = None
    ro: bool
    drv: str
    backing_file: str | None = Field(None, alias="backing_file")
    backing_file_depth: Int64 = Field(alias="backing_file_depth")
    encrypted: bool
    detect_zeroes: DetectZeroes = Field(alias="detect_zeroes")
    bps: Int64
    bps_rd: Int64 = Field(alias="bps_rd")
    bps_wr: Int64 = Field(alias="bps_wr")
    iops: Int64
    iops_rd: Int64 = Field(alias="iops_rd")
    iops_wr: Int64 = Field(alias="iops_wr")
    image: ImageInfo
    bps_max: Int64 | None = Field(None, alias="bps_max")
    bps_rd_max: Int64 | None = Field(None, alias="bps_rd_max")
    bps_wr_max: Int64 | None = Field(None, alias="bps_wr_max")
    iops_max: Int64 | None = Field(None, alias="iops_max")
    iops_rd_max: Int64 | None = Field(None, alias="iops_rd_max")
    iops_wr_max: Int64 | None = Field(None, alias="iops_wr_max")
    bps_max_length: Int64 | None = Field(None, alias="bps_max_length")
    bps_rd_max_length: Int64 | None = Field(None, alias="bps_rd_max_length")
    bps_wr_max_length: Int64 | None = Field(None, alias="bps_wr_max_length")
    iops_max_length: Int64 | None = Field(None, alias="iops_max_length")
    iops_rd_max_length: Int64 | None = Field(None, alias="iops_rd_max_length")
    iops_wr_max_length: Int64 | None = Field(None, alias="iops_wr_max_length")
    iops_size: Int64 | None = Field(None, alias="iops_size")
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

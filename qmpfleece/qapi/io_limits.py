"""The I/O limits of a disk, as they are set and as they are told.

Two models, as QEMU tells the image between them; a model that has both inherits from both.

Source: QAPI ``BlockIOThrottle`` and ``BlockDeviceInfo``, where each says all of them.
"""

from typing import Final

from pydantic import Field

from qmpfleece.qapi.model import Int64, Model

#: What this interface calls the kinds of limits, in the order of ``throttling.KINDS``.
LIMITS: Final = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


class IoRates(Model):
    """Bytes and operations per second, 0 for any number."""

    bps: Int64
    bps_rd: Int64 = Field(alias="bps_rd")
    bps_wr: Int64 = Field(alias="bps_wr")
    iops: Int64
    iops_rd: Int64 = Field(alias="iops_rd")
    iops_wr: Int64 = Field(alias="iops_wr")


class IoBursts(Model):
    """What the rates may rise to, for how many seconds; the bytes that are one operation."""

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

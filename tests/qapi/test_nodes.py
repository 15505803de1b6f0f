"""What is told about nodes."""

from qmpfleece.control.shape import struct_of
from qmpfleece.qapi.nodes import BlockDeviceInfo


def test_limits_stand_where_qemu_has_them_around_the_image() -> None:
    # Source: query-qmp-schema of QEMU 7.2.
    assert " ".join(member.wire for member in struct_of(BlockDeviceInfo).members) == (
        "file node-name ro drv backing_file backing_file_depth encrypted detect_zeroes"
        " bps bps_rd bps_wr iops iops_rd iops_wr image"
        " bps_max bps_rd_max bps_wr_max iops_max iops_rd_max iops_wr_max bps_max_length"
        " bps_rd_max_length bps_wr_max_length iops_max_length iops_rd_max_length"
        " iops_wr_max_length iops_size group cache write_threshold dirty-bitmaps"
    )

"""Making the disk in a qcow2 image longer and shorter: what is new, and what is allocated."""

from typing import Final

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.qcow2_status import told
from tests.oracle.session import Session

_LAYOUTS: Final = ("compat=1.1", "extended_l2=on", "cluster_size=512", "compat=0.10")
#: Within a cluster, and past it.
_SIZES: Final = (120 << 10, 1000 << 10)


def _resized(d: Session, *sizes: int, watched: bool = True) -> None:
    """Open the image, change its size, and see what is there."""
    file = {"driver": "file", "filename": d.path("q.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    for size in sizes:
        d.qmp("block_resize", node_name="q", size=size)
    if watched:
        d.nbd_server()
        d.qmp("block-export-add", id="e", type="nbd", node_name="q", allocation_depth=True)
        told(d)
        d.qmp("block-export-del", id="e")
        d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="q")
    d.tool("qemu-img", "check", "-q", "q.qcow2")
    d.tool("qemu-img", "convert", "-O", "raw", "q.qcow2", "out.raw")
    d.content("out.raw")


def _grown(d: Session, layout: str, *over: str) -> None:
    for written in ("write -q -P 2 0 1k", "write -q -P 3 99k 1k"):
        for size in _SIZES:
            d.tool(
                "qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, *over, "q.qcow2", "100k"
            )
            d.tool("qemu-io", "-c", written, "q.qcow2")
            _resized(d, size)


@scenario
def qcow2_grown_without_a_backing_file(d: Session) -> None:
    for layout in _LAYOUTS:
        _grown(d, layout)


@scenario
def qcow2_grown_over_a_shorter_backing_file(d: Session) -> None:
    d.file("base.raw", 90 << 10, (1, 0, 90 << 10))
    for layout in _LAYOUTS:
        _grown(d, layout, "-b", "base.raw", "-F", "raw")


@scenario
def qcow2_grown_over_a_longer_backing_file(d: Session) -> None:
    d.file("base.raw", 300 << 10, (1, 0, 300 << 10))
    for layout in _LAYOUTS[:3]:
        _grown(d, layout, "-b", "base.raw", "-F", "raw")


@scenario
def qcow2_of_version_2_grown_over_a_longer_backing_file(d: Session) -> None:
    d.file("base.raw", 300 << 10, (1, 0, 300 << 10))
    over = ("-b", "base.raw", "-F", "raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", *over, "q.qcow2", "64k")
    _resized(d, 320 << 10, watched=False)


@scenario
def qcow2_shortened_within_a_cluster_and_grown_again(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "128k")
    d.tool("qemu-io", "-c", "write -q -P 2 0 128k", "q.qcow2")
    _resized(d, 80 << 10, 128 << 10, watched=False)


@scenario
def qcow2_with_a_data_file_that_nobody_writes_to_resized(d: Session) -> None:
    for layout in ("data_file=d0", "data_file=d1,data_file_raw=on", "data_file=d2,extended_l2=on"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, "q.qcow2", "100k")
        d.tool("qemu-io", "-c", "write -q -P 2 96k 4k", "q.qcow2")
        _resized(d, 320 << 10)  # QEMU dies of making it shorter


@scenario
def qcow2_with_bitmaps_shortened_to_nothing(d: Session) -> None:
    for layout in ("compat=1.1", "cluster_size=512"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, "q.qcow2", "128k")
        d.tool("qemu-img", "bitmap", "--add", "q.qcow2", "b0")
        file = {"driver": "file", "filename": d.path("q.qcow2")}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
        d.qmp("block-dirty-bitmap-add", node="q", name="b1", persistent=True)
        d.qmp("block_resize", node_name="q", size=0)
        d.qmp("blockdev-del", node_name="q")
        d.tool("qemu-img", "info", "q.qcow2")
        d.tool("qemu-img", "check", "q.qcow2")


@scenario
def qcow2_in_a_file_that_another_has_made_longer(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "4M")
    file = {"driver": "file", "filename": d.path("q.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="q", name="x", writable=True)
    with (d.dir / "q.qcow2").open("ab") as end:
        end.write(b"\xff" * (1 << 20))
    d.io("x", "write -P 1 512 512", "write -P 2 1M 1k", "read -P 0 1k 63k", "read -P 0 1025k 63k")
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")

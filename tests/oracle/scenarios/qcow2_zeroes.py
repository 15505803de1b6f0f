"""Zeroes written to parts of clusters: what becomes of the rest, and what is refused."""

from typing import Final

from tests.oracle.scenario import system_scenario
from tests.oracle.scenarios.qemu_io_reopen import io
from tests.oracle.session import Session

_LINES: Final = (
    "write -z 0 1k", "write -zu 65k 1k", "write -zn 129k 512", "write -zn 130k 1k",
    "write -z 130k 512", "write -zn 192k 100k", "write -z 320k 70k", "write -zn 511k 2k",
    "write -z 500k 100k", "write -z 640k 4k", "write -zn 640k 1k", "write -P 1 704k 1k",
    "write -zn 704k 512", "write -z 704k 1k", "write -z 705k 63k", "write -zn 1023k 1k",
    "write -zu 960k 64k", "write -zu 900k 124k",
)  # fmt: skip


def _zero(d: Session, *options: str, size: str = "1M", over: str = "base") -> None:
    """Zero parts of an image; two places below it are not zero."""
    d.tool("qemu-img", "create", "-q", "-f", "raw", "base", "1M")
    writes = ("-c", "write -q -P 5 512k 64k", "-c", "write -q -P 5 130k 1k")
    d.tool("qemu-io", "-f", "raw", *writes, "base")
    backing = ("-b", over, "-F", "raw") if over else ()
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", *options, *backing, "q", size)
    file = {"driver": "file", "filename": d.path("q")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", discard="unmap", file=file)
    for line in _LINES:
        io(d, "q", line)
        io(d, "q", "map")
    for line in ("truncate 1090k", "write -zn 1089k 1k", "write -z 1050k 8k", "map"):
        io(d, "q", line)
    d.qmp("blockdev-del", node_name="q")
    d.tool("qemu-img", "check", "q")
    d.tool("sh", "-c", "qemu-img convert -O raw q - | sha1sum")


@system_scenario
def qcow2_zeroes_without_a_backing_file(d: Session) -> None:
    _zero(d, over="")
    d.tool("qemu-img", "map", "--output=json", "q")


@system_scenario
def qcow2_zeroes_over_a_backing_file(d: Session) -> None:
    _zero(d, size="1100k")
    d.tool("qemu-img", "map", "--output=json", "q")


@system_scenario
def qcow2_zeroes_in_subclusters(d: Session) -> None:
    _zero(d, "-o", "extended_l2=on,cluster_size=128k")
    d.tool("qemu-img", "map", "--output=json", "q")


@system_scenario
def qcow2_zeroes_in_version_2(d: Session) -> None:
    _zero(d, "-o", "compat=0.10")


@system_scenario
def qcow2_zeroes_in_version_2_without_a_backing_file(d: Session) -> None:
    _zero(d, "-o", "compat=0.10", over="")
    d.tool("qemu-img", "map", "--output=json", "q")


@system_scenario
def qcow2_zeroes_up_to_the_end_in_subclusters(d: Session) -> None:
    layout = "extended_l2=on,cluster_size=128k"
    for start, end in ((96, 296), (264, 296), (256, 296), (96, 297), (256, 297), (97, 296)):
        for verb in ("write -z", "write -zu"):
            size = f"{end}k"
            d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, "q", size)
            d.tool("qemu-io", "-c", f"write -q -P 1 0 {size}", "q")
            file = {"driver": "file", "filename": d.path("q")}
            d.qmp("blockdev-add", driver="qcow2", node_name="q", discard="unmap", file=file)
            for command in (f"{verb} {start}k {end - start}k", "truncate 500k", "map"):
                io(d, "q", command)
            d.qmp("blockdev-del", node_name="q")
            d.tool("qemu-img", "check", "-q", "q")
            d.tool("qemu-img", "map", "--output=json", "q")


@system_scenario
def qcow2_zeroes_in_compressed_clusters(d: Session) -> None:
    """A part of one has to be written, so it can't be fast."""
    for layout in ("extended_l2=on", "extended_l2=off"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, "q", "1M")
        d.tool("qemu-io", "-f", "qcow2", "-c", "write -q -c -P 7 0 512k", "q")
        file = {"driver": "file", "filename": d.path("q")}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", discard="unmap", file=file)
        for line in (
            "write -zn 0 4k",
            "write -zn 66k 1k",
            "write -zn 60k 132k",
            "write -zn 256k 68k",
            "write -zn 384k 64k",
            "write -z 0 4k",
            "read -P 0 0 4k",
        ):
            io(d, "q", line)
            io(d, "q", "map")
        d.qmp("blockdev-del", node_name="q")
        d.tool("qemu-img", "check", "q")
        d.tool("sh", "-c", "qemu-img convert -O raw q - | sha1sum")


@system_scenario
def qcow2_zeroes_at_the_end_of_a_data_file_as_long_as_the_disk(d: Session) -> None:
    layout = f"data_file={d.path('d')},data_file_raw=on"
    for window in ({}, {"driver": "raw", "size": 66 << 10}):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, "q", "66k")
        with (d.dir / "d").open("r+b") as data:
            data.truncate(66 << 10)
        file = {"driver": "file", "filename": d.path("d")}
        below = {**window, "file": file} if window else file
        image = {"driver": "file", "filename": d.path("q")}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=image, data_file=below)
        for line in ("write -P 1 0 66k", "write -z 65k 1k", "write -z 63k 2k", "read -P 0 63k 3k"):
            io(d, "q", line)
        d.qmp("blockdev-del", node_name="q")
        d.content("d")

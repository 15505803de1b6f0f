"""block_resize: what is refused, in which order."""

import os

from tests.oracle.scenario import Scenario, scenario, system_scenario
from tests.oracle.scenarios.devices import CONTROLLER, disk, hmp, null
from tests.oracle.session import Session


@system_scenario
def resizes_that_are_refused(d: Session) -> None:
    path = d.file("disk.raw", 1 << 20)
    d.start(
        *CONTROLLER,
        *("-drive", f"if=none,id=drive,file={path},format=raw,node-name=dn"),
        *("-drive", "if=none,id=empty"),
    )
    null(d, "n0")
    null(d, "ro", read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("f.raw", 1 << 20))
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    for name in ("nope", "", "n0", "ro", "dn", "drive", "empty", "f", "r"):
        for size in (-1, 511, 513, 1 << 20, 1 << 62, -(1 << 63), (1 << 63) - 1):
            d.qmp("block_resize", node_name=name, size=size)
        d.qmp("block_resize", device=name, size=-1)
        d.qmp("block_resize", device=name, size=1024)
    d.qmp("block_resize", size=-1)
    d.qmp("block_resize", size=1)
    d.qmp("block_resize", device="drive", node_name="r", size=2048)
    d.qmp("block_resize", device="nope", node_name="r", size=2048)
    d.qmp("block_resize", device="", node_name="r", size=2048)
    d.qmp("block_resize", device="drive", node_name="nope", size=2048)
    d.qmp("block_resize", node_name="r")
    d.qmp("block_resize", node_name="r", size="1")
    d.qmp("block_resize", node_name="r", size=1.5)
    for node in d.qmp("query-named-block-nodes", flat=True):
        d.transcript.add(f"# {node['node-name']}: {node['image']['virtual-size']}")


@system_scenario
def resizes_at_the_monitor(d: Session) -> None:
    path = d.file("disk.raw", 1 << 20)
    d.start("-drive", f"if=none,id=drive,file={path},format=raw", "-drive", "if=none,id=empty")
    null(d, "ro", read_only=True)
    for line in (
        *("", "drive", "drive x", "drive -1", "drive 1", "drive 1k", "drive 513b", "drive 0"),
        *(
            "drive 1x",
            "drive 1.5M",
            "drive 2M x",
            "nope 1",
            "ro 1",
            "empty 1",
            "drive 99999999999",
        ),
        *("drive 9000000T", "drive 8E", "drive 0x10", "drive 1M1", "drive ''", 'drive "1"'),
        *("drive 1 2", "drive 3B", "drive 1.5", "drive 1e3", "drive  4M "),
    ):
        hmp(d, f"block_resize {line}")
        hmp(d, "qemu-io drive length")


@system_scenario
def resizes_of_nodes_in_use(d: Session) -> None:
    d.start(*CONTROLLER)
    for name in ("n0", "n1", "n2", "t"):
        d.qmp("blockdev-add", driver="file", node_name=name, filename=d.file(name, 1 << 20))
    disk(d, "sda", "n0")
    d.qmp("device_add", driver="scsi-cd", id="cd", drive="n1")
    for name in ("n0", "n1", "sda"):
        d.qmp("block_resize", node_name=name, size=-1)
        d.qmp("block_resize", node_name=name, size=2 << 20)
        d.qmp("block_resize", device=name, size=2 << 20)
    d.qmp("block-dirty-bitmap-add", node="n0", name="b")
    d.qmp("block_resize", node_name="n0", size=3 << 20)
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("blockdev-backup", job_id="j", device="n2", target="t", sync="none")
    for name in ("n2", "t"):
        for size in (-1, 0, 1 << 20, 2 << 20):
            d.qmp("block_resize", node_name=name, size=size)
    hmp(d, "block_resize n2 1M", "block_resize n2 2M")
    d.qmp("block-job-cancel", device="j")
    d.event("BLOCK_JOB_CANCELLED")
    d.qmp("block_resize", node_name="t", size=2 << 20)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="n2", writable=True)
    d.qmp("block_resize", node_name="n2", size=2 << 20)
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="n2", target="t")
    for name in ("c", "n2", "t"):
        d.qmp("block_resize", node_name=name, size=-1)
        d.qmp("block_resize", node_name=name, size=4 << 20)


def filtered(d: Session) -> None:
    """Add a filter ``c`` above blkdebug ``b`` above the disk ``f``, and start the server."""
    d.nbd_server()
    path = d.file("disk.raw", 256 << 10, (1, 0, 256 << 10))
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "temp.qcow2", "1M")
    temp = {"driver": "file", "filename": d.path("temp.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="t", file=temp)
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image="f")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="b", target="t")


@scenario
def resizes_through_filters(d: Session) -> None:
    filtered(d)
    for name in ("c", "b", "f", "c"):
        for size in (1, 512, 1000, 256 << 10, (512 << 10) + 1):
            d.qmp("block_resize", node_name=name, size=size)
            d.qmp("query-named-block-nodes", flat=True)


@scenario
def disk_grown_through_a_filter(d: Session) -> None:
    """What is new is not in the snapshot."""
    filtered(d)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    d.qmp("block_resize", node_name="c", size=500 << 10)
    d.qmp("block-export-add", type="nbd", id="c", node_name="c", writable=True)
    d.qmp("block-export-add", type="nbd", id="s", node_name="s")
    d.io("c", "length", "write -P 5 0 4k", "write -P 6 256k 64k", "write -P 7 252k 8k")
    d.io("s", "length", "read -P 1 0 256k", read_only=True)
    d.io("c", "write -P 8 499k 1k")
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("block-export-del", id="s")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="s")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    d.qmp("block-export-add", type="nbd", id="s", node_name="s")
    d.io("s", "length", "read -P 1 0 256k", "read 256k 512", "read 499k 1k", read_only=True)
    d.content("disk.raw")


@scenario
def disk_cut_through_a_filter(d: Session) -> None:
    filtered(d)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    d.qmp("block_resize", node_name="c", size=100 << 10)
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("block-export-add", type="nbd", id="c", node_name="c", writable=True)
    d.qmp("block-export-add", type="nbd", id="s", node_name="s")
    d.io("c", "length", "write -P 5 0 4k", "write -P 6 99k 1k", "write 100k 512")
    d.io("s", "length", "read -P 1 0 100k", read_only=True)  # QEMU dies of what is behind
    d.content("disk.raw")


@scenario
def disk_cut_and_grown_through_a_filter(d: Session) -> None:
    """What was cut off does not come back, though the end of a cluster does in QEMU."""
    filtered(d)
    for size in (100 << 10, 256 << 10):
        d.qmp("block_resize", node_name="c", size=size)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    d.qmp("block-export-add", type="nbd", id="s", node_name="s")
    d.io("s", "length", "read -P 1 0 100k", read_only=True)
    d.io("s", "read 100k 512", read_only=True)
    d.io("s", "read 128k 512", read_only=True)


@scenario
def disk_grown_within_a_cluster_through_a_filter(d: Session) -> None:
    path = d.file("disk.raw", 224 << 10, (1, 0, 224 << 10))
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    temp = {"driver": "file", "filename": d.file("temp.raw", 1 << 20)}
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="f", target=temp)
    d.qmp("block_resize", node_name="c", size=256 << 10)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    for name in ("c", "s"):
        d.qmp("block-export-add", type="nbd", id=name, node_name=name, writable=name == "c")
    d.io("s", "read -P 1 0 224k", "read -P 0 224k 32k", read_only=True)
    d.io("c", "write -P 2 240k 4k")
    d.io("s", "read -P 1 0 224k", "read -P 0 224k 32k", read_only=True)


@scenario
def disk_cut_below_a_filter(d: Session) -> None:
    filtered(d)
    d.qmp("block_resize", node_name="f", size=100 << 10)
    d.qmp("block-export-add", type="nbd", id="c", node_name="c", writable=True)
    d.io("c", "length", "write -P 5 0 4k", "read -P 1 4k 96k")
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def resizes_above_what_is_read_only(d: Session) -> None:
    path = d.file("disk.raw", 1 << 20)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path, read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="g", filename=path, auto_read_only=True)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    d.qmp("blockdev-add", driver="raw", node_name="s", file="g")
    for name in ("f", "r", "g", "s"):
        d.qmp("block_resize", node_name=name, size=512)


def _tell_sizes(d: Session) -> None:
    for node in d.qmp("query-named-block-nodes", flat=True):
        d.transcript.add(f"# {node['node-name']}: {node['image']['virtual-size']}")


@scenario
def raw_follows_its_file(d: Session) -> None:
    """Filters don't; they have the size that they were opened with or resized to."""
    mib = 1 << 20
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw", mib))
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    d.qmp("blockdev-add", driver="raw", node_name="rr", file="r", offset=mib // 4)
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image="r")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="r")
    for name, size in (("f", 2 * mib), ("f", mib // 2), ("r", mib), ("r", 512), ("f", mib)):
        d.qmp("block_resize", node_name=name, size=size)
        _tell_sizes(d)
    window = {"driver": "raw", "node-name": "r", "file": "f"}
    for more in ({"size": 0}, {"size": mib // 2}, {"offset": mib // 2}, {}):
        d.qmp("blockdev-reopen", options=[{**window, **more}])
        _tell_sizes(d)
        d.qmp("block-export-add", type="nbd", id="e", node_name="rr")
        d.nbdinfo("rr", "--size")
        d.qmp("block-export-del", id="e")
        d.event("BLOCK_EXPORT_DELETED")


@scenario
def image_below_others_that_is_resized(d: Session) -> None:
    """Whoever is asked, the image says why it can't be."""
    d.qmp("object-add", qom_type="throttle-group", id="group")
    path = d.file("target.raw", 1 << 20)
    d.qmp("blockdev-add", driver="file", node_name="target", filename=path)
    tops: dict[str, dict[str, str]] = {
        "raw": {"file": "q"},
        "throttle": {"file": "q", "throttle-group": "group"},
        "copy-before-write": {"file": "q", "target": "target"},
        "blkdebug": {"image": "q"},
    }
    for top, options in tops.items():
        path = d.path(f"{top}.qcow2")
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{top}.qcow2", "1M")
        file = {"driver": "file", "filename": path}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
        d.qmp("blockdev-add", **{"driver": top, "node-name": "top", **options})
        for size in (1000, (1 << 20) + 1, 1 << 62, 512):
            d.qmp("block_resize", node_name="top", size=size)
        d.qmp("blockdev-del", node_name="top")
        d.qmp("blockdev-del", node_name="q")


def _with_data_file(name: str, raw: str) -> Scenario:
    """Make a scenario of a disk whose data file is longer than it is."""

    def run(d: Session) -> None:
        options = f"data_file=data,data_file_raw={raw}"
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "disk", "1M")
        os.truncate(d.path("data"), 8 << 20)
        file = {"driver": "file", "filename": d.path("disk")}
        data = {"driver": "file", "filename": d.path("data")}
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, data_file=data)
        for size in (2 << 20, 3 << 20, 10 << 20):
            d.qmp("block_resize", node_name="q", size=size)
            d.transcript.add(f"# the data file has {os.stat(d.path('data')).st_size} bytes")
        d.qmp("blockdev-del", node_name="q")
        d.tool("qemu-img", "check", "disk")

    run.__name__ = name
    return scenario(run)


_with_data_file("disk_grown_beside_a_long_data_file", "off")
_with_data_file("disk_grown_that_a_long_data_file_is_part_of", "on")

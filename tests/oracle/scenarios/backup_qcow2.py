"""blockdev-backup between qcow2 images: chains, overlays, compression, fleecing."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.backup import nodes
from tests.oracle.scenarios.jobs import NULL, create, jobs
from tests.oracle.session import Session

SIZE = 8 << 20
WRITES = (
    ("write -P 0x11 0 1M", "write -P 0x12 3M 100k"),
    ("write -P 0x21 64k 64k", "write -P 0x22 5M 1k"),
    ("write -z 512k 128k", "write -P 0x31 3100k 64k", "discard 5M 64k"),
    ("write -P 0x41 7M 1M",),
)


def image(d: Session, name: str, size: int = SIZE, **more: Any) -> None:
    """Make a qcow2 image and its node, the way clients do it, without a backing file."""
    path = d.path(f"{name}.qcow2")
    create(d, driver="file", filename=path, size=0)
    d.qmp("job-dismiss", id="c")
    d.qmp("blockdev-add", driver="file", node_name=f"{name}-file", filename=path)
    create(d, driver="qcow2", file=f"{name}-file", size=size, **more)
    d.qmp("job-dismiss", id="c")
    d.qmp("blockdev-add", driver="qcow2", node_name=name, file=f"{name}-file")


#: One request at a time, so that clusters of the target are allocated in order.
ONE = {"max-workers": 1}


def backup(d: Session, target: str, **more: Any) -> None:
    given = {"x_perf": ONE} | more
    d.qmp("blockdev-backup", job_id="j", device="disk", target=target, **given)
    d.event(NULL)


def close(d: Session, name: str) -> None:
    d.qmp("blockdev-del", node_name=name)
    d.qmp("blockdev-del", node_name=f"{name}-file")


def guest(d: Session) -> None:
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="g", node_name="disk", name="guest", writable=True)


def check(d: Session, *names: str) -> None:
    """Look at closed images with qemu-img."""
    for name in names:
        d.tool("qemu-img", "check", "-f", "qcow2", f"{name}.qcow2")


@scenario
def backup_chain_of_increments(d: Session) -> None:
    image(d, "disk")
    guest(d)
    d.qmp("block-dirty-bitmap-add", node="disk", name="b")
    d.io("guest", *WRITES[0])
    full = {"device": "disk", "target": "t0", "job-id": "j", "sync": "full", "x-perf": ONE}
    image(d, "t0")
    clear = {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "b"}}
    d.qmp("transaction", actions=[{"type": "blockdev-backup", "data": full}, clear])
    d.event(NULL)
    close(d, "t0")
    for number in (1, 2, 3):
        d.io("guest", *WRITES[number])
        image(d, f"t{number}")
        backup(d, f"t{number}", sync="incremental", bitmap="b")
        d.qmp("x-debug-block-dirty-bitmap-sha256", node="disk", name="b")
        close(d, f"t{number}")
    d.qmp("block-export-del", id="g")
    d.event("BLOCK_EXPORT_DELETED")
    close(d, "disk")
    check(d, "t0", "t1", "t2", "t3")
    for number in (1, 2, 3):
        words = ("-u", "-b", f"t{number - 1}.qcow2", "-F", "qcow2", f"t{number}.qcow2")
        d.tool("qemu-img", "rebase", *words)
    d.tool("qemu-img", "compare", "t3.qcow2", "disk.qcow2")


@scenario
def backup_of_the_top_layer(d: Session) -> None:
    d.file("base.raw", SIZE, (0x77, 0, SIZE))
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "o.qcow2")
    d.qmp("blockdev-add", driver="file", node_name="disk-file", filename=d.path("o.qcow2"))
    d.qmp("blockdev-add", driver="qcow2", node_name="disk", file="disk-file")
    guest(d)
    d.io("guest", *WRITES[0], *WRITES[1])
    image(d, "t")
    d.qmp(
        "blockdev-backup",
        job_id="j",
        device="disk",
        target="t",
        sync="top",
        auto_finalize=False,
        x_perf=ONE,
    )
    d.event("BLOCK_JOB_PENDING")
    jobs(d)
    d.qmp("job-finalize", id="j")
    nodes(d)
    d.qmp("block-export-del", id="g")
    d.event("BLOCK_EXPORT_DELETED")
    close(d, "t")
    close(d, "disk")
    d.tool("qemu-img", "map", "--output=json", "t.qcow2")
    d.tool("qemu-img", "rebase", "-u", "-b", "base.raw", "-F", "raw", "t.qcow2")
    d.tool("qemu-img", "compare", "t.qcow2", "o.qcow2")


@scenario
def backup_compressed(d: Session) -> None:
    path = d.file("disk.raw", SIZE, (0x11, 0, 3 << 20), (0x12, 5 << 20, 1 << 20))
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=path)
    image(d, "t")
    backup(d, "t", sync="full", compress=True)
    close(d, "t")
    check(d, "t")
    d.tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "t.qcow2", "disk.raw")


@scenario
def backup_fleecing_by_an_overlay_of_the_source(d: Session) -> None:
    path = d.file("disk.raw", SIZE, (0x5D, 0, 1 << 20), (0xD5, 3 << 20, 1 << 20))
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=path)
    guest(d)
    temp = d.path("temp.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", temp, str(SIZE))
    file = {"driver": "file", "filename": temp}
    d.qmp("blockdev-add", driver="qcow2", node_name="temp", file=file, backing="disk")
    d.qmp("blockdev-backup", job_id="j", device="disk", target="temp", sync="none")
    nodes(d)
    d.qmp("block-export-add", type="nbd", id="s", node_name="temp", name="snap")
    d.io("guest", "write -P 0xab 0 64k", "write -P 0xad 3M 32k", "write -P 0xea 7M 64k")
    d.io("snap", "read -P 0x5d 0 1M", "read -P 0xd5 3M 1M", "read -P 0 4M 4M", read_only=True)
    nodes(d)
    d.qmp("block-job-cancel", device="j")
    d.event(NULL)
    nodes(d)
    d.qmp("block-export-del", id="s")
    d.event("BLOCK_EXPORT_DELETED")
    d.io("guest", "read -P 0xab 0 64k", "read -P 0xad 3M 32k", "read -P 0xea 7M 64k")


@scenario
def backup_to_large_clusters(d: Session) -> None:
    path = d.file("disk.raw", SIZE, (0x11, 100_000, 3 << 20))
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=path)
    for size in (1 << 20, 2 << 20, 4096):
        image(d, "t", cluster_size=size)
        d.qmp("blockdev-backup", job_id="j", device="disk", target="t", sync="none")
        nodes(d)
        d.qmp("block-job-cancel", device="j")
        d.event(NULL)
        backup(d, "t", sync="full", x_perf=ONE | {"max-chunk": 2 << 20})
        close(d, "t")
        check(d, "t")
        d.tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "t.qcow2", "disk.raw")


@scenario
def backup_compressed_to_where_something_is(d: Session) -> None:
    path = d.file("disk.raw", SIZE, (0x11, 0, 1 << 20))
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=path)
    image(d, "t")
    for compress in (True, True, False, True):
        backup(d, "t", sync="full", compress=compress)
    d.qmp("query-jobs")
    close(d, "t")
    check(d, "t")
    d.tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "t.qcow2", "disk.raw")


def working_on_a_stored_bitmap(d: Session) -> None:
    """Start a job that has copied what is in a persistent bitmap; the disk is written to then."""
    image(d, "disk")
    image(d, "t")
    d.qmp("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
    guest(d)
    d.io("guest", "write 0 64k")
    by = {"sync": "bitmap", "bitmap": "b", "bitmap_mode": "on-success", "auto_finalize": False}
    d.qmp("blockdev-backup", job_id="j", device="disk", target="t", **by)
    d.event("BLOCK_JOB_PENDING")
    d.io("guest", "write 1M 64k")


def stored_bitmap_at_last(d: Session, *overlays: str) -> None:
    """End the job; show what the image has kept of its bitmap when it is opened again."""
    d.qmp("job-finalize", id="j")
    d.event(NULL)
    for overlay in overlays:
        d.qmp("blockdev-del", node_name=overlay)
    close(d, "disk")
    file = {"driver": "file", "filename": d.path("disk.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="again", file=file, read_only=True)
    d.qmp("x-debug-block-dirty-bitmap-sha256", node="again", name="b")


@scenario
def disk_becomes_read_only_while_a_job_works_on_its_bitmap(d: Session) -> None:
    working_on_a_stored_bitmap(d)
    d.qmp("block-export-del", id="g")
    d.event("BLOCK_EXPORT_DELETED")
    given = {"driver": "qcow2", "node-name": "disk", "file": "disk-file", "read-only": True}
    d.qmp("blockdev-reopen", options=[given])
    stored_bitmap_at_last(d)


@scenario
def disk_becomes_a_backing_file_while_a_job_works_on_its_bitmap(d: Session) -> None:
    working_on_a_stored_bitmap(d)
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "o.qcow2", str(SIZE))
    file = {"driver": "file", "filename": d.path("o.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="o", file=file, backing=None)
    d.qmp("blockdev-snapshot", node="disk", overlay="o")
    d.qmp("block-export-del", id="g")
    d.event("BLOCK_EXPORT_DELETED")
    stored_bitmap_at_last(d, "o")

"""What is told of the parts of qcow2 images: data, zeroes, the layer that decides."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.qcow2_corruption import REFBLOCK, REFTABLE
from tests.oracle.session import Session


def serve(d: Session, name: str = "q.qcow2", *, read_only: bool = False) -> None:
    """Serve an image as ``q``, with the depth of what is allocated."""
    file = {"driver": "file", "filename": d.path(name)}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, read_only=read_only)
    d.nbd_server()
    export = {"id": "e", "type": "nbd", "node_name": "q", "writable": not read_only}
    d.qmp("block-export-add", allocation_depth=True, **export)


def close(d: Session) -> None:
    """Serve it no longer."""
    d.qmp("block-export-del", id="e")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="q")


def told(d: Session) -> None:
    """Write down what a client is told of it."""
    for context in ("base:allocation", "qemu:allocation-depth"):
        d.nbdinfo("q", f"--map={context}")


@scenario
def qcow2_status_of_what_was_allocated_ahead(d: Session) -> None:
    for number, layout in enumerate(
        (
            "preallocation=metadata",
            "preallocation=falloc",
            "preallocation=full",
            "preallocation=metadata,cluster_size=4k",
            "preallocation=metadata,extended_l2=on",
            "preallocation=metadata,data_file=d3",
            "preallocation=falloc,data_file=d4",
            "preallocation=full,data_file=d5",
            "preallocation=metadata,data_file=d6,data_file_raw=on",
        )
    ):
        name = f"{number}.qcow2"
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, name, "1M")
        d.tool("qemu-io", "-c", "write -q -P 1 256k 64k", name)
        serve(d, name, read_only=True)
        told(d)
        close(d)


@scenario
def qcow2_status_where_clusters_can_not_be_counted(d: Session) -> None:
    d.tool(
        "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "q.qcow2", "1M"
    )
    with (d.dir / "q.qcow2").open("r+b") as file:
        file.seek(REFTABLE)
        file.write((REFBLOCK | 512).to_bytes(8, "big"))
    serve(d, read_only=True)
    told(d)
    told(d)
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def qcow2_status_of_clusters_past_the_end_of_the_file(d: Session) -> None:
    for layout in ("preallocation=metadata", "preallocation=metadata,compat=0.10"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, "q.qcow2", "1M")
        d.tool("truncate", "-s", "-200k", "q.qcow2")
        serve(d, read_only=True)
        told(d)
        d.qmp("blockdev-add", driver="null-co", node_name="t", size=1 << 20)
        d.qmp("blockdev-backup", job_id="j", device="q", target="t", sync="top")
        d.event('"status": "null"')
        close(d)
        d.qmp("blockdev-del", node_name="t")


@scenario
def qcow2_depth_behind_the_end_of_a_backing_file(d: Session) -> None:
    d.file("low.raw", 1 << 20, (1, 0, 1 << 20))
    for name, below, kind, size in (
        ("mid.qcow2", "low.raw", "raw", "300k"),
        ("q.qcow2", "mid.qcow2", "qcow2", "2M"),
        ("end.qcow2", "low.raw", "raw", "3M"),
        ("over.qcow2", "end.qcow2", "qcow2", "4M"),
    ):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", kind, name, size)
    d.tool("qemu-io", "-c", "write -q -P 2 64k 64k", "-c", "write -q -z 1M 64k", "q.qcow2")
    d.tool("qemu-io", "-c", "write -q -P 3 0 64k", "mid.qcow2")
    for name in ("q.qcow2", "over.qcow2"):
        serve(d, name, read_only=True)
        told(d)
        close(d)


@scenario
def qcow2_subclusters_that_a_snapshot_shares(d: Session) -> None:
    d.file("base.raw", 1 << 20, (1, 0, 1 << 20))
    over = ("-b", "base.raw", "-F", "raw")
    layout = "extended_l2=on,cluster_size=256k"
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, *over, "q.qcow2", "1M")
    lines = ("write -q -P 2 100k 8k", "write -q -z 400k 8k", "write -q -P 3 432k 8k")
    d.tool("qemu-io", *(word for line in lines for word in ("-c", line)), "q.qcow2")
    d.tool("qemu-img", "snapshot", "-c", "s", "q.qcow2")
    serve(d)
    d.io("q", "write -q -P 4 150k 1k", "write -q -P 5 480k 1k", "write -q -P 6 40k 1k")
    told(d)
    d.io("q", "read -v 98k 512", read_only=True)

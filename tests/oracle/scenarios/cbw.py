"""copy-before-write, snapshot-access and permission conflicts."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import null, query
from tests.oracle.session import Session

SIZE = 1 << 20
FILL = (0x11, 0, SIZE)


def add_file(d: Session, name: str, *fills: tuple[int, int, int], size: int = SIZE) -> None:
    d.qmp(
        "blockdev-add",
        driver="file",
        node_name=name,
        filename=d.file(f"{name}.raw", size, *fills),
        discard="unmap",
    )


def fleecing(d: Session, *, size: int = SIZE, **options: Any) -> None:
    """Build the graph and export ``guest`` (writable) and ``snapshot``."""
    add_file(d, "disk", (0x11, 0, size), size=size)
    add_file(d, "temp", size=size)
    fleecing_of(d, **options)


def fleecing_of(d: Session, **options: Any) -> None:
    d.qmp(
        "blockdev-add",
        driver="copy-before-write",
        node_name="cbw",
        file="disk",
        target="temp",
        **options,
    )
    d.qmp("blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="guest", node_name="cbw", writable=True, name="guest")
    d.qmp("block-export-add", type="nbd", id="snap", node_name="access", name="snapshot")


@scenario
def fleecing_graph(d: Session) -> None:
    fleecing(d)
    query(d)
    d.qmp("blockdev-del", node_name="cbw")
    d.qmp("blockdev-del", node_name="disk")
    d.qmp("blockdev-del", node_name="temp")
    d.qmp("blockdev-del", node_name="access")
    d.qmp("block-export-del", id="snap")
    d.qmp("blockdev-del", node_name="access")
    d.qmp("block-export-del", id="guest")
    d.qmp("blockdev-del", node_name="cbw")
    query(d)
    d.qmp("blockdev-del", node_name="disk")
    d.qmp("blockdev-del", node_name="temp")
    query(d)


@scenario
def fleecing_graph_nested(d: Session) -> None:
    disk = {"driver": "file", "node-name": "disk", "filename": d.file("disk.raw")}
    temp = {"driver": "file", "node-name": "temp", "filename": d.file("temp.raw")}
    cbw = {"driver": "copy-before-write", "node-name": "cbw", "file": disk, "target": temp}
    d.qmp("blockdev-add", driver="snapshot-access", node_name="access", file=cbw)
    query(d)
    d.qmp("blockdev-del", node_name="access")
    query(d)


@scenario
def guest_writes_are_copied(d: Session) -> None:
    fleecing(d)
    d.io("guest", "write -P 0xaa 0 64k", "write -P 0xbb 200000 1000", "write -P 0xcc 900k 124k")
    query(d)
    d.io("snapshot", "read -P 0x11 0 1M", read_only=True)
    d.io("guest", "read -P 0xaa 0 64k", "read -P 0xbb 200000 1000", "read -P 0xcc 900k 124k")
    d.content("temp.raw")
    d.content("disk.raw")


@scenario
def guest_zeroes_and_discards_are_copied(d: Session) -> None:
    fleecing(d)
    d.io("guest", "write -z 0 4k", "discard 128k 64k", "write -z -u 256k 100k", "discard 500k 1k")
    query(d)
    d.io("snapshot", "read -P 0x11 0 1M", read_only=True)
    d.content("temp.raw")
    d.content("disk.raw")


@scenario
def snapshot_of_unaligned_size(d: Session) -> None:
    fleecing(d, size=(1 << 20) - 512)
    d.io("guest", "write -P 0xaa 1047552 512", "write -P 1 1000000 40000")
    query(d)
    d.io("snapshot", "read -P 0x11 0 1048064", "length", read_only=True)
    d.map("snapshot")
    d.content("temp.raw")


@scenario
def snapshot_of_size_that_is_no_sector(d: Session) -> None:
    fleecing(d, size=100_001)
    d.io("guest", "length", "write -P 0xaa 99000 1001", "write -P 0xaa 99000 1512")
    d.io("snapshot", "length", "read -P 0x11 0 100001", read_only=True)
    d.nbdinfo("snapshot", "--size")
    query(d)
    d.content("temp.raw")
    d.content("disk.raw")


@scenario
def block_status_of_fleecing_exports(d: Session) -> None:
    add_file(d, "disk", (0x11, 0, 65536), (0x12, 512 << 10, 65536))
    add_file(d, "temp")
    fleecing_of(d)
    for name in ("guest", "snapshot"):
        d.map(name)
        d.nbdinfo(name, "--map")
        d.nbdinfo(name, "--map=qemu:allocation-depth")
    d.io("guest", "write -P 0xaa 0 64k", "write -P 0xbb 128k 64k", "write -z 512k 64k")
    for name in ("guest", "snapshot"):
        d.map(name)
        d.nbdinfo(name, "--map")


@scenario
def discard_by_backup_client(d: Session) -> None:
    add_file(d, "disk", FILL)
    add_file(d, "temp")
    d.qmp(
        "blockdev-add",
        driver="copy-before-write",
        node_name="cbw",
        file="disk",
        target="temp",
        discard="unmap",
    )
    d.qmp(
        "blockdev-add", driver="snapshot-access", node_name="access", file="cbw", discard="unmap"
    )
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="guest", node_name="cbw", writable=True, name="guest")
    d.qmp("block-export-add", type="nbd", id="s", node_name="access", name="s", writable=True)
    d.io("guest", "write -P 0xaa 0 256k")
    d.io("s", "discard 0 64k", "discard 128k 64k", "read -P 0x11 0 64k", "read -P 0x11 64k 64k")
    # Only aligned: 7.2 dies of an assertion when the backup client's discard is not.
    d.io("s", "discard 512k 128k", "read 512k 4k", "read -P 0x11 640k 4k")
    d.io("guest", "write -P 0xbb 512k 128k", "write -P 0xbb 640k 64k")
    d.io("s", "write -P 1 64k 4k", "write -z 64k 4k", "read -P 0x11 64k 4k", "flush")
    query(d)
    d.map("s")
    d.content("temp.raw")


@scenario
def discard_by_backup_client_without_unmap(d: Session) -> None:
    fleecing(d)
    d.qmp("block-export-add", type="nbd", id="s", node_name="access", name="s", writable=True)
    d.io("s", "discard 0 64k", "read -P 0x11 0 64k", "write 0 512")
    query(d)


@scenario
def snapshot_with_bitmap(d: Session) -> None:
    add_file(d, "disk", FILL)
    add_file(d, "temp")
    d.nbd_server()
    d.qmp("block-dirty-bitmap-add", node="disk", name="b", granularity=65536)
    d.qmp("block-export-add", type="nbd", id="d", node_name="disk", name="d", writable=True)
    d.io("d", "write -P 0x22 0 64k", "write -P 0x33 300k 4k")
    d.qmp("block-export-del", id="d")
    bitmap = {"node": "disk", "name": "b"}
    d.qmp(
        "blockdev-add",
        driver="copy-before-write",
        node_name="cbw",
        file="disk",
        target="temp",
        bitmap=bitmap,
    )
    d.qmp("blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
    query(d)
    d.qmp("block-export-add", type="nbd", id="guest", node_name="cbw", writable=True, name="guest")
    d.qmp("block-export-add", type="nbd", id="snap", node_name="access", name="snapshot")
    d.io("snapshot", "read -P 0x22 0 64k", "read -P 0x33 300k 4k", "read 64k 4k", read_only=True)
    d.io(
        "snapshot", "read 0 128k", "read 60k 8k", "read 256k 64k", "read 1020k 4k", read_only=True
    )
    d.io("guest", "write -P 1 0 4k", "write -P 2 128k 64k", "write -P 3 256k 64k")
    d.io("snapshot", "read -P 0x22 0 64k", "read -P 0x33 300k 4k", "read 128k 4k", read_only=True)
    query(d)
    d.content("temp.raw")
    d.map("snapshot")
    d.nbdinfo("snapshot", "--map")


@scenario
def filter_on_filter(d: Session) -> None:
    fleecing(d)
    d.qmp("block-export-del", id="guest")
    add_file(d, "temp2")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw2", file="cbw", target="temp2")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="access2", file="cbw2")
    d.qmp("block-export-add", type="nbd", id="g", node_name="cbw2", writable=True, name="g")
    d.qmp("block-export-add", type="nbd", id="s", node_name="access2", name="s")
    d.io("g", "write -P 0xaa 0 100k")
    d.io("s", "read -P 0x11 0 1M", read_only=True)
    query(d)


def failing_target(d: Session, **options: Any) -> None:
    """Build the graph over a temporary image that fails every write."""
    add_file(d, "disk", FILL)
    d.qmp("blockdev-add", driver="file", node_name="temp", filename=d.memory_file(SIZE))
    fleecing_of(d, **options)
    d.seal()


@scenario
def failing_copy_breaks_guest_write(d: Session) -> None:
    failing_target(d)
    d.io("guest", "write -P 0xaa 0 64k", "write -z 64k 64k", "discard 128k 64k", "read 0 512")
    d.io("snapshot", "read -P 0x11 0 1M", read_only=True)
    query(d)
    d.content("disk.raw")


@scenario
def failing_copy_breaks_snapshot(d: Session) -> None:
    failing_target(d, **{"on-cbw-error": "break-snapshot"})
    d.io("snapshot", "read -P 0x11 0 1M", read_only=True)
    d.io("guest", "write -P 0xaa 0 64k", "write -P 0xaa 128k 64k")
    d.io("snapshot", "read 0 512", "read 512k 512", read_only=True)
    d.map("snapshot")
    query(d)
    d.content("disk.raw")


@scenario
def access_after_everything_was_copied(d: Session) -> None:
    fleecing(d)
    d.io("guest", "write -P 0xaa 0 1M")
    query(d)
    d.io("snapshot", "read -P 0x11 0 1M", "read -P 0x11 1000 3000", read_only=True)
    d.qmp("blockdev-add", driver="raw", node_name="peek", file="temp", read_only=True)
    d.qmp("block-export-add", type="nbd", id="p", node_name="peek", name="p")
    d.io("p", "read -P 0x11 0 1M", read_only=True)


@scenario
def temporary_image_of_other_shape(d: Session) -> None:
    add_file(d, "disk", FILL)
    add_file(d, "big", size=4 << 20)
    d.qmp("blockdev-add", driver="raw", node_name="temp", file="big", offset=65536, size=SIZE)
    fleecing_of(d)
    d.io("guest", "write -P 0xaa 64k 64k")
    d.io("snapshot", "read -P 0x11 0 1M", read_only=True)
    d.content("big.raw")


def slow_target(d: Session, **options: Any) -> None:
    """Build the graph over a temporary image that takes 1.5 s for a write."""
    add_file(d, "disk", FILL)
    d.qmp("blockdev-add", **null("temp") | {"latency-ns": 1_500_000_000})
    fleecing_of(d, **{"cbw-timeout": 1}, **options)


@scenario
def timeout_breaks_guest_write(d: Session) -> None:
    slow_target(d)
    d.io("guest", "write -P 0xaa 0 64k")
    d.io("snapshot", "read -P 0x11 64k 64k", read_only=True)
    d.content("disk.raw")
    d.qmp("block-export-del", id="snap")
    d.qmp("block-export-del", id="guest")
    d.event("BLOCK_EXPORT_DELETED")


@scenario
def timeout_breaks_snapshot(d: Session) -> None:
    slow_target(d, **{"on-cbw-error": "break-snapshot"})
    d.io("guest", "write -P 0xaa 0 64k")
    d.io("snapshot", "read 64k 64k", read_only=True)
    d.content("disk.raw")
    d.qmp("block-export-del", id="snap")
    d.qmp("block-export-del", id="guest")
    d.event("BLOCK_EXPORT_DELETED")


def _timeout_of_many_copies(d: Session, policy: str) -> None:
    """Discard a GiB, which is copied in requests of 1.5 s, not all of which are begun at once."""
    gib = {"size": 1 << 30, "read-zeroes": True}
    d.qmp("blockdev-add", **null("disk") | gib)
    d.qmp("blockdev-add", **null("temp") | gib | {"latency-ns": 1_500_000_000})
    fleecing_of(d, discard="unmap", **{"cbw-timeout": 1, "on-cbw-error": policy})
    d.io("guest", "discard 0 1G")
    d.qmp("transaction", actions=[])  # waits for what is in flight
    d.until_told("query-named-block-nodes", lambda nodes: _tell_left(d, nodes))


def _tell_left(d: Session, nodes: Any) -> bool:
    """Write down how much is still to be copied, roughly: QEMU begins one request more."""
    left = next(n for n in nodes if n["node-name"] == "disk")["dirty-bitmaps"][0]["count"]
    d.transcript.add(f"# to be copied: {'most' if left > 900 << 20 else 'little'}")
    return True


@scenario
def timeout_of_many_copies_breaks_guest_write(d: Session) -> None:
    _timeout_of_many_copies(d, "break-guest-write")


@scenario
def timeout_of_many_copies_breaks_snapshot(d: Session) -> None:
    _timeout_of_many_copies(d, "break-snapshot")


@scenario
def copy_within_the_timeout(d: Session) -> None:
    add_file(d, "disk", FILL)
    add_file(d, "temp")
    fleecing_of(d, **{"cbw-timeout": 60})
    d.io("guest", "write -P 0xaa 0 64k")
    d.io("snapshot", "read -P 0x11 0 1M", read_only=True)


@scenario
def guest_writes_at_once(d: Session) -> None:
    """Overlapping writes in flight together: each cluster is copied once and whole."""
    fleecing(d)
    d.io(
        "guest",
        "aio_write -q -P 0xaa 0 64k",
        "aio_write -q -P 0xbb 1k 100k",
        "aio_write -q -P 0xcc 200k 1k",
        "aio_write -q -P 0xdd 210k 90k",
        "aio_flush",
        "write -P 0xee 0 400k",
    )
    d.io("snapshot", "read -P 0x11 0 1M", read_only=True)
    query(d)
    d.content("temp.raw")
    d.content("disk.raw")


@scenario
def filter_deleted_and_built_again(d: Session) -> None:
    fleecing(d)
    d.io("guest", "write -P 0xaa 0 64k")
    d.qmp("block-export-del", id="snap")
    d.qmp("block-export-del", id="guest")
    d.qmp("blockdev-del", node_name="access")
    d.qmp("blockdev-del", node_name="cbw")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk", target="temp")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
    d.qmp("block-export-add", type="nbd", id="guest", node_name="cbw", writable=True, name="guest")
    d.qmp("block-export-add", type="nbd", id="snap", node_name="access", name="snapshot")
    d.io("guest", "write -P 0xbb 0 4k")
    d.io("snapshot", "read -P 0xaa 0 64k", "read -P 0x11 64k 960k", read_only=True)
    query(d)

"""Filters that cannot be, and permissions in conflict."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.cbw import SIZE, fleecing
from tests.oracle.scenarios.nodes import null, query
from tests.oracle.session import Session


@scenario
def snapshot_with_bad_bitmap(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", **null("temp"))
    d.qmp("blockdev-add", **null("other", SIZE * 2))
    d.qmp("block-dirty-bitmap-add", node="other", name="o")
    d.qmp("block-dirty-bitmap-add", node="disk", name="fine", granularity=512)
    d.qmp("block-dirty-bitmap-add", node="disk", name="coarse", granularity=1 << 20)
    for node, name in (
        ("disk", "none"),
        ("none", "b"),
        ("", ""),
        ("other", "o"),
        ("disk", "fine"),
        ("disk", "coarse"),
    ):
        d.qmp(
            "blockdev-add",
            driver="copy-before-write",
            node_name="cbw",
            file="disk",
            target="temp",
            bitmap={"node": node, "name": name},
        )
        query(d)
        d.qmp("blockdev-del", node_name="cbw")


@scenario
def target_sizes(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    for number, size in enumerate((SIZE - 512, SIZE, SIZE + 512, SIZE * 2, 0)):
        d.qmp("blockdev-add", **null(f"temp{number}", size))
        d.qmp(
            "blockdev-add",
            driver="copy-before-write",
            node_name="cbw",
            file="disk",
            target=f"temp{number}",
        )
        d.qmp("blockdev-del", node_name="cbw")


@scenario
def target_is_the_source(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk", target="disk")


@scenario
def target_is_above_the_source(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", driver="raw", node_name="above", file="disk")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk", target="above")
    query(d)


@scenario
def target_read_only(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", **null("temp"), read_only=True)
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target="temp")
    query(d)


@scenario
def source_read_only(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"), read_only=True)
    d.qmp("blockdev-add", **null("temp"))
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target="temp")
    d.qmp(
        "blockdev-add",
        driver="copy-before-write",
        node_name="c",
        file="disk",
        target="temp",
        read_only=True,
    )
    query(d)


@scenario
def target_written_by_another(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", **null("temp"))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="t", node_name="temp", writable=True)
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target="temp")


@scenario
def target_written_after_the_filter(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", **null("temp"))
    d.nbd_server()
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target="temp")
    d.qmp("block-export-add", type="nbd", id="g", node_name="c", writable=True)
    d.qmp("block-export-add", type="nbd", id="t", node_name="temp", writable=True)
    d.qmp("block-export-add", type="nbd", id="r", node_name="temp")
    d.qmp("blockdev-add", driver="raw", node_name="w", file="temp")
    query(d)


@scenario
def source_written_below_the_filter(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", **null("temp"))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="w", node_name="disk", writable=True)
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target="temp")
    d.qmp("block-export-add", type="nbd", id="g", node_name="c", writable=True)
    d.qmp("block-export-add", type="nbd", id="h", node_name="c")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="a", file="c")
    d.qmp("block-export-del", id="w")
    d.qmp("block-export-add", type="nbd", id="g", node_name="c", writable=True)
    d.qmp("block-export-add", type="nbd", id="w", node_name="disk", writable=True)
    d.qmp("block-export-add", type="nbd", id="r", node_name="disk")
    query(d)


@scenario
def two_filters_on_one_source(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    for number in (1, 2):
        d.qmp("blockdev-add", **null(f"temp{number}"))
        d.qmp(
            "blockdev-add",
            driver="copy-before-write",
            node_name=f"cbw{number}",
            file="disk",
            target=f"temp{number}",
        )
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="a", node_name="cbw1", writable=True)
    d.qmp("block-export-add", type="nbd", id="b", node_name="cbw2", writable=True)
    query(d)


@scenario
def two_writers_on_one_node(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="a", node_name="n", writable=True)
    d.qmp("block-export-add", type="nbd", id="b", node_name="n", writable=True, name="b")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="n")
    d.qmp("block-export-add", type="nbd", id="c", node_name="r", writable=True, name="c")
    query(d)


@scenario
def snapshot_access_over_others(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("blockdev-add", driver="snapshot-access", node_name="a", file="n")
    query(d)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", name="e")
    d.io("e", "read 0 512", "length", read_only=True)
    d.map("e")


@scenario
def snapshot_access_options(d: Session) -> None:
    fleecing(d)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="ro", file="cbw", read_only=True)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="a", file="cbw", zzz=1)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="a", file="none")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="a", file="access")
    query(d)


@scenario
def cbw_options(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", **null("temp"))
    for options in (
        {"on-cbw-error": "break-guest-write"},
        {"on-cbw-error": "break-snapshot"},
        {"cbw-timeout": 0},
        {"cbw-timeout": 5},
        {"cbw-timeout": 4294967295},
        {"on-cbw-error": "break-snapshot", "cbw-timeout": 1},
        {"zzz": 1},
        {"min-cluster-size": 65536},
        {"backing": None},
        {"discard": "unmap"},
    ):
        d.qmp(
            "blockdev-add",
            driver="copy-before-write",
            node_name="cbw",
            file="disk",
            target="temp",
            **options,
        )
        d.qmp("blockdev-del", node_name="cbw")


@scenario
def exported_node_that_another_resizes(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.path("a.qcow2"))
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file="f")

    def export() -> None:
        for more in (
            {}, {"writable": True}, {"name": "x" * 5000}, {"description": "x" * 5000},
            {"name": "q"}, {"bitmaps": ["nope"]}, {"bitmaps": [{"node": "nope", "name": "b"}]},
            {"bitmaps": ["b"]}, {"bitmaps": ["b"], "writable": True},
        ):  # fmt: skip
            d.qmp("block-export-add", type="nbd", id="e", node_name="f", **more)
        d.qmp("nbd-server-add", device="f")

    export()
    d.qmp("block-dirty-bitmap-add", node="f", name="b")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="q", node_name="q")
    export()
    d.qmp("query-block-exports")


@scenario
def writing_to_a_window_of_a_disk_that_others_use(d: Session) -> None:
    """Whoever writes to a window does not resize the disk."""
    d.nbd_server()
    windows: tuple[dict[str, int], ...] = ({}, {"size": 65536}, {"offset": 512})
    for number, window in enumerate(windows):
        disk, name = f"disk{number}", f"window{number}"
        d.qmp("blockdev-add", driver="null-co", node_name=disk, size=1 << 20)
        d.qmp("block-export-add", type="nbd", id=disk, node_name=disk)
        d.qmp("blockdev-add", driver="raw", node_name=name, file=disk, **window)
        d.qmp("block-export-add", type="nbd", id=name, node_name=name, writable=True)
        d.qmp("block_resize", node_name=name, size=512)
    d.qmp("x-debug-query-block-graph")

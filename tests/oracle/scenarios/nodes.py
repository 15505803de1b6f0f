"""blockdev-add, blockdev-del and query-named-block-nodes."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.session import Session


def query(d: Session) -> None:
    d.qmp("query-named-block-nodes")
    d.qmp("query-named-block-nodes", flat=True)


def add_raw(d: Session, text: str) -> None:
    """blockdev-add with arguments as JSON text."""
    d.raw(f'{{"execute": "blockdev-add", "arguments": {text}}}')


def null(name: str, size: int = 1 << 20, **more: Any) -> dict[str, Any]:
    return {"driver": "null-co", "node-name": name, "size": size, "read-zeroes": True, **more}


@scenario
def file_node(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=d.file("disk.raw"))
    query(d)
    d.qmp("blockdev-del", node_name="disk")
    query(d)


@scenario
def file_node_with_every_option(d: Session) -> None:
    d.qmp(
        "blockdev-add",
        driver="file",
        node_name="disk",
        filename=d.file("disk.raw", 1 << 20, (1, 0, 65536)),
        aio="threads",
        locking="auto",
        pr_manager="none",
    )
    d.qmp(
        "blockdev-add",
        driver="file",
        node_name="disk",
        filename=d.path("disk.raw"),
        aio="threads",
        locking="off",
        drop_cache=False,
        discard="unmap",
        detect_zeroes="unmap",
        read_only=False,
        auto_read_only=False,
        force_share=False,
        cache={"direct": False, "no-flush": True},
    )
    query(d)


@scenario
def file_node_aio_native(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, aio="native")
    cache = {"direct": True}
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, aio="native", cache=cache)
    d.qmp("blockdev-add", driver="file", node_name="b", filename=name, aio="zzz")
    query(d)


@scenario
def file_sizes(d: Session) -> None:
    for size in (0, 1, 511, 512, 513, 1000, 65537, 1 << 20, (1 << 40) + 5):
        d.qmp(
            "blockdev-add", driver="file", node_name=f"n{size}", filename=d.file(f"{size}", size)
        )
    query(d)


@scenario
def read_only_nodes(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, read_only=True)
    d.qmp("blockdev-add", driver="raw", node_name="b", file="a")
    d.qmp("blockdev-add", driver="raw", node_name="b", file="a", read_only=True)
    d.qmp("blockdev-add", driver="raw", node_name="c", file="a", auto_read_only=True)
    query(d)


@scenario
def auto_read_only(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, auto_read_only=True)
    query(d)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    query(d)
    d.qmp("block-export-del", id="e")
    query(d)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="a")
    query(d)


@scenario
def read_only_inherited_by_nested(d: Session) -> None:
    name = d.file("disk.raw")
    child = {"driver": "file", "node-name": "proto", "filename": name}
    d.qmp("blockdev-add", driver="raw", node_name="fmt", file=child, read_only=True)
    query(d)
    d.qmp("blockdev-del", node_name="fmt")
    child["read-only"] = False
    d.qmp("blockdev-add", driver="raw", node_name="fmt", file=child, read_only=True)
    query(d)


@scenario
def options_inherited_by_nested(d: Session) -> None:
    name = d.file("disk.raw")
    child = {"driver": "file", "node-name": "proto", "filename": name}
    d.qmp(
        "blockdev-add",
        driver="raw",
        node_name="fmt",
        file=child,
        cache={"direct": True, "no-flush": True},
        discard="unmap",
        detect_zeroes="unmap",
    )
    query(d)


@scenario
def cache_options(d: Session) -> None:
    name = d.file("disk.raw")
    for direct in (True, False):
        for no_flush in (True, False):
            cache = {"direct": direct, "no-flush": no_flush}
            d.qmp("blockdev-add", driver="file", node_name="a", filename=name, cache=cache)
            d.qmp("query-named-block-nodes")
            d.qmp("blockdev-del", node_name="a")
    for wrong in (1, "on", {"direct": "on"}, {"zzz": True}, {"writeback": True}, {}):
        d.qmp("blockdev-add", driver="file", node_name="b", filename=name, cache=wrong)


@scenario
def detect_zeroes_and_discard(d: Session) -> None:
    name = d.file("disk.raw")
    for number, (detect, discard) in enumerate(
        (
            ("off", "ignore"),
            ("on", "ignore"),
            ("unmap", "ignore"),
            ("unmap", "unmap"),
            ("zzz", "unmap"),
            ("on", "zzz"),
            (True, "unmap"),
            ("on", False),
        )
    ):
        d.qmp(
            "blockdev-add",
            driver="file",
            node_name=f"n{number}",
            filename=name,
            detect_zeroes=detect,
            discard=discard,
            locking="off",
        )
    d.qmp("query-named-block-nodes")


@scenario
def detect_zeroes_unmap_needs_discard(d: Session) -> None:
    d.qmp("blockdev-add", **null("a"), detect_zeroes="unmap")
    d.qmp("blockdev-add", **null("b"), detect_zeroes="unmap", discard="unmap")
    d.qmp("query-named-block-nodes")


@scenario
def nested_nodes_without_names(d: Session) -> None:
    name = d.file("disk.raw")
    inner = {"driver": "file", "filename": name}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=inner)
    outer = {"driver": "raw", "file": {"driver": "null-co", "size": 4096}}
    d.qmp("blockdev-add", driver="raw", node_name="b", file=outer)
    query(d)
    d.qmp("blockdev-del", node_name="a")
    query(d)


@scenario
def nested_deletes_its_children(d: Session) -> None:
    named = {"driver": "file", "node-name": "proto", "filename": d.file("disk.raw")}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=named)
    d.qmp("blockdev-del", node_name="proto")
    d.qmp("blockdev-del", node_name="a")
    query(d)
    d.qmp("blockdev-add", **null("n"))
    d.qmp("blockdev-add", driver="raw", node_name="a", file="n")
    d.qmp("blockdev-del", node_name="a")
    query(d)


@scenario
def reference_by_name(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("blockdev-add", driver="raw", node_name="a", file="n")
    d.qmp("blockdev-add", driver="raw", node_name="b", file="n", read_only=True)
    d.qmp("blockdev-add", driver="raw", node_name="c", file="none")
    d.qmp("blockdev-add", driver="raw", node_name="c", file="")
    d.qmp("blockdev-add", driver="raw", node_name="c", file="c")
    query(d)


@scenario
def delete_nodes(d: Session) -> None:
    d.qmp("blockdev-del", node_name="none")
    d.qmp("blockdev-del", node_name="")
    d.qmp("blockdev-del", node_name="#blockx")
    d.qmp("blockdev-add", **null("n"))
    d.qmp("blockdev-add", driver="raw", node_name="a", file="n")
    d.qmp("blockdev-del", node_name="n")
    d.qmp("blockdev-add", driver="raw", node_name="b", file="n")
    d.qmp("blockdev-del", node_name="n")
    d.qmp("blockdev-del", node_name="b")
    d.qmp("blockdev-del", node_name="a")
    d.qmp("blockdev-del", node_name="n")
    d.qmp("blockdev-del", node_name="n")
    query(d)


@scenario
def delete_exported_node(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="n")
    d.qmp("blockdev-del", node_name="n")
    d.qmp("block-export-del", id="e")
    d.qmp("blockdev-del", node_name="n")


@scenario
def order_of_nodes(d: Session) -> None:
    for name in ("b", "a", "d", "c"):
        d.qmp("blockdev-add", **null(name))
    d.qmp("blockdev-add", driver="raw", node_name="top", file=null("inner"))
    d.qmp("blockdev-del", node_name="a")
    d.qmp("blockdev-add", **null("a"))
    query(d)


@scenario
def null_nodes(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="a")
    d.qmp("blockdev-add", driver="null-aio", node_name="b", size=1000)
    d.qmp("blockdev-add", driver="null-aio", node_name="c", size=0, latency_ns=1000)
    d.qmp("blockdev-add", driver="null-co", node_name="d", read_zeroes=True, read_only=True)
    d.qmp("blockdev-add", driver="null-co", node_name="e", size=1 << 62)
    d.qmp("blockdev-add", driver="null-co", node_name="f", size=(1 << 63) - 1)
    d.qmp("blockdev-add", driver="null-co", node_name="g", latency_ns=(1 << 64) - 1)
    query(d)


@scenario
def null_io(d: Session) -> None:
    d.nbd_server()
    d.qmp("blockdev-add", driver="null-co", node_name="a", size=1 << 20, read_zeroes=True)
    d.qmp("blockdev-add", driver="null-aio", node_name="b", size=1 << 20, latency_ns=10)
    for name in ("a", "b"):
        d.qmp("block-export-add", type="nbd", id=name, node_name=name, writable=True)
        d.io(name, "write -P 1 0 64k", "write -z 0 64k", "discard 0 64k", "flush")
        d.map(name)
    d.io("a", "read -P 0 0 1M", "read -P 1 0 512")


@scenario
def content_that_is_nowhere(d: Session) -> None:
    d.nbd_server()
    null_disk = {"driver": "null-co", "size": 1 << 20}
    d.qmp("blockdev-add", node_name="n", **null_disk)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="n")
    d.qmp("blockdev-add", driver="raw", node_name="w", file=null_disk, offset=512)
    for name in ("a", "t"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
        file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
        more = {"backing": null_disk} if name == "a" else {}
        d.qmp("blockdev-add", driver="qcow2", node_name=name, file=file, **more)
    for name in ("n", "r", "w", "a"):
        d.qmp("block-export-add", type="nbd", id=name, node_name=name, allocation_depth=True)
        d.map(name)
        uri = f"nbd+unix:///{name}?socket={d.path('nbd.sock')}"
        d.tool("nbdinfo", "--map=qemu:allocation-depth", uri)
    for source, sync in (("n", "top"), ("n", "full"), ("a", "top"), ("a", "full")):
        d.qmp("blockdev-backup", job_id="j", device=source, target="t", sync=sync)
        d.event('"null"')
    d.tool("qemu-img", "map", "-U", "--output=json", "t.qcow2")


@scenario
def host_device(d: Session) -> None:
    d.qmp("blockdev-add", driver="host_device", node_name="a", filename=d.file("disk.raw"))
    d.qmp("blockdev-add", driver="host_device", node_name="a", filename=d.path("none"))
    d.qmp("blockdev-add", driver="host_device", node_name="a", filename="/dev/none")
    d.qmp("blockdev-add", driver="host_device", node_name="a", filename=d.path(""))
    d.qmp("blockdev-add", driver="host_device", node_name="a", filename="/dev/null")
    d.qmp("blockdev-add", driver="host_device", node_name="b", filename="/dev/null", locking="on")
    query(d)


@scenario
def raw_offset_and_size(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    for number, (offset, size) in enumerate(
        (
            (0, None),
            (512, None),
            (65536, 65536),
            (65536, 65536 + 512),
            (1 << 20, None),
            (1 << 20, 0),
            ((1 << 20) + 512, None),
            (0, 1 << 21),
            (1, None),
            (0, 1),
            (100, 512),
            (512, 100),
            ((1 << 63) - 512, 512),
            ((1 << 64) - 512, None),
            (0, (1 << 64) - 512),
        )
    ):
        more = {"offset": offset} | ({} if size is None else {"size": size})
        d.qmp(
            "blockdev-add", driver="raw", node_name=f"r{number}", file="n", read_only=True, **more
        )
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def raw_offset_io(d: Session) -> None:
    d.file("disk.raw", 1 << 20, (0x11, 0, 1 << 20))
    child = {"driver": "file", "node-name": "proto", "filename": d.path("disk.raw")}
    d.qmp("blockdev-add", driver="raw", node_name="r", file=child, offset=65536, size=131072)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="r", name="r", writable=True)
    d.io(
        "r",
        "length",
        "write -P 0x22 0 512",
        "write -P 0x33 130560 512",
        "write -P 0x44 130560 1024",
        "read -P 0x22 0 512",
        "read -P 0x11 512 512",
        "read 131072 512",
        "write -z 65536 4096",
        "discard 73728 4096",
    )
    d.map("r")
    d.content("disk.raw")


@scenario
def image_information(d: Session) -> None:
    """Members of ``image`` with data, holes, and a stack of nodes."""
    name = d.file("disk.raw", 8 << 20, (1, 0, 65536), (2, 4 << 20, 4096))
    child = {"driver": "file", "node-name": "proto", "filename": name}
    mid = {"driver": "raw", "node-name": "mid", "file": child, "offset": 4096, "size": 8192}
    d.qmp("blockdev-add", driver="raw", node_name="top", file=mid)
    query(d)

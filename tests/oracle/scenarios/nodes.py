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
def file_missing(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("none.raw"))
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("no/dir.raw"))
    d.qmp("blockdev-add", driver="file", node_name="a", filename="")
    d.qmp("blockdev-add", driver="file", node_name="a", filename="relative.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("none"), read_only=True)
    query(d)


@scenario
def file_of_wrong_kind(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path(""))
    d.qmp("blockdev-add", driver="file", node_name="a", filename="/dev/null")
    d.qmp("blockdev-add", driver="file", node_name="a", filename="/dev/zero", read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("x" * 300))
    d.qmp("blockdev-add", driver="file", node_name="a", filename=d.path("y/" * 3000))
    query(d)


@scenario
def file_relative_name(d: Session) -> None:
    d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename="disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="b", filename="./disk.raw", read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="c", filename="file:disk.raw")
    query(d)


@scenario
def file_names_with_odd_characters(d: Session) -> None:
    for number, name in enumerate(
        ("a b.raw", "a,b.raw", "a:b.raw", 'a"b.raw', "é.raw", "json:{}")
    ):
        d.qmp("blockdev-add", driver="file", node_name=f"n{number}", filename=d.file(name, 512))
    d.qmp("query-named-block-nodes")


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
def force_share(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, force_share=True)
    d.qmp(
        "blockdev-add",
        driver="file",
        node_name="a",
        filename=name,
        force_share=True,
        read_only=True,
    )
    query(d)


@scenario
def image_locked_by_another(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    d.tool("qemu-io", "-f", "raw", "-c", "read 0 512", name)
    d.tool("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", name)
    d.tool("qemu-io", "-U", "-r", "-f", "raw", "-c", "read 0 512", name)
    d.tool("qemu-img", "info", "-U", "-f", "raw", name)
    d.tool("qemu-img", "info", "-f", "raw", name)
    d.qmp("block-export-del", id="e")
    d.tool("qemu-io", "-f", "raw", "-c", "read 0 512", name)


@scenario
def image_held_by_another(d: Session) -> None:
    name = d.file("disk.raw")
    d.hold_image(name)
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name)
    d.qmp("block-export-add", type="nbd", id="a", node_name="a", writable=True)
    d.qmp("block-export-add", type="nbd", id="a", node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="a")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="a", read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="b", filename=name, read_only=True)
    d.qmp("block-export-add", type="nbd", id="b", node_name="b")
    d.qmp("blockdev-add", driver="file", node_name="c", filename=name, locking="off")
    d.qmp("block-export-add", type="nbd", id="c", node_name="c", writable=True)
    query(d)


@scenario
def image_held_and_named_in_a_definition(d: Session) -> None:
    name = d.file("disk.raw")
    d.hold_image(name)
    child = {"driver": "file", "node-name": "proto", "filename": name}
    d.qmp("blockdev-add", driver="raw", node_name="r", file=child)
    child["read-only"] = True
    d.qmp("blockdev-add", driver="raw", node_name="r", file=child, read_only=True)
    query(d)


@scenario
def image_held_and_used_in_a_filter(d: Session) -> None:
    held = d.file("held.raw")
    d.hold_image(held)
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", driver="file", node_name="held", filename=held)
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target="held")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="held", target="disk")
    nested = {"driver": "file", "node-name": "other", "filename": held}
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="disk", target=nested)
    query(d)


@scenario
def image_locked_twice_by_us(d: Session) -> None:
    name = d.file("disk.raw")
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name)
    d.qmp("blockdev-add", driver="file", node_name="b", filename=name)
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    d.qmp("block-export-add", type="nbd", id="f", node_name="b", writable=True)
    d.qmp("block-export-add", type="nbd", id="g", node_name="b")
    d.qmp("blockdev-add", driver="file", node_name="c", filename=name, read_only=True)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="b")
    query(d)


@scenario
def image_not_locked(d: Session) -> None:
    name = d.file("disk.raw")
    d.nbd_server()
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, locking="off")
    d.qmp("blockdev-add", driver="file", node_name="b", filename=name, locking="off")
    d.qmp("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    d.qmp("block-export-add", type="nbd", id="f", node_name="b", writable=True)
    d.tool("qemu-io", "-f", "raw", "-c", "read 0 512", name)
    d.qmp("blockdev-add", driver="file", node_name="c", filename=name, locking="on")
    d.qmp("blockdev-add", driver="file", node_name="d", filename=name, locking="maybe")


@scenario
def driver_unknown(d: Session) -> None:
    for driver in ("zzz", "", "FILE", "null_co"):
        d.qmp("blockdev-add", driver=driver, node_name="a")
    for driver in (1, None, True, [], {}):
        d.qmp("blockdev-add", driver=driver, node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="a", file={"driver": "zzz"})
    d.qmp("blockdev-add", driver="raw", node_name="a", file={"driver": 1})
    query(d)


@scenario
def option_unknown(d: Session) -> None:
    name = d.file("disk.raw")
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, zzz=1)
    d.qmp("blockdev-add", driver="file", node_name="a", filename=name, offset=0)
    d.qmp("blockdev-add", driver="null-co", node_name="a", filename=name)
    d.qmp("blockdev-add", driver="null-co", node_name="a", zzz=1, yyy=2)
    child = {"driver": "file", "filename": name, "zzz": {"a": 1}}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=child)
    d.qmp("blockdev-add", driver="null-co", node_name="a", **{"cache.direct": True})
    d.qmp("blockdev-add", driver="raw", node_name="a", **{"file.driver": "null-co"})
    query(d)


@scenario
def option_missing(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="a")
    d.qmp("blockdev-add", driver="host_device", node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="a")
    d.qmp("blockdev-add", driver="raw", node_name="a", file={})
    d.qmp("blockdev-add", driver="raw", node_name="a", file={"driver": "file"})
    d.qmp("blockdev-add", driver="copy-before-write", node_name="a")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="a", file="b")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="a", target="b")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="a")
    d.qmp("blockdev-add", driver="null-co")
    d.qmp("blockdev-add", node_name="a")
    query(d)


@scenario
def option_of_wrong_type(d: Session) -> None:
    for text in (
        '{"driver": "file", "node-name": "a", "filename": 1}',
        '{"driver": "file", "node-name": "a", "filename": ["x"]}',
        '{"driver": "file", "node-name": 1, "filename": "x"}',
        '{"driver": "null-co", "node-name": "a", "size": "1M"}',
        '{"driver": "null-co", "node-name": "a", "size": 1.5}',
        '{"driver": "null-co", "node-name": "a", "size": -1}',
        '{"driver": "null-co", "node-name": "a", "latency-ns": -1}',
        '{"driver": "null-co", "node-name": "a", "read-zeroes": "on"}',
        '{"driver": "null-co", "node-name": "a", "read-zeroes": 1}',
        '{"driver": "null-co", "node-name": "a", "read-only": "on"}',
        '{"driver": "null-co", "node-name": "a", "discard": true}',
        '{"driver": "raw", "node-name": "a", "file": 1}',
        '{"driver": "raw", "node-name": "a", "file": null}',
        '{"driver": "raw", "node-name": "a", "file": true}',
        '{"driver": "raw", "node-name": "a", "file": ["x"]}',
        '{"driver": "raw", "node-name": "a", "file": {"driver": "null-co", "size": "x"}}',
        '{"driver": "raw", "node-name": "a", "file": {"driver": "raw", "file": 1}}',
        '{"driver": "raw", "node-name": "a", "offset": "1", "file": "x"}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": 1}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"bitmap": "b"}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"bitmap": {"node": "n"}}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"bitmap": {"node": "n", "name": 1}}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"on-cbw-error": "zzz"}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"cbw-timeout": -1}',
        '{"driver": "copy-before-write", "node-name": "a", "file": "x", "target": "y", '
        '"cbw-timeout": 4294967296}',
    ):
        add_raw(d, text)
    query(d)


@scenario
def node_name_invalid(d: Session) -> None:
    for name in (
        "",
        "#block1",
        "1a",
        "a b",
        "a/b",
        "-a",
        "_a",
        "a.b-c_d",
        "é",
        "a" * 31,
        "b" * 32,
    ):
        d.qmp("blockdev-add", **null(name))
    query(d)


@scenario
def node_name_missing(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", size=512)
    d.qmp("blockdev-add", driver="zzz")
    query(d)


@scenario
def node_name_duplicate(d: Session) -> None:
    d.qmp("blockdev-add", **null("a"))
    d.qmp("blockdev-add", **null("a"))
    d.qmp("blockdev-add", driver="raw", node_name="a", file="a")
    d.qmp("blockdev-add", driver="raw", node_name="b", file=null("a"))
    d.qmp("blockdev-add", driver="raw", node_name="b", file=null("b"))
    query(d)


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
def nested_fails_inside(d: Session) -> None:
    good = {"driver": "file", "node-name": "proto", "filename": d.file("disk.raw")}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=good, offset=1 << 30)
    query(d)
    bad = {"driver": "file", "node-name": "proto", "filename": d.path("none")}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=bad)
    deeper = {"driver": "raw", "node-name": "mid", "file": bad}
    d.qmp("blockdev-add", driver="raw", node_name="a", file=deeper)
    query(d)
    d.qmp("blockdev-add", driver="raw", node_name="a", file=good)
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


@scenario
def write_threshold_and_x_commands(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("block-set-write-threshold", node_name="n", write_threshold=4096)
    d.qmp("query-named-block-nodes")

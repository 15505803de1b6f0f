"""Dirty bitmaps: their commands, what they record, how they are exported."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session

SIZE = 1 << 20


def bitmaps(d: Session) -> None:
    """Show every node's bitmaps."""
    d.qmp("query-named-block-nodes", flat=True)


def digest(d: Session, node: str, name: str) -> None:
    d.qmp("x-debug-block-dirty-bitmap-sha256", node=node, name=name)


def exported(d: Session, size: int = SIZE, **options: Any) -> None:
    """Export a null node ``n`` as ``n``, writable."""
    d.qmp("blockdev-add", **null("n", size, **options))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="n", node_name="n", writable=True)


@scenario
def bitmap_add(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    d.qmp("block-dirty-bitmap-add", node="n", name="b", granularity=512)
    d.qmp("block-dirty-bitmap-add", node="n", name="c", granularity=1 << 31)
    d.qmp("block-dirty-bitmap-add", node="n", name="d", disabled=True)
    d.qmp("block-dirty-bitmap-add", node="n", name="e", persistent=False)
    bitmaps(d)
    d.qmp("query-named-block-nodes")
    d.qmp("query-block")


@scenario
def bitmap_add_errors(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    d.qmp("block-dirty-bitmap-add", node="none", name="a")
    d.qmp("block-dirty-bitmap-add", node="", name="a")
    d.qmp("block-dirty-bitmap-add", node="n", name="")
    d.qmp("block-dirty-bitmap-add", node="n", name="x" * 1023)
    d.qmp("block-dirty-bitmap-add", node="n", name="y" * 1024)
    for granularity in (0, 1, 256, 511, 513, 3 << 20, 1 << 20):
        name = f"g{granularity}"
        d.qmp("block-dirty-bitmap-add", node="n", name=name, granularity=granularity)
    d.qmp("block-dirty-bitmap-add", node="n", name="p", persistent=True)
    d.qmp("block-dirty-bitmap-add", node="n")
    d.qmp("block-dirty-bitmap-add", name="n")
    d.qmp("block-dirty-bitmap-add", node="n", name="b", zzz=1)
    d.qmp("block-dirty-bitmap-add", node="n", name="b", disabled="yes")
    bitmaps(d)


@scenario
def bitmap_add_on_read_only_and_empty_nodes(d: Session) -> None:
    d.qmp("blockdev-add", **null("ro", read_only=True))
    d.qmp("block-dirty-bitmap-add", node="ro", name="a")
    d.qmp("blockdev-add", **null("empty", 0))
    d.qmp("block-dirty-bitmap-add", node="empty", name="a")
    digest(d, "empty", "a")
    d.qmp("blockdev-add", **null("odd", 1000))
    d.qmp("block-dirty-bitmap-add", node="odd", name="a")
    digest(d, "odd", "a")
    bitmaps(d)


@scenario
def bitmap_default_granularity(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw"))
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    d.qmp("block-dirty-bitmap-add", node="f", name="a")
    d.qmp("block-dirty-bitmap-add", node="r", name="a")
    bitmaps(d)


@scenario
def bitmap_commands_on_unknown(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    for verb in ("remove", "clear", "enable", "disable"):
        d.qmp(f"block-dirty-bitmap-{verb}", node="n", name="none")
        d.qmp(f"block-dirty-bitmap-{verb}", node="none", name="a")
        d.qmp(f"block-dirty-bitmap-{verb}", node="n")
        d.qmp(f"block-dirty-bitmap-{verb}", node="n", name="a", zzz=1)
    digest(d, "n", "none")
    digest(d, "none", "a")
    d.qmp("block-dirty-bitmap-merge", node="n", target="none", bitmaps=["a"])
    d.qmp("block-dirty-bitmap-merge", node="none", target="a", bitmaps=["a"])


@scenario
def bitmap_records_writes(d: Session) -> None:
    exported(d)
    for granularity in (512, 4096, 65536):
        d.qmp("block-dirty-bitmap-add", node="n", name=f"g{granularity}", granularity=granularity)
    for command in (
        "write 0 512",
        "write 1000 1",
        "write 4095 2",
        "write 65535 2",
        "write -z 128k 64k",
        "discard 256k 64k",
        "write 1048575 1",
        "write -z 300000 1",
        "read 500k 64k",
        "flush",
        "write 0 0",
    ):
        d.io("n", command)
        bitmaps(d)
        for granularity in (512, 4096, 65536):
            digest(d, "n", f"g{granularity}")


@scenario
def bitmap_of_odd_size(d: Session) -> None:
    exported(d, 1_000_000)
    for granularity in (512, 65536):
        d.qmp("block-dirty-bitmap-add", node="n", name=f"g{granularity}", granularity=granularity)
    d.io("n", "write 999424 576", "length")
    bitmaps(d)
    digest(d, "n", "g512")
    digest(d, "n", "g65536")


@scenario
def bitmap_on_every_layer(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw", 1 << 20))
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f", offset=65536, size=65536 * 3)
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="r", node_name="r", writable=True)
    d.qmp("block-dirty-bitmap-add", node="f", name="a", granularity=4096)
    d.qmp("block-dirty-bitmap-add", node="r", name="a", granularity=4096)
    d.io("r", "write 0 4k", "write -z 16k 4k", "discard 32k 4k", "write 100k 10k")
    bitmaps(d)
    digest(d, "f", "a")
    digest(d, "r", "a")


@scenario
def bitmap_disable_enable_clear(d: Session) -> None:
    exported(d)
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    d.io("n", "write 0 64k")
    d.qmp("block-dirty-bitmap-disable", node="n", name="a")
    d.qmp("block-dirty-bitmap-disable", node="n", name="a")
    d.io("n", "write 128k 64k")
    bitmaps(d)
    d.qmp("block-dirty-bitmap-enable", node="n", name="a")
    d.qmp("block-dirty-bitmap-enable", node="n", name="a")
    d.io("n", "write 256k 64k")
    bitmaps(d)
    d.qmp("block-dirty-bitmap-clear", node="n", name="a")
    bitmaps(d)
    digest(d, "n", "a")
    d.qmp("block-dirty-bitmap-remove", node="n", name="a")
    bitmaps(d)


@scenario
def bitmaps_are_newest_first(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    for name in ("b", "a", "c"):
        d.qmp("block-dirty-bitmap-add", node="n", name=name)
    bitmaps(d)
    d.qmp("block-dirty-bitmap-remove", node="n", name="a")
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    bitmaps(d)


@scenario
def bitmap_merge_on_one_node(d: Session) -> None:
    exported(d)
    for name in ("a", "b", "target"):
        d.qmp("block-dirty-bitmap-add", node="n", name=name)
        d.io("n", "write 0 64k" if name == "a" else "write 256k 64k")
    d.qmp("block-dirty-bitmap-clear", node="n", name="target")
    d.qmp("block-dirty-bitmap-merge", node="n", target="target", bitmaps=["a", "b"])
    bitmaps(d)
    digest(d, "n", "target")
    d.qmp("block-dirty-bitmap-merge", node="n", target="target", bitmaps=["target"])
    d.qmp("block-dirty-bitmap-merge", node="n", target="a", bitmaps=["b", "a", "b"])
    bitmaps(d)


@scenario
def bitmap_merge_across_nodes(d: Session) -> None:
    exported(d)
    d.qmp("blockdev-add", **null("m"))
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    d.qmp("block-dirty-bitmap-add", node="m", name="t")
    d.io("n", "write 0 100k")
    both = [{"node": "n", "name": "a"}, "t"]
    d.qmp("block-dirty-bitmap-merge", node="m", target="t", bitmaps=both)
    digest(d, "m", "t")
    digest(d, "n", "a")
    bitmaps(d)


@scenario
def bitmap_merge_of_other_granularity(d: Session) -> None:
    exported(d)
    for granularity in (512, 4096, 65536):
        d.qmp("block-dirty-bitmap-add", node="n", name=f"g{granularity}", granularity=granularity)
    d.io("n", "write 1000 1", "write 100000 5000")
    for granularity in (512, 4096, 65536):
        for other in (512, 4096, 65536):
            name = f"t{other}"
            d.qmp("block-dirty-bitmap-add", node="n", name=name, granularity=other)
            source = [f"g{granularity}"]
            d.qmp("block-dirty-bitmap-merge", node="n", target=name, bitmaps=source)
            digest(d, "n", name)
            d.qmp("block-dirty-bitmap-remove", node="n", name=name)
    bitmaps(d)


@scenario
def bitmap_merge_errors(d: Session) -> None:
    exported(d)
    d.qmp("blockdev-add", **null("m", SIZE * 2))
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    d.qmp("block-dirty-bitmap-add", node="n", name="t")
    d.qmp("block-dirty-bitmap-add", node="m", name="big")
    d.io("n", "write 0 64k")
    d.qmp("block-dirty-bitmap-clear", node="n", name="t")
    for sources in (
        ["none"],
        ["a", "none"],
        [{"node": "none", "name": "a"}],
        [{"node": "n", "name": "none"}],
        [{"node": "m", "name": "big"}],
        ["a", {"node": "m", "name": "big"}],
        # Not an empty list: 7.2 dies of it.
        "a",
        [1],
        [None],
        [{"node": "n"}],
        [{"name": "a"}],
        [{"node": "n", "name": 1}],
        [{"node": "n", "name": "a", "zzz": 1}],
        [["a"]],
    ):
        d.qmp("block-dirty-bitmap-merge", node="n", target="t", bitmaps=sources)
    bitmaps(d)
    d.qmp("block-dirty-bitmap-merge", node="n", target="t")
    d.qmp("block-dirty-bitmap-merge", node="n", bitmaps=["a"])


@scenario
def bitmap_in_use_by_export(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.nbd_server()
    d.qmp("block-dirty-bitmap-add", node="n", name="a", disabled=True)
    d.qmp("block-export-add", type="nbd", id="e", node_name="n", bitmaps=["a"])
    bitmaps(d)
    for verb in ("remove", "clear", "enable", "disable"):
        d.qmp(f"block-dirty-bitmap-{verb}", node="n", name="a")
    d.qmp("block-dirty-bitmap-merge", node="n", target="a", bitmaps=["b"])
    d.qmp("block-dirty-bitmap-add", node="n", name="t")
    d.qmp("block-dirty-bitmap-merge", node="n", target="t", bitmaps=["a"])
    d.qmp("block-export-add", type="nbd", id="f", node_name="n", name="f", bitmaps=["a"])
    d.qmp("block-export-del", id="e")
    d.qmp("block-dirty-bitmap-remove", node="n", name="a")
    bitmaps(d)


@scenario
def bitmap_on_a_node_that_goes(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("block-dirty-bitmap-add", node="n", name="a")
    d.qmp("blockdev-del", node_name="n")
    d.qmp("blockdev-add", **null("n"))
    bitmaps(d)


@scenario
def bitmap_exported(d: Session) -> None:
    exported(d)
    d.qmp("block-dirty-bitmap-add", node="n", name="a", granularity=65536)
    d.qmp("block-dirty-bitmap-add", node="n", name="b", granularity=4096)
    d.io("n", "write 0 64k", "write 200000 1", "write 1000k 24k")
    d.qmp("block-export-add", type="nbd", id="w", node_name="n", name="w", bitmaps=["b"])
    d.qmp("block-dirty-bitmap-disable", node="n", name="a")
    d.qmp("block-dirty-bitmap-disable", node="n", name="b")
    d.qmp("block-export-add", type="nbd", id="e", node_name="n", name="e", bitmaps=["a", "b"])
    d.nbdinfo("e", "--map=qemu:dirty-bitmap:a")
    d.nbdinfo("e", "--map=qemu:dirty-bitmap:b")
    d.nbdinfo("e", "--map=qemu:dirty-bitmap:none")
    d.nbdinfo("e", "--json")


@scenario
def bitmap_exported_errors(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("blockdev-add", **null("m"))
    d.qmp("block-dirty-bitmap-add", node="n", name="on")
    d.qmp("block-dirty-bitmap-add", node="n", name="off", disabled=True)
    d.qmp("block-dirty-bitmap-add", node="m", name="m", disabled=True)
    d.nbd_server()
    for sources in (
        ["none"],
        ["on"],
        ["off", "off"],
        [{"node": "m", "name": "m"}],
        [{"node": "none", "name": "m"}],
        [{"node": "n", "name": "off"}],
        "off",
        [1],
        ["off"],
    ):
        d.qmp("block-export-add", type="nbd", id="e", node_name="n", bitmaps=sources)
    d.qmp("nbd-server-add", device="n", name="x", bitmap="none")
    d.qmp("nbd-server-add", device="n", name="x", bitmap="on")
    d.qmp("nbd-server-add", device="n", name="x", bitmap="off")
    d.qmp("nbd-server-add", device="n", name="y", writable=True, bitmap="on")
    d.qmp("query-block-exports")
    bitmaps(d)


@scenario
def bitmap_exported_through_the_filter(d: Session) -> None:
    d.qmp("blockdev-add", **null("disk"))
    d.qmp("blockdev-add", **null("temp"))
    d.nbd_server()
    d.qmp("block-dirty-bitmap-add", node="disk", name="b")
    d.qmp("block-export-add", type="nbd", id="d", node_name="disk", name="d", writable=True)
    d.io("d", "write 128k 64k")
    d.qmp("block-export-del", id="d")
    d.qmp("block-dirty-bitmap-disable", node="disk", name="b")
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
    d.qmp("block-export-add", type="nbd", id="c", node_name="cbw", name="c", bitmaps=["b"])
    d.qmp("block-export-add", type="nbd", id="s", node_name="access", name="s", bitmaps=["b"])
    d.qmp("block-export-add", type="nbd", id="t", node_name="access", name="t", bitmaps=[bitmap])
    for name in ("c", "s", "t"):
        d.nbdinfo(name, "--map=qemu:dirty-bitmap:b")
    bitmaps(d)


@scenario
def bitmap_merge_of_bitmaps_in_use(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="disk", size=1 << 20)
    d.qmp("blockdev-add", driver="null-co", node_name="large", size=2 << 20)
    for name in ("busy", "other", "free"):
        d.qmp("block-dirty-bitmap-add", node="disk", name=name, disabled=True)
    d.qmp("block-dirty-bitmap-add", node="large", name="large")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="disk", bitmaps=["busy", "other"])
    large = {"node": "large", "name": "large"}
    for target in ("busy", "free"):
        for sources in (
            *(["other"], ["nope"], [large], ["other", "nope"], ["nope", "other"]),
            *([large, "other"], ["other", large], [target], ["free", "nope"]),
        ):
            d.qmp("block-dirty-bitmap-merge", node="disk", target=target, bitmaps=sources)

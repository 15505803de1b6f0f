"""What queries tell of qcow2 images: chains, snapshots, damage, data files, bitmaps."""

from typing import Any

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.devices import CONTROLLER, disk
from tests.oracle.session import Session


def _img(d: Session, *words: str) -> None:
    d.tool("qemu-img", *words)


def _create(d: Session, name: str, *words: str) -> None:
    _img(d, "create", "-q", "-f", "qcow2", *words, name, *([] if "-b" in words else ["1M"]))


def _add(d: Session, node: str, name: str, **more: Any) -> None:
    file = {"driver": "file", "filename": d.path(name)}
    d.qmp("blockdev-add", driver="qcow2", node_name=node, file=file, **more)


def _tell(d: Session) -> None:
    d.qmp("query-named-block-nodes")
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def info_of_chains(d: Session) -> None:
    d.file("base.raw", 1 << 20, (0x11, 0, 1 << 20))
    _create(d, "mid.qcow2", "-b", "base.raw", "-F", "raw")
    _create(d, "top.qcow2", "-b", d.path("mid.qcow2"), "-F", "qcow2")
    _create(d, "json.qcow2", "-b", 'json:{"driver":"raw","file.filename":"base.raw"}', "-F", "raw")
    for name in ("mid", "top", "json"):
        _add(d, name, f"{name}.qcow2")
        _tell(d)
        d.qmp("blockdev-del", node_name=name)
    _add(d, "top", "top.qcow2", backing=None)
    _tell(d)
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    _add(d, "mid", "mid.qcow2", backing="n")
    _add(d, "json", "json.qcow2", backing="mid")
    _tell(d)


@scenario
def info_of_snapshots(d: Session) -> None:
    _create(d, "a.qcow2")
    for name in ("one", "two", "3"):
        _img(d, "snapshot", "-c", name, "a.qcow2")
    _img(d, "snapshot", "-d", "two", "a.qcow2")
    _create(d, "top.qcow2", "-b", "a.qcow2", "-F", "qcow2")
    _img(d, "snapshot", "-c", "four", "top.qcow2")
    _add(d, "a", "a.qcow2", read_only=True)
    _add(d, "top", "top.qcow2")
    _tell(d)


@scenario
def info_of_layouts(d: Session) -> None:
    for number, layout in enumerate(
        (
            "compat=0.10",
            "compat=1.1,lazy_refcounts=on",
            "extended_l2=on",
            "extended_l2=on,cluster_size=2M",
            "cluster_size=512",
            "refcount_bits=1",
            "refcount_bits=64,cluster_size=4k",
            "compression_type=zstd",
            "preallocation=metadata",
            "preallocation=full",
        )
    ):
        _create(d, f"{number}.qcow2", "-o", layout)
        _add(d, f"n{number}", f"{number}.qcow2")
        _tell(d)
        d.qmp("blockdev-del", node_name=f"n{number}")


@scenario
def info_with_data_files(d: Session) -> None:
    for number, layout in enumerate(("", ",data_file_raw=on", ",data_file_raw=on,extended_l2=on")):
        _create(d, f"{number}.qcow2", "-o", f"data_file=data{number}.raw{layout}")
        _add(d, f"n{number}", f"{number}.qcow2")
        _tell(d)
        d.qmp("blockdev-del", node_name=f"n{number}")
        other = {"driver": "file", "filename": d.file(f"other{number}.raw")}
        _add(d, f"n{number}", f"{number}.qcow2", data_file=other)
        _tell(d)
        d.qmp("blockdev-del", node_name=f"n{number}")


@scenario
def info_with_bitmaps(d: Session) -> None:
    _create(d, "a.qcow2")
    _img(d, "bitmap", "--add", "a.qcow2", "b0")
    _img(d, "bitmap", "--add", "--disable", "-g", "4k", "a.qcow2", "b1")
    _create(d, "top.qcow2", "-b", "a.qcow2", "-F", "qcow2")
    _img(d, "bitmap", "--add", "top.qcow2", "b2")
    _add(d, "top", "top.qcow2")
    _tell(d)
    d.qmp("block-dirty-bitmap-add", node="top", name="new", persistent=True)
    d.qmp("block-dirty-bitmap-add", node="top", name="passing")
    d.qmp("block-dirty-bitmap-disable", node="top", name="b2")
    _tell(d)
    d.qmp("block-dirty-bitmap-remove", node="top", name="b2")
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def info_of_damaged_images(d: Session) -> None:
    _create(d, "a.qcow2")
    d.tool("qemu-io", "-c", "write 0 64k", "a.qcow2")
    whole = (d.dir / "a.qcow2").read_bytes()
    for bit, name in ((1, "dirty"), (2, "corrupt"), (3, "both")):
        image = bytearray(whole)
        image[79] = bit
        (d.dir / f"{name}.qcow2").write_bytes(image)
        _add(d, name, f"{name}.qcow2", read_only=True)
        _tell(d)
        d.qmp("blockdev-del", node_name=name)
        _add(d, name, f"{name}.qcow2")
        _tell(d)


@scenario
def info_of_what_is_above_an_open_image(d: Session) -> None:
    _create(d, "a.qcow2", "-o", "lazy_refcounts=on")
    _add(d, "a", "a.qcow2")
    d.qmp("blockdev-add", driver="blkdebug", node_name="b", image="a")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="b")
    d.nbd_server()
    d.qmp("nbd-server-add", device="r", writable=True)
    d.io("r", "write 0 64k")  # its refcounts are not written yet
    d.qmp("query-named-block-nodes", flat=True)


@system_scenario
def info_of_disks(d: Session) -> None:
    d.start(*CONTROLLER)
    d.file("base.raw", 1 << 20)
    _create(d, "top.qcow2", "-b", "base.raw", "-F", "raw")
    _img(d, "snapshot", "-c", "one", "top.qcow2")
    _img(d, "bitmap", "--add", "top.qcow2", "b0")
    _add(d, "top", "top.qcow2")
    disk(d, "sda", "top")
    d.qmp("query-block")
    d.qmp("human-monitor-command", command_line="info block -v")


@scenario
def status_of_a_cluster_behind_the_end_of_the_file(d: Session) -> None:
    """Of the last one only what was written need be there; who copies asks for its status."""
    _create(d, "sparse.qcow2")
    _add(d, "q", "sparse.qcow2")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="q", writable=True)
    d.io("q", *(f"write -P 1 {at}k 4k" for at in (64, 192, 320, 448, 576)))
    d.tool("qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri("q"), "copy.raw")
    d.content("copy.raw")


@scenario
def info_where_refcounts_are_no_longer_lazy(d: Session) -> None:
    _create(d, "a.qcow2", "-o", "lazy_refcounts=on")
    _add(d, "a", "a.qcow2")
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="a", writable=True)
    d.io("a", "write -q 0 64k", "flush")
    d.qmp("query-named-block-nodes", flat=True)
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    options = {"driver": "qcow2", "node-name": "a", "file": file}
    for lazy in (True, False, False, True):
        d.qmp("blockdev-reopen", options=[{**options, "lazy-refcounts": lazy}])
        d.qmp("query-named-block-nodes", flat=True)
    d.io("a", "write -q 64k 64k", "flush")
    d.qmp("query-named-block-nodes", flat=True)

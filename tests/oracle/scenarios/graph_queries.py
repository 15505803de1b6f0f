"""The graph as x-debug-query-block-graph draws it; I/O threads; names of backing files."""

from typing import Any

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.devices import CONTROLLER, disk, null
from tests.oracle.session import Session


def _draw(d: Session) -> None:
    d.qmp("x-debug-query-block-graph")


@scenario
def graph_of_nodes(d: Session) -> None:
    _draw(d)
    base = d.file("base.raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="q")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "temp.qcow2", "1M")
    temp = {"driver": "file", "filename": d.path("temp.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="t", file=temp, backing="r")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="r", target="t")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    _draw(d)
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="s", name="s")
    _draw(d)
    d.qmp("block-export-add", id="w", type="nbd", node_name="c", name="c", writable=True)
    _draw(d)
    d.qmp("block-export-del", id="e")
    d.qmp("block-export-del", id="w")
    d.event('"id": "w"')
    _draw(d)


@scenario
def graph_of_jobs(d: Session) -> None:
    for name in ("a", "b", "c"):
        null(d, name)
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
        file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
        d.qmp("blockdev-add", driver="qcow2", node_name=f"t{name}", file=file, backing=name)
    for name in ("b", "a", "c"):
        d.qmp("blockdev-backup", job_id=f"j{name}", device=name, target=f"t{name}", sync="none")
        _draw(d)


@system_scenario
def graph_of_a_machine(d: Session) -> None:
    path = d.file("disk.raw")
    drive = f"if=none,id=dr,file={path},format=raw,node-name=dn"
    d.start(*CONTROLLER, "-drive", drive, "-drive", "if=none,id=empty")
    _draw(d)
    null(d, "n0")
    null(d, "n1")
    disk(d, "sda", "n0")
    d.qmp("device_add", driver="scsi-cd", id="cd")
    d.qmp("device_add", driver="scsi-cd", drive="n1")
    d.qmp("device_add", driver="virtio-blk", id="vda", drive="dr")
    _draw(d)
    d.qmp("device_del", id="sda")
    d.event("DEVICE_DELETED")
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="n0", name="s")
    disk(d, "sdb", "n0")
    _draw(d)


@system_scenario
def io_threads(d: Session) -> None:
    d.qmp("query-iothreads")
    for name, more in (("z", {}), ("b", {"poll-max-ns": 5, "poll-grow": 2}), ("a1", {})):
        d.qmp("object-add", qom_type="iothread", id=name, **more)
    d.qmp("object-add", qom_type="iothread", id="a2", aio_max_batch=7, poll_shrink=1)
    d.qmp("query-iothreads")
    d.qmp("object-del", id="b")
    d.qmp("query-iothreads")


def _change(d: Session, device: str, image: str, name: str) -> None:
    d.qmp("change-backing-file", device=device, image_node_name=image, backing_file=name)


def _chain(d: Session) -> None:
    d.file("base.raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "mid.qcow2")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "a.qcow2")
    backing: dict[str, Any] = {"driver": "qcow2", "node-name": "mid"}
    backing["file"] = {"driver": "file", "filename": d.path("mid.qcow2"), "node-name": "mf"}
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="top", file=file, backing=backing)


@scenario
def backing_file_is_called_otherwise(d: Session) -> None:
    _chain(d)
    _change(d, "top", "top", "other.qcow2")
    d.qmp("query-named-block-nodes")
    _change(d, "top", "mid", "nowhere.raw")
    d.qmp("query-named-block-nodes")
    _change(d, "top", "mid", "")
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("blockdev-del", node_name="top")
    for name in ("a.qcow2", "mid.qcow2"):
        d.tool("qemu-img", "info", "-U", name)
        d.tool("qemu-img", "check", name)


@scenario
def backing_file_in_an_opened_chain(d: Session) -> None:
    d.file("base.raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file)
    d.qmp("query-named-block-nodes")
    _change(d, "q", "q", "other.raw")
    d.qmp("query-named-block-nodes")
    _change(d, "q", "q", "base.raw")
    d.qmp("query-named-block-nodes")


@scenario
def backing_file_below_a_node_without_a_plain_name(d: Session) -> None:
    d.file("base.raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    # A limited raw node has no plain name, so the image on it has none either.
    part = {"driver": "raw", "offset": 0, "size": (d.dir / "a.qcow2").stat().st_size // 512 * 512}
    d.qmp("blockdev-add", driver="qcow2", node_name="q", file={**part, "file": file})
    d.qmp("object-add", qom_type="throttle-group", id="g")
    d.qmp("blockdev-add", driver="throttle", node_name="t", file="q", throttle_group="g")
    d.qmp("query-named-block-nodes")
    for name in ("other.raw", d.path("base.raw"), "", d.path("base.raw")):
        _change(d, "t", "q", name)
        d.qmp("query-named-block-nodes")
    d.qmp("blockdev-del", node_name="t")
    for name in ("base.raw", d.path("base.raw")):
        _change(d, "q", "q", name)
        d.qmp("query-named-block-nodes", flat=True)


@scenario
def backing_file_that_the_options_name(d: Session) -> None:
    base = d.file("base.raw")
    null(d, "n")
    d.qmp("blockdev-add", driver="raw", node_name="b", file={"driver": "file", "filename": base})
    for name in ("base.raw", base):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", name, "-F", "raw", "a.qcow2")
        file = {"driver": "file", "filename": d.path("a.qcow2")}
        nested = {"driver": "raw", "file": {"driver": "file", "filename": base}}
        for backing in ("b", nested, "n", None):
            d.qmp("blockdev-add", driver="qcow2", node_name="q", file=file, backing=backing)
            d.qmp("query-named-block-nodes", flat=True)
            d.qmp("blockdev-del", node_name="q")


@scenario
def backing_file_with_a_relative_name_below_other_nodes(d: Session) -> None:
    d.file("base.raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    file = {"driver": "file", "filename": d.path("a.qcow2")}
    d.qmp("object-add", qom_type="throttle-group", id="g")
    for between in (
        {"driver": "blkdebug", "image": file},
        {"driver": "blkdebug", "image": file, "align": 512},
        {"driver": "throttle", "file": file, "throttle-group": "g"},
        {"driver": "raw", "file": {"driver": "raw", "offset": 0, "file": file}},
    ):
        d.qmp("blockdev-add", driver="qcow2", node_name="q", file=between)
        d.qmp("query-named-block-nodes", flat=True)
        d.qmp("blockdev-del", node_name="q")


@scenario
def names_in_a_chain_follow_what_changes_below(d: Session) -> None:
    d.file("base.raw")
    below = ("-b", "base.raw", "-F", "raw")
    for name in "abcd":
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", *below, name)
        below = ("-b", name, "-F", "qcow2")

    def image(name: str, **options: Any) -> dict[str, Any]:
        file = {"driver": "file", "filename": d.path(name)}
        return {"driver": "qcow2", "node-name": name, "file": file, "read-only": True, **options}

    file = {"driver": "file", "filename": d.path("base.raw")}
    base = {"driver": "raw", "node-name": "base", "file": file, "read-only": True}
    null(d, "n")
    d.qmp("blockdev-add", **base)
    d.qmp("blockdev-add", **image("a", backing="base"))
    for name, backing in (("b", "a"), ("c", "b"), ("d", "c")):
        d.qmp("blockdev-add", **image(name, backing=backing))
    d.qmp("object-add", qom_type="throttle-group", id="g")
    d.qmp("blockdev-add", driver="throttle", node_name="t", file="d", throttle_group="g")
    d.qmp("query-named-block-nodes")
    for options in (
        {**base, "offset": 512},
        {**base, "offset": 0},
        image("a", backing="n"),
        image("a", backing=None),
        image("b", backing="n"),
        image("a", backing="base"),
        image("b", backing="a"),
    ):
        d.qmp("blockdev-reopen", options=[options])
        d.qmp("query-named-block-nodes")
    d.qmp("blockdev-snapshot", node="d", overlay="t")


@scenario
def backing_file_change_refused(d: Session) -> None:
    _chain(d)
    null(d, "n")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="n")
    for device, image in (
        ("nope", "top"),
        ("top", "nope"),
        ("mid", "mid"),
        ("n", "n"),
        ("r", "r"),
        ("r", "mid"),
        ("top", "mf"),
        ("mf", "mid"),
        ("n", "mid"),
    ):
        _change(d, device, image, "x")
    _change(d, "top", "top", "x" * 1023)
    _change(d, "top", "top", "x" * 1024)
    null(d, "t")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="top", target="t")
    _change(d, "c", "c", "x")
    _change(d, "c", "mid", "x")
    _change(d, "top", "mid", "x")


@system_scenario
def backing_file_of_a_drive(d: Session) -> None:
    d.file("base.raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    path = d.path("a.qcow2")
    d.start(
        *CONTROLLER,
        *("-drive", f"if=none,id=dr,file={path},format=qcow2,node-name=dn"),
        *("-drive", "if=none,id=empty"),
    )
    for device, image in (("dr", "dn"), ("dn", "dn"), ("dr", "dr"), ("empty", "dn")):
        _change(d, device, image, "x")
    d.qmp("query-block")

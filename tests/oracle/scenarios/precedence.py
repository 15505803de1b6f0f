"""What comes first: which of several errors is told, which of several things ends first."""

import random
from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.session import Session


def nodes(d: Session, *names: str) -> None:
    for name in names:
        path = d.file(f"{name}.raw")
        d.qmp("blockdev-add", driver="file", node_name=name, filename=path)


@scenario
def force_share_before_detect_zeroes(d: Session) -> None:
    both = {"force_share": True, "detect_zeroes": "unmap"}
    d.qmp("blockdev-add", driver="null-co", node_name="a", **both)
    d.qmp("blockdev-add", driver="null-co", node_name="a", read_only=True, **both)


@scenario
def cbw_bitmap_before_target(d: Session) -> None:
    nodes(d, "disk")
    given = {"driver": "copy-before-write", "node_name": "c", "file": "disk", "target": "disk"}
    d.qmp("blockdev-add", bitmap={"node": "none", "name": "b"}, **given)
    d.qmp("blockdev-add", bitmap={"node": "disk", "name": "b"}, **given)


@scenario
def backing_of_itself(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    given = {"driver": "qcow2", "file": {"driver": "file", "filename": d.path("a.qcow2")}}
    d.qmp("blockdev-add", node_name="a", backing="a", **given)
    d.qmp("blockdev-add", node_name="a", backing="none", **given)
    nested = {"driver": "raw", "node-name": "r", "file": "a"}
    d.qmp("blockdev-add", node_name="a", backing=nested, **given)


@scenario
def reopened_with_another_driver(d: Session) -> None:
    nodes(d, "disk")
    d.qmp("blockdev-add", driver="raw", node_name="a", file="disk")
    for driver, file in (("snapshot-access", "none"), ("throttle", "a"), ("raw", "a")):
        group = {"throttle-group": "g"} if driver == "throttle" else {}
        options = {"driver": driver, "node-name": "a", "file": file} | group
        d.qmp("blockdev-reopen", options=[options])
    d.qmp("blockdev-reopen", options=[{"driver": "null-co", "node-name": "a"}])
    d.qmp(
        "blockdev-reopen",
        options=[{"driver": "snapshot-access", "node-name": "a", "file": "disk"}],
    )


@scenario
def exports_end_with_quit(d: Session) -> None:
    d.nbd_server()
    nodes(d, "a", "b", "c")
    for name in ("b", "c", "a"):
        d.qmp("block-export-add", id=f"export-{name}", type="nbd", node_name=name)


@scenario
def exports_end_with_server(d: Session) -> None:
    d.nbd_server()
    nodes(d, "a", "b", "c")
    for name in ("b", "c", "a"):
        d.qmp("block-export-add", id=f"export-{name}", type="nbd", node_name=name)
    d.qmp("nbd-server-stop")
    d.qmp("query-block-exports")


@scenario
def overlay_that_is_in_use(d: Session) -> None:
    nodes(d, "disk", "other")
    for name in ("base", "top"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
        file = {"driver": "file", "filename": d.path(f"{name}.qcow2")}
        more = {"backing": "base"} if name == "top" else {}
        d.qmp("blockdev-add", driver="qcow2", node_name=name, file=file, **more)
    d.qmp("blockdev-snapshot", node="disk", overlay="base")
    d.qmp("blockdev-snapshot", node="base", overlay="top")
    d.qmp("blockdev-snapshot", node="base", overlay="base")
    backup = {"job_id": "j", "sync": "full", "auto_finalize": False}
    d.qmp("blockdev-backup", device="disk", target="other", **backup)
    d.event('"pending"')
    for overlay in ("disk", "other"):
        d.qmp("blockdev-snapshot", node="top", overlay=overlay)
    d.qmp("job-finalize", id="j")
    d.event('"null"')
    d.qmp("blockdev-backup", device="disk", target="top", **backup)
    d.event('"pending"')
    d.qmp("blockdev-snapshot", node="other", overlay="top")
    d.qmp("job-finalize", id="j")


@scenario
def jobs_end_with_quit(d: Session) -> None:
    nodes(d, "a", "b", "c", "x", "y", "z")
    kept = {"sync": "full", "auto_dismiss": False}
    d.qmp("blockdev-backup", job_id="j0", device="a", target="x", **kept)
    d.event('"concluded"')
    d.qmp("blockdev-backup", job_id="j1", device="b", target="y", sync="none", auto_dismiss=False)
    d.qmp("blockdev-backup", job_id="j2", device="c", target="z", auto_finalize=False, **kept)
    d.event("BLOCK_JOB_PENDING")
    d.qmp("query-jobs")


@scenario
def enabled_bitmap_on_readonly_export(d: Session) -> None:
    d.nbd_server()
    nodes(d, "a", "b", "target")
    d.qmp("block-dirty-bitmap-add", node="a", name="bitmap")
    named = {"node": "a", "name": "bitmap"}
    for number, (node, bitmap) in enumerate(
        (("a", "bitmap"), ("a", named), ("b", "bitmap"), ("b", named), ("a", "bitmap"))
    ):
        name = f"e{number}"
        d.qmp("block-export-add", id=name, type="nbd", node_name=node, name=name, bitmaps=[bitmap])
    d.qmp("query-block-exports")
    d.qmp("query-named-block-nodes")
    d.tool("nbdinfo", "--map=qemu:dirty-bitmap:bitmap", d.uri("e1"))
    d.qmp("block-dirty-bitmap-remove", node="a", name="bitmap")
    d.qmp("block-export-del", id="e1")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("block-dirty-bitmap-remove", node="a", name="bitmap")


@scenario
def name_is_looked_at_after_what_is_below(d: Session) -> None:
    d.nbd_server()
    nodes(d, "a", "target")
    d.qmp("block-export-add", id="e", type="nbd", node_name="a", writable=True)
    below = {"driver": "copy-before-write", "file": "a", "target": "target"}
    for name in ("target", "new"):
        d.qmp("blockdev-add", driver="snapshot-access", node_name=name, file=below)
    d.qmp("query-named-block-nodes")


@scenario
def users_of_a_node_that_is_deleted(d: Session) -> None:
    """A backend is told first, then what blocks commands, then other nodes."""
    d.nbd_server()
    d.qmp("blockdev-add", driver="null-co", node_name="base", size=1 << 20)
    for name in ("top", "target"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
        file = {"driver": "file", "filename": d.path(name)}
        d.qmp("blockdev-add", driver="qcow2", node_name=name, file=file, backing="base")
    d.qmp("blockdev-del", node_name="base")
    d.qmp("block-export-add", type="nbd", id="base", node_name="base")
    d.qmp("blockdev-del", node_name="base")
    job = {"device": "top", "target": "target", "filter_node_name": "filter"}
    d.qmp("blockdev-backup", job_id="j", sync="top", auto_finalize=False, **job)
    d.event("BLOCK_JOB_PENDING")
    names = ("top", "target", "filter")
    for name in names:
        d.qmp("blockdev-del", node_name=name)
    for name in names:
        d.qmp("block-export-add", type="nbd", id=name, node_name=name)
        d.qmp("blockdev-del", node_name=name)


@scenario
def backing_file_before_file_when_reopened(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    file = {"driver": "file", "node-name": "f", "filename": d.path("a.qcow2")}
    given = {"driver": "qcow2", "node-name": "a", "file": file}
    d.qmp("blockdev-add", **given)
    null = {"driver": "null-co"}
    for file, backing in (
        *(("a", "a"), ("none", "a"), ("a", "none"), ("none", "none"), ("a", None)),
        *(("none", null), (null, "none"), (null, null)),
    ):
        options: dict[str, Any] = {**given, "file": file, "backing": backing}
        d.qmp("blockdev-reopen", options=[options])
        d.qmp("blockdev-reopen", options=[{**options, "lazy-refcounts": True}])


@scenario
def one_of_several_unexpected_members(d: Session) -> None:
    """Which one depends on all members, and on which of them are known."""
    draw = random.Random(1)
    names = [*("a", "b", "zzz", "file", "node", "limits", "x-perf", "é", "", "0", "a-longer-name")]
    names += [f"k{number}" for number in range(12)]
    commands: list[tuple[str, dict[str, Any]]] = [
        ("query-named-block-nodes", {"flat": True}),
        ("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "writable": True}),
        ("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 5, "read-only": True}),
    ]
    for number in range(90):
        command, known = commands[number % len(commands)]
        unknown = draw.sample(names, draw.randint(2, len(names)))
        members = [*known.items(), *((name, 1) for name in unknown)]
        draw.shuffle(members)
        d.qmp(command, **dict(members))


@scenario
def export_of_a_read_only_node_before_its_thread(d: Session) -> None:
    d.nbd_server()
    d.qmp("blockdev-add", driver="null-co", node_name="n", read_only=True)
    for more in ({"writable": True}, {}, {"name": "x" * 5000}, {"bitmaps": ["b"]}):
        for node in ("n", "none"):
            given = {"type": "nbd", "id": "e", "node_name": node, "iothread": "none"}
            d.qmp("block-export-add", **given, **more)


@scenario
def node_in_use_before_its_overlay(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="base", size=1 << 20)
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "top.qcow2", "1M")
    file = {"driver": "file", "filename": d.path("top.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="top", file=file, backing="base")
    for node in ("base", "top", "none"):
        d.qmp("blockdev-snapshot", node=node, overlay="none")

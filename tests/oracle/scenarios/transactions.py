"""Transactions: all or none."""

import signal
from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.jobs import NULL, SIZE, disks, jobs, until_copied
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session


def on(verb: str, node: str = "disk", name: str = "b", **more: Any) -> dict[str, Any]:
    """Return an action on a bitmap."""
    data = {"node": node, "name": name} | more
    return {"type": f"block-dirty-bitmap-{verb}", "data": data}


def backup(device: str = "disk", target: str = "target", job: str = "j", **more: Any) -> Any:
    """Return an action that backs up a disk."""
    data = {"device": device, "target": target, "job-id": job, "sync": "full"}
    return {"type": "blockdev-backup", "data": data | more}


ABORT = {"type": "abort", "data": {}}


def transact(d: Session, *actions: Any, mode: str | None = None) -> None:
    properties = {"properties": {"completion-mode": mode}} if mode else {}
    d.qmp("transaction", actions=list(actions), **properties)


def bitmaps(d: Session) -> None:
    d.qmp("query-named-block-nodes", flat=True)
    for name in ("a", "b", "c"):
        d.qmp("x-debug-block-dirty-bitmap-sha256", node="disk", name=name)


def written(d: Session) -> None:
    """A disk with bitmaps a, b (disabled) and c, of which a and c have recorded."""
    d.qmp("blockdev-add", **null("disk", SIZE))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="disk", name="e", writable=True)
    d.qmp("block-dirty-bitmap-add", node="disk", name="a")
    d.qmp("block-dirty-bitmap-add", node="disk", name="b", disabled=True, granularity=512)
    d.io("e", "write 0 64k", "write 1M 100k")
    d.qmp("block-dirty-bitmap-add", node="disk", name="c", granularity=4096)
    d.io("e", "write 5M 1k")


@scenario
def transaction_of_nothing(d: Session) -> None:
    transact(d)
    transact(d, mode="grouped")
    transact(d, ABORT)
    transact(d, ABORT, mode="grouped")


@scenario
def transaction_malformed(d: Session) -> None:
    d.qmp("transaction")
    d.qmp("transaction", actions={})
    d.qmp("transaction", actions=[1])
    transact(d, {})
    transact(d, {"type": "zzz", "data": {}})
    transact(d, {"type": "abort"})
    transact(d, {"type": 1, "data": {}})
    transact(d, {"type": "abort", "data": {"x": 1}})
    transact(d, {"type": "abort", "data": {}, "x": 1})
    transact(d, ABORT, {"type": "block-dirty-bitmap-add", "data": {"node": "n"}})
    transact(d, mode="zzz")
    d.qmp("transaction", actions=[], properties={"x": 1})


@scenario
def transaction_of_bitmaps(d: Session) -> None:
    written(d)
    transact(
        d,
        on("add", name="new"),
        on("enable"),
        on("disable", name="a"),
        {
            "type": "block-dirty-bitmap-merge",
            "data": {
                "node": "disk",
                "target": "c",
                "bitmaps": ["a", {"node": "disk", "name": "b"}],
            },
        },
        on("clear", name="a"),
        on("remove", name="new"),
    )
    bitmaps(d)


@scenario
def transaction_of_bitmaps_taken_back(d: Session) -> None:
    written(d)
    bitmaps(d)
    merge = {"node": "disk", "target": "c", "bitmaps": ["a", "b"]}
    changes = (
        on("add", name="new"),
        on("enable"),
        on("disable", name="a"),
        {"type": "block-dirty-bitmap-merge", "data": merge},
        on("clear", name="a"),
        on("remove", name="b"),
    )
    transact(d, *changes, ABORT)
    transact(d, *changes, on("add", name="a"))
    transact(d, *changes, on("clear", name="none"))
    transact(d, *changes, on("clear", node="none"))
    transact(d, *changes, on("remove", name="b"))
    transact(d, *changes, on("add", name="b"))
    transact(d, *changes, on("add", name="x", granularity=3))
    transact(d, *changes, backup(device="none"))
    transact(d, *changes, mode="grouped")
    transact(d, *changes, mode="individual")
    bitmaps(d)


def _base_and_overlay(d: Session, **rules: Any) -> None:
    for name in ("base", "over"):
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
    image = {"driver": "file", "filename": d.path("base.qcow2")}
    file = {"driver": "blkdebug", "image": image, **rules}
    d.qmp("blockdev-add", driver="qcow2", node_name="base", file=file)
    file = {"driver": "file", "filename": d.path("over.qcow2")}
    d.qmp("blockdev-add", driver="qcow2", node_name="over", file=file, backing=None)
    d.nbd_server()
    d.qmp("block-export-add", id="e", type="nbd", node_name="base", name="x", writable=True)


@scenario
def snapshot_above_an_image_that_cannot_be_flushed(d: Session) -> None:
    _base_and_overlay(d, **{"inject-error": [{"event": "none", "iotype": "flush", "errno": 5}]})
    d.io("x", "write -P 1 0 64k")
    d.qmp("blockdev-snapshot", node="base", overlay="none")
    d.qmp("blockdev-snapshot", node="base", overlay="base")
    d.qmp("blockdev-snapshot", node="base", overlay="over")
    named = {"node-name": "base", "snapshot-file": d.path("new.qcow2")}
    d.qmp("blockdev-snapshot-sync", **named)
    d.qmp("blockdev-snapshot-sync", **named, snapshot_node_name="over")
    d.qmp("blockdev-snapshot-sync", **named, snapshot_node_name="new", format="zz")
    d.gone("new.qcow2")
    d.kill(signal.SIGKILL)


@scenario
def snapshot_above_an_image_that_cannot_store_its_bitmaps(d: Session) -> None:
    """It can't be made read-only; that is not told, and hinders nobody."""
    rule = {"event": "cluster_alloc", "state": 2, "iotype": "write", "errno": 5}
    change = {"event": "cluster_alloc", "state": 1, "new_state": 2}
    _base_and_overlay(d, **{"inject-error": [rule], "set-state": [change]})
    d.qmp("block-dirty-bitmap-add", node="base", name="b", persistent=True)
    d.qmp("blockdev-snapshot", node="base", overlay="over")
    d.io("x", "write -P 2 64k 64k", "read -P 0 0 64k")
    d.qmp("query-block-exports")
    d.kill(signal.SIGKILL)


@scenario
def transaction_of_one_backup(d: Session) -> None:
    disks(d)
    transact(d, backup())
    d.event(NULL)
    transact(d, backup(), ABORT)
    jobs(d)
    transact(d, backup(**{"auto-dismiss": False}), ABORT)
    jobs(d)
    transact(d, ABORT, backup())
    transact(d, backup(target="small"))
    transact(d, backup(), on("add", name="b"), mode="grouped")
    transact(d, backup(), backup(target="second"))
    d.qmp("query-named-block-nodes", flat=True)


def two_disks(d: Session) -> None:
    disks(d)
    path = d.file("disk2.raw", SIZE, (0x12, 0, SIZE))
    d.qmp("blockdev-add", driver="file", node_name="disk2", filename=path)


HELD = {"auto-finalize": False}
SLOW = {"speed": 1}
K = {"device": "disk2", "target": "second", "job": "k"}


@scenario
def transaction_of_grouped_backups_cancelled(d: Session) -> None:
    two_disks(d)
    slow = {"sync": "none"}
    transact(d, backup(**slow), backup(**K, **slow), mode="grouped")
    jobs(d)
    d.qmp("block-job-cancel", device="j")
    d.event(f'{NULL}, "id": "j"')
    jobs(d)
    transact(d, backup(**slow), backup(**K, **slow), mode="grouped")
    d.qmp("block-job-cancel", device="k")
    d.event(f'{NULL}, "id": "j"')
    jobs(d)


@scenario
def transaction_of_individual_backups_cancelled(d: Session) -> None:
    two_disks(d)
    slow = {"sync": "none"}
    transact(d, backup(**slow), backup(**K, **slow))
    d.qmp("block-job-cancel", device="j")
    d.event(f'{NULL}, "id": "j"')
    jobs(d)
    d.qmp("block-job-cancel", device="k")
    d.event(f'{NULL}, "id": "k"')
    jobs(d)


@scenario
def transaction_with_bitmaps_and_a_failing_group(d: Session) -> None:
    two_disks(d)
    for node in ("disk", "disk2"):
        d.qmp("block-dirty-bitmap-add", node=node, name="b")
    always = {"bitmap": "b", "bitmap-mode": "always", "auto-dismiss": False, "speed": 1}
    success = {"sync": "bitmap", "bitmap": "b", "bitmap-mode": "on-success"}
    transact(
        d,
        backup(**always),
        backup(**K, **success, **{"auto-finalize": False, "auto-dismiss": False}),
        mode="grouped",
    )
    until_copied(d, "target.raw")
    d.event('"status": "waiting", "id": "k"')
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("job-cancel", id="k")
    jobs(d)
    bitmaps(d)

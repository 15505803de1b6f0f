"""drive-backup and blockdev-snapshot-sync, which only qemu-system has."""

from typing import Any

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session

MIB = 1 << 20


def source(d: Session, *more: str) -> None:
    """Start with a drive ``d0``, whose node is ``src``."""
    name = d.file("disk.raw", MIB)
    d.start("-drive", f"if=none,id=d0,format=raw,node-name=src,file={name}", *more)


def backup(d: Session, target: str, *, device: str = "d0", done: bool = True, **more: Any) -> None:
    more = {"sync": "full", **more}
    reply = d.qmp("drive-backup", job_id="j", device=device, target=d.path(target), **more)
    if done and reply is not None:
        d.event('"status": "null"')


@system_scenario
def drive_backup_makes_its_target(d: Session) -> None:
    source(d)
    for number, more in enumerate(
        (
            {},
            {"format": "qcow2"},
            {"format": "raw"},
            {"format": "raw", "mode": "absolute-paths", "sync": "top"},
            {"format": "nonesuch"},
            {"format": "file"},
            {"format": "null-co"},
            {"format": "blkdebug"},
            {"format": "copy-before-write"},
            {"format": "qcow2", "sync": "incremental"},
            {"format": "qcow2", "sync": "incremental", "bitmap": "none"},
            {"format": "qcow2", "sync": "bitmap"},
            {"format": "qcow2", "speed": -1},
            {"format": "qcow2", "compress": True},
            {"format": "raw", "compress": True},
        )
    ):
        backup(d, f"t{number}", **more)


@system_scenario
def drive_backup_takes_a_target_that_is_there(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", d.path("t.qcow2"), "1M")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", d.path("small.qcow2"), "512k")
    d.tool("qemu-img", "create", "-q", "-f", "raw", d.path("t.raw"), "1M")
    source(d)
    backup(d, "t.qcow2", mode="existing")
    backup(d, "t.qcow2", mode="existing", format="qcow2")
    backup(d, "t.qcow2", mode="existing", format="raw")
    backup(d, "t.raw", mode="existing", format="raw")
    backup(d, "t.raw", mode="existing", format="qcow2")
    backup(d, "small.qcow2", mode="existing", format="qcow2")
    backup(d, "missing", mode="existing", format="raw")
    backup(d, "missing", mode="existing")
    backup(d, "t.raw", mode="existing", format="nonesuch")
    backup(d, "disk.raw", mode="existing", format="raw")


@system_scenario
def drive_backup_of_what_is_not_there(d: Session) -> None:
    source(d)
    backup(d, "t", device="none")
    backup(d, "t", device="src", format="raw")
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=MIB)
    backup(d, "t1", device="n", format="raw")
    d.qmp("drive-backup", device="d0", target=d.path("t2"), sync="full", format="raw")
    d.event('"status": "null"')
    d.qmp("drive-backup", device="n", target=d.path("t2"), sync="full", format="raw")


@system_scenario
def drive_backup_in_a_transaction(d: Session) -> None:
    source(d)
    d.qmp("block-dirty-bitmap-add", node="src", name="b")
    good = {"job-id": "j", "device": "d0", "sync": "full", "format": "raw"}
    actions = [
        {"type": "block-dirty-bitmap-clear", "data": {"node": "src", "name": "b"}},
        {"type": "drive-backup", "data": {**good, "target": d.path("t0")}},
    ]
    d.qmp("transaction", actions=[*actions, {"type": "abort", "data": {}}])
    d.qmp("query-jobs")
    reply = d.qmp("transaction", actions=actions)
    if reply is not None:
        d.event('"status": "null"')
    more = {"sync": "incremental", "bitmap": "b", "format": "qcow2"}
    backup(d, "t1", **more)
    d.qmp("block-dirty-bitmap-remove", node="src", name="b")


@system_scenario
def snapshot_sync_of_a_drive(d: Session) -> None:
    source(d)
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", d.path("there.qcow2"), "1M")
    for more in (
        {"device": "d0", "snapshot-file": d.path("s1"), "format": "raw"},
        {"device": "d0", "snapshot-file": d.path("s2"), "format": "nonesuch"},
        {"device": "none", "snapshot-file": d.path("s3")},
        {"node-name": "src", "snapshot-file": d.path("s4")},
        {"device": "d0", "node-name": "src", "snapshot-file": d.path("s5")},
        {"snapshot-file": d.path("s6")},
        {"device": "d0", "snapshot-file": d.path("s7"), "snapshot-node-name": "src"},
        {"device": "d0", "snapshot-file": d.path("s8"), "snapshot-node-name": "top"},
        {"device": "d0", "snapshot-file": d.path("none"), "mode": "existing"},
        {"node-name": "src", "snapshot-file": d.path("s9"), "snapshot-node-name": "x"},
        {
            "device": "d0",
            "snapshot-file": d.path("there.qcow2"),
            "mode": "existing",
            "snapshot-node-name": "t",
        },
    ):
        d.qmp("blockdev-snapshot-sync", **more)

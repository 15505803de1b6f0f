"""Drives of qemu-system that a job works on, and how their names stand in messages."""

from tests.oracle.scenario import system_scenario
from tests.oracle.scenarios.devices import CONTROLLER, hmp, null
from tests.oracle.session import Session

MIB = 1 << 20
NULL = '"status": "null"'


def drives(d: Session) -> None:
    """Start with ``dr0``, a qcow2 image, and ``drt``, both without users."""
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "1M")
    d.tool("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 200k", "disk.qcow2")
    disk, target = d.path("disk.qcow2"), d.file("target.raw")
    d.start(
        *CONTROLLER,
        *("-drive", f"if=none,id=dr0,node-name=d0,format=qcow2,file={disk}"),
        *("-drive", f"if=none,id=drt,node-name=t0,format=raw,file={target}"),
    )


def cancelled(d: Session, job: str) -> None:
    d.qmp("block-job-cancel", device=job)
    d.event(f'{NULL}, "id": "{job}"')


@system_scenario
def drive_that_a_backup_reads(d: Session) -> None:
    drives(d)
    backup = {"job-id": "j", "device": "d0", "target": "drt", "sync": "none"}
    actions = [{"type": "blockdev-backup", "data": backup}]
    for name in ("dr0", "d0"):
        snapshot = {"device": name, "name": "s"}
        more = {"type": "blockdev-snapshot-internal-sync", "data": snapshot}
        d.qmp("transaction", actions=[*actions, more])
    d.qmp("transaction", actions=actions)
    for name in ("dr0", "d0", "drt", "t0"):
        d.qmp("blockdev-snapshot-internal-sync", device=name, name="s")
        d.qmp("blockdev-snapshot-delete-internal-sync", device=name, name="s")
        d.qmp("block_resize", device=name, size=2 * MIB)
        d.qmp("change-backing-file", device=name, image_node_name="d0", backing_file="x")
    for name in ("dr0", "drt"):
        d.qmp("blockdev-snapshot-sync", device=name, snapshot_file=d.path("x"))
        d.qmp("drive-backup", job_id="k", device=name, target=d.path("y"), sync="none")
        d.qmp("eject", device=name)
        d.qmp("eject", device=name, force=True)
    for name in ("d0", "t0"):
        d.qmp("blockdev-del", node_name=name)
    hmp(d, "info block", "info block-jobs")
    cancelled(d, "j")
    d.qmp("query-block")
    d.qmp("eject", device="drt")
    d.qmp("query-block")


@system_scenario
def media_that_a_backup_reads(d: Session) -> None:
    drives(d)
    null(d, "n0")
    for name in ("n1", "n2"):
        d.qmp("blockdev-add", driver="file", node_name=name, filename=d.file(name))
    d.qmp("device_add", driver="scsi-cd", id="cd", drive="n0")
    d.qmp("device_add", driver="scsi-cd", id="cd2", drive="drt")
    d.qmp("device_add", driver="scsi-hd", id="hd", drive="dr0")
    d.qmp("blockdev-backup", job_id="j", device="n0", target="n1", sync="none")
    d.qmp("blockdev-backup", job_id="k", device="drt", target="n2", sync="none")
    for name in ("cd", "cd2", "hd"):
        d.qmp("blockdev-remove-medium", id=name)
        d.qmp("blockdev-open-tray", id=name)
        d.qmp("blockdev-remove-medium", id=name)
        d.qmp("blockdev-change-medium", id=name, filename=d.path("target.raw"), format="raw")
        d.qmp("eject", id=name)
        d.qmp("eject", id=name, force=True)
        d.qmp("blockdev-close-tray", id=name)
    d.qmp("query-block")
    cancelled(d, "j")
    cancelled(d, "k")
    for name in ("cd", "cd2"):
        d.qmp("blockdev-open-tray", id=name)
        d.qmp("blockdev-remove-medium", id=name)
    d.qmp("query-block")


@system_scenario
def drives_named_in_refusals(d: Session) -> None:
    drives(d)
    null(d, "n0")
    for target in ("drt", "t0", "n0"):
        job = {"job_id": "j", "device": "dr0", "target": target, "sync": "full"}
        d.qmp("blockdev-backup", **job, compress=True)
        d.qmp("block-dirty-bitmap-add", node=target, name="p", persistent=True)
    d.qmp("blockdev-snapshot-sync", device="dr0", snapshot_file=d.path("overlay.qcow2"))
    for name in ("dr0", "d0"):
        d.qmp("block_resize", device=name, size=2 * MIB)


@system_scenario
def drive_backup_of_the_top_of_an_image_that_is_all_there_is(d: Session) -> None:
    drives(d)
    for sync in ("top", "full"):
        d.qmp("drive-backup", job_id="j", device="dr0", target=d.path(sync), sync=sync)
        d.event(NULL)
        d.tool("qemu-img", "map", "--output=json", sync)

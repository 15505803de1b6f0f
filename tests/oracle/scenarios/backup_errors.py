"""blockdev-backup when requests fail; blkdebug makes them."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.backup import nodes
from tests.oracle.scenarios.jobs import CONCLUDED, NULL, PAUSED, SIZE, backup, jobs, until_copied
from tests.oracle.session import Session


def failing(d: Session, name: str, verb: str, code: int, *, once: bool = True) -> None:
    """Add a disk or target whose requests of one kind fail."""
    path = d.file(f"{name}.raw", SIZE, (0x11, 0, SIZE))
    image = {"driver": "file", "filename": path}
    rule = {"event": "none", "iotype": verb, "errno": code, "once": once}
    given = {"driver": "blkdebug", "node-name": name, "image": image, "inject-error": [rule]}
    d.qmp("blockdev-add", **given)


#: One request at a time, so that what has been copied before an error is certain.
ONE = {"x_perf": {"max-workers": 1}}


@scenario
def backup_source_fails(d: Session) -> None:
    failing(d, "disk", "read", 5)
    d.qmp("blockdev-add", driver="file", node_name="target", filename=d.file("target.raw", SIZE))
    d.qmp("block-dirty-bitmap-add", node="disk", name="b")
    more = {"bitmap": "b", "bitmap_mode": "always", "auto_dismiss": False}
    backup(d, **ONE, **more)
    d.event(CONCLUDED)
    jobs(d)
    nodes(d)
    d.qmp("job-dismiss", id="j")
    backup(d, **ONE, **more)
    d.event(CONCLUDED)
    nodes(d)


@scenario
def backup_stops_at_an_error(d: Session) -> None:
    failing(d, "disk", "read", 5)
    d.qmp("blockdev-add", driver="file", node_name="target", filename=d.file("target.raw", SIZE))
    backup(d, **ONE, on_source_error="stop")
    d.event("BLOCK_JOB_ERROR")
    jobs(d)
    d.qmp("job-pause", id="j")
    d.qmp("block-job-cancel", device="j")
    d.qmp("block-job-resume", device="j")
    d.event(NULL)
    d.content("target.raw")


@scenario
def backup_stops_when_the_target_is_full(d: Session) -> None:
    path = d.file("disk.raw", SIZE, (0x12, 0, SIZE))
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=path)
    failing(d, "target", "write", 28)
    backup(d, **ONE, on_target_error="enospc")
    d.event("BLOCK_JOB_ERROR")
    jobs(d)
    d.qmp("job-resume", id="j")
    d.event(NULL)
    d.content("target.raw")


@scenario
def backup_ignores_an_error(d: Session) -> None:
    failing(d, "disk", "read", 5)
    d.qmp("blockdev-add", driver="file", node_name="target", filename=d.file("target.raw", SIZE))
    backup(d, **ONE, on_source_error="ignore")
    d.event(NULL)
    d.content("target.raw")


def failing_late(d: Session, **more: Any) -> None:
    """Start a job whose second write to the target waits for about a second and then fails."""
    path = d.file("disk.raw", SIZE, (0x11, 0, SIZE))
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=path)
    group = {"qom-type": "throttle-group", "id": "g", "limits": {"iops-write": 1}}
    d.qmp("object-add", **group)
    rule = {"event": "none", "iotype": "write", "errno": 5, "once": True, "sector": 2048}
    image = {"driver": "file", "filename": d.file("target.raw", SIZE)}
    file = {"driver": "blkdebug", "image": image, "inject-error": [rule]}
    d.qmp("blockdev-add", driver="throttle", node_name="target", throttle_group="g", file=file)
    backup(d, **ONE, auto_dismiss=False, **more)
    until_copied(d, "target.raw")


def without_limit(d: Session) -> None:
    """Let the job go on at full speed, and see how it ended."""
    d.qmp("qom-set", path="/objects/g", property="limits", value={})
    d.event(CONCLUDED)
    jobs(d)
    d.content("target.raw")


@scenario
def request_fails_when_the_backup_has_been_cancelled(d: Session) -> None:
    failing_late(d, on_target_error="stop")
    d.qmp("job-cancel", id="j")
    d.event(CONCLUDED)
    jobs(d)
    d.content("target.raw")


@scenario
def request_fails_when_the_backup_is_to_pause(d: Session) -> None:
    failing_late(d)
    d.qmp("job-pause", id="j")
    d.event(PAUSED)
    jobs(d)
    d.qmp("job-resume", id="j")
    without_limit(d)


@scenario
def request_fails_when_the_backup_is_to_pause_and_would_stop(d: Session) -> None:
    failing_late(d, on_target_error="stop")
    d.qmp("job-pause", id="j")
    d.event(PAUSED)
    jobs(d)
    d.qmp("job-resume", id="j")
    without_limit(d)


@scenario
def request_fails_while_the_backup_is_drained(d: Session) -> None:
    failing_late(d)
    add = {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "b"}}
    d.qmp("transaction", actions=[add])
    without_limit(d)


@scenario
def request_fails_when_the_daemon_ends(d: Session) -> None:
    failing_late(d)
    jobs(d)

"""block_resize of a disk that is being copied."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.session import Session

KIB = 1 << 10
MIB = 1 << 20


def backed_up(d: Session, size: int) -> None:
    """Add raw ``r`` above a disk with a hole in front, which a slow job backs up."""
    path = d.file("disk.raw", size, (1, 64 * KIB, size - 64 * KIB))
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    d.qmp("blockdev-add", driver="file", node_name="t", filename=d.file("target.raw", size))
    options = {"job-id": "j", "device": "f", "target": "t", "auto-dismiss": False}
    d.qmp("blockdev-backup", sync="full", speed=1, **options, **{"x-perf": {"max-workers": 1}})
    d.until_told("query-block-jobs", _has_copied(64 * KIB))


def _has_copied(length: int) -> Any:
    return lambda jobs: jobs[0]["offset"] == length


def finished(d: Session, *, nothing_is_left: bool = False) -> None:
    """Let the job go on to its end."""
    d.qmp("query-block-jobs")
    d.qmp("query-named-block-nodes", flat=True)
    if nothing_is_left:  # it looks when it has been drained
        d.qmp("transaction", actions=[])
    else:
        d.qmp("block-job-set-speed", device="j", speed=0)
    d.event('"concluded"')
    d.qmp("query-jobs")
    d.qmp("query-named-block-nodes", flat=True)
    d.content("target.raw")


@scenario
def disk_cut_while_it_is_backed_up(d: Session) -> None:
    backed_up(d, 8 * MIB)
    d.qmp("block_resize", node_name="r", size=4 * MIB)
    finished(d)


@scenario
def disk_cut_within_a_cluster_while_it_is_backed_up(d: Session) -> None:
    backed_up(d, 8 * MIB)
    d.qmp("block_resize", node_name="r", size=4 * MIB + 512)
    d.qmp("block-job-set-speed", device="j", speed=0)
    d.event('"concluded"')
    d.content("target.raw")


@scenario
def disk_cut_and_grown_while_it_is_backed_up(d: Session) -> None:
    backed_up(d, 8 * MIB)
    d.qmp("block_resize", node_name="r", size=4 * MIB)
    d.qmp("block_resize", node_name="r", size=16 * MIB)
    finished(d)


@scenario
def disk_cut_to_what_has_been_copied(d: Session) -> None:
    backed_up(d, 8 * MIB)
    d.qmp("block_resize", node_name="r", size=64 * KIB)
    finished(d, nothing_is_left=True)


@scenario
def disk_cut_to_less_than_has_been_copied(d: Session) -> None:
    backed_up(d, 8 * MIB)
    d.qmp("block_resize", node_name="r", size=512)
    finished(d, nothing_is_left=True)


@scenario
def disk_cut_to_nothing_while_it_is_backed_up(d: Session) -> None:
    backed_up(d, 8 * MIB)
    d.qmp("block_resize", node_name="r", size=0)
    finished(d, nothing_is_left=True)


@scenario
def disk_cut_while_only_guest_writes_are_copied(d: Session) -> None:
    path = d.file("disk.raw", MIB, (1, 0, MIB))
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    d.qmp("blockdev-add", driver="file", node_name="t", filename=d.file("target.raw", MIB))
    d.qmp("blockdev-backup", job_id="j", device="f", target="t", sync="none")
    d.qmp("block_resize", node_name="r", size=MIB // 2)
    d.qmp("query-block-jobs")
    d.qmp("query-named-block-nodes", flat=True)
    d.qmp("block-job-cancel", device="j")
    d.event("BLOCK_JOB_CANCELLED")

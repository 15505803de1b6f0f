"""Backup jobs whose source or target fails: what it reports or ignores; on qemu-system."""

from typing import Any

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session

MIB = 1 << 20


def nodes(d: Session, side: str, errno: int, *, once: bool = True) -> None:
    """Add nodes ``s`` and ``t``, of which one fails."""
    event = {"source": "read_aio", "target": "write_aio"}[side]
    for node_name, name in (("s", "source"), ("t", "target")):
        path = d.file(f"{name}.raw", MIB, (0x11, 0, MIB))
        file: dict[str, Any] = {"driver": "file", "filename": path}
        if name == side:
            rule = {"event": event, "errno": errno, "once": once, "immediately": True}
            file = {"driver": "blkdebug", "image": file, "inject-error": [rule]}
        d.qmp("blockdev-add", driver="raw", node_name=node_name, file=file)


def backup(d: Session, **more: Any) -> None:
    d.qmp("blockdev-backup", job_id="j", device="s", target="t", sync="full", **more)


def fails(d: Session, side: str, errno: int, policy: str) -> None:
    nodes(d, side, errno)
    backup(d, **{f"on_{side}_error": policy})
    d.event("BLOCK_JOB_ERROR")
    d.event('"null"')
    d.qmp("query-jobs")
    d.qmp("query-block-jobs")


@system_scenario
def job_meets_eio_on_source_and_reports(d: Session) -> None:
    fails(d, "source", 5, "report")


@system_scenario
def job_meets_eio_on_target_and_reports(d: Session) -> None:
    fails(d, "target", 5, "report")


@system_scenario
def job_meets_enospc_on_target_and_reports(d: Session) -> None:
    fails(d, "target", 28, "report")


@system_scenario
def job_meets_eio_on_source_and_ignores(d: Session) -> None:
    fails(d, "source", 5, "ignore")


def stops(d: Session, side: str, errno: int, policy: str) -> None:
    nodes(d, side, errno)
    backup(d, x_perf={"max-workers": 1}, **{f"on_{side}_error": policy})
    d.event('"paused"', after="BLOCK_JOB_ERROR")
    d.qmp("query-jobs")
    d.qmp("query-block-jobs")
    d.qmp("block-job-resume", device="j")
    d.event('"null"')
    d.qmp("query-jobs")


@system_scenario
def job_meets_eio_on_source_and_stops(d: Session) -> None:
    stops(d, "source", 5, "stop")


@system_scenario
def job_meets_eio_on_target_and_stops(d: Session) -> None:
    stops(d, "target", 5, "stop")


@system_scenario
def job_meets_enospc_on_target_and_stops(d: Session) -> None:
    stops(d, "target", 28, "enospc")


@system_scenario
def job_meets_eio_on_target_and_reports_as_it_is_no_enospc(d: Session) -> None:
    fails(d, "target", 5, "enospc")


@system_scenario
def job_meets_enospc_on_target_and_ignores(d: Session) -> None:
    fails(d, "target", 28, "ignore")


@system_scenario
def job_that_waits_for_its_speed_ends_with_the_error(d: Session) -> None:
    """It is seen before the next request: all others would take seconds."""
    d.qmp("blockdev-add", driver="null-co", node_name="s", size=8 * MIB, latency_ns=50_000_000)
    file = {"driver": "file", "filename": d.file("target.raw", 8 * MIB)}
    rule = {"event": "none", "iotype": "write", "errno": 5, "once": True}
    target = {"driver": "blkdebug", "image": file, "inject-error": [rule]}
    d.qmp("blockdev-add", driver="raw", node_name="t", file=target)
    backup(d, speed=2 * MIB)
    d.event('"null"')
    d.qmp("query-jobs")

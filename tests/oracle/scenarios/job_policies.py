"""What a backup job does when a request fails, by policy; and what can be done with it then."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.jobs import (
    CONCLUDED,
    NULL,
    PAUSED,
    SIZE,
    backup,
    every_verb,
    jobs,
    until_copied,
)
from tests.oracle.session import Session

EIO, ENOSPC = 5, 28
ERROR = "BLOCK_JOB_ERROR"
POLICIES = ("report", "ignore", "stop", "enospc")
#: The request that fails is the fifth of eight.
SECTOR = 4 << 11
#: One request at a time, so that what has been copied before an error is certain.
ONE = {"x_perf": {"max-workers": 1}}


def disks(d: Session, side: str, code: int, *, once: bool = True) -> None:
    """Add ``disk`` and ``target``, of which one fails in the middle."""
    for name, verb, byte in (("disk", "read", 0x11), ("target", "write", 0)):
        file = {"driver": "file", "filename": d.file(f"{name}.raw", SIZE, (byte, 0, SIZE))}
        if name != side:
            d.qmp("blockdev-add", node_name=name, **file)
            continue
        rule = {"event": "none", "iotype": verb, "errno": code, "once": once, "sector": SECTOR}
        d.qmp(
            "blockdev-add",
            driver="blkdebug",
            node_name=name,
            image=file,
            **{"inject-error": [rule]},
        )


def gone(d: Session) -> None:
    for name in ("disk", "target"):
        d.qmp("blockdev-del", node_name=name)


def by_policy(d: Session, side: str, code: int) -> None:
    """Meet an error once under each policy; a job that stops is resumed."""
    option = {"disk": "on_source_error", "target": "on_target_error"}[side]
    for policy in POLICIES:
        disks(d, side, code)
        backup(d, **ONE, **{option: policy})
        d.event(ERROR)
        if policy == "stop" or (policy == "enospc" and code == ENOSPC):
            d.event(PAUSED, after=ERROR)
            jobs(d)
            d.qmp("block-job-resume", device="j")
        d.event(NULL)
        jobs(d)
        d.content("target.raw")
        gone(d)


@scenario
def policies_when_the_source_has_eio(d: Session) -> None:
    by_policy(d, "disk", EIO)


@scenario
def policies_when_the_source_has_enospc(d: Session) -> None:
    by_policy(d, "disk", ENOSPC)


@scenario
def policies_when_the_target_has_eio(d: Session) -> None:
    by_policy(d, "target", EIO)


@scenario
def policies_when_the_target_is_full(d: Session) -> None:
    by_policy(d, "target", ENOSPC)


def stopped(d: Session, code: int = EIO, **more: Any) -> None:
    """Start a job that an error of the target stops in the middle, again and again."""
    disks(d, "target", code, once=False)
    backup(d, **ONE, on_target_error="stop", **more)
    d.event(PAUSED, after=ERROR)


@scenario
def verbs_of_a_job_stopped_by_an_error(d: Session) -> None:
    stopped(d)
    for verb in ("pause", "complete", "finalize", "dismiss"):
        d.qmp(f"job-{verb}", id="j")
    for verb in ("pause", "complete", "cancel"):
        d.qmp(f"block-job-{verb}", device="j")
    for verb in ("finalize", "dismiss"):
        d.qmp(f"block-job-{verb}", id="j")
    for speed in (-1, 1 << 20, 0):
        d.qmp("block-job-set-speed", device="j", speed=speed)
        jobs(d)
    d.qmp("block-job-cancel", device="j", force=True)
    d.event(NULL)
    jobs(d)


@scenario
def job_stopped_by_an_error_again_and_again(d: Session) -> None:
    stopped(d, ENOSPC)
    for verb, name in (("job-resume", "id"), ("block-job-resume", "device")):
        d.qmp(verb, **{name: "j"})
        d.event(PAUSED, after=ERROR)
        jobs(d)
    d.qmp("block-job-cancel", device="j", force=True)
    d.event(NULL)
    jobs(d)


@scenario
def job_stopped_by_an_error_is_cancelled_and_kept(d: Session) -> None:
    stopped(d, auto_dismiss=False, auto_finalize=False)
    d.qmp("block-job-cancel", device="j", force=True)
    d.event(CONCLUDED)
    jobs(d)
    d.qmp("block-job-set-speed", device="j", speed=5)
    every_verb(d)
    jobs(d)


@scenario
def job_failed_is_kept_until_dismissed(d: Session) -> None:
    disks(d, "target", EIO)
    backup(d, **ONE, auto_dismiss=False, auto_finalize=False)
    d.event(CONCLUDED)
    jobs(d)
    for verb in ("pause", "resume", "complete", "finalize", "cancel"):
        d.qmp(f"job-{verb}", id="j")
    for verb in ("pause", "resume", "complete", "cancel"):
        d.qmp(f"block-job-{verb}", device="j")
    d.qmp("block-job-set-speed", device="j", speed=5)
    d.qmp("block-job-dismiss", id="j")
    jobs(d)


@scenario
def job_stopped_when_the_daemon_ends(d: Session) -> None:
    stopped(d)
    jobs(d)


@scenario
def job_that_failed_is_not_there_when_it_has_told_so(d: Session) -> None:
    for _ in range(8):
        disks(d, "target", EIO)
        backup(d, **ONE)
        d.event("BLOCK_JOB_COMPLETED")
        jobs(d)
        gone(d)


@scenario
def job_paused_by_the_user_and_job_paused_by_an_error(d: Session) -> None:
    disks(d, "target", EIO)
    backup(d, **ONE, on_target_error="stop", speed=1)
    until_copied(d, "target.raw")
    d.qmp("job-pause", id="j")
    d.event(PAUSED)
    jobs(d)
    d.qmp("block-job-set-speed", device="j", speed=0)
    jobs(d)
    d.qmp("job-resume", id="j")
    d.event(PAUSED, after=ERROR)
    jobs(d)
    d.qmp("job-pause", id="j")
    d.qmp("block-job-resume", device="j")
    d.event(NULL)
    d.qmp("block-job-resume", device="j")
    d.content("target.raw")


@scenario
def job_resumed_that_is_not_paused(d: Session) -> None:
    disks(d, "target", EIO)
    backup(d, sync="none")
    d.qmp("job-resume", id="j")
    d.qmp("block-job-resume", device="j")
    d.qmp("block-job-set-speed", device="j", speed=5)
    jobs(d)
    d.qmp("block-job-cancel", device="j")
    d.event(NULL)


@scenario
def verbs_of_a_job_that_is_pending(d: Session) -> None:
    disks(d, "", 0)
    backup(d, auto_finalize=False, auto_dismiss=False)
    d.event("BLOCK_JOB_PENDING")
    jobs(d)
    for verb in ("pause", "resume", "complete", "dismiss"):
        d.qmp(f"job-{verb}", id="j")
    for verb in ("pause", "resume", "complete"):
        d.qmp(f"block-job-{verb}", device="j")
    d.qmp("block-job-dismiss", id="j")
    d.qmp("block-job-set-speed", device="j", speed=5)
    d.qmp("job-finalize", id="j")
    jobs(d)
    d.qmp("job-finalize", id="j")
    d.qmp("job-cancel", id="j")
    d.qmp("block-job-cancel", device="j", force=True)
    d.qmp("block-job-set-speed", device="j", speed=5)
    d.qmp("job-dismiss", id="j")
    jobs(d)


@scenario
def job_stopped_by_an_error_begins_anew_before_it_sees_that_it_is_cancelled(d: Session) -> None:
    always = {"bitmap": "b", "bitmap_mode": "always"}
    for side in ("disk", "target"):
        for once, speed in ((True, 0), (False, 0), (True, 1)):
            disks(d, side, EIO, once=once)
            d.qmp("block-dirty-bitmap-add", node="disk", name="b")
            backup(d, **ONE, **always, on_source_error="stop", on_target_error="stop")
            d.event(PAUSED, after=ERROR)
            d.qmp("block-job-set-speed", device="j", speed=speed)
            d.qmp("block-job-cancel", device="j", force=True)
            d.event(NULL)
            d.qmp("x-debug-block-dirty-bitmap-sha256", node="disk", name="b")
            d.content("target.raw")
            gone(d)

"""Jobs: their life, their verbs, and what creates images."""

import json
import os
import time
from typing import Any

from tests.oracle.monitor import PATIENCE_S, StoppedError
from tests.oracle.scenario import scenario
from tests.oracle.session import Session

#: Eight chunks, so that a job at the lowest speed has copied one of them.
SIZE = 8 << 20
NULL = '"status": "null"'
CONCLUDED = '"status": "concluded"'
PENDING = '"status": "pending"'
PAUSED = '"status": "paused"'


def disks(d: Session) -> None:
    """Add a full disk, two targets of its size, and one that is smaller."""
    files = {
        "disk": d.file("disk.raw", SIZE, (0x11, 0, SIZE)),
        "target": d.file("target.raw", SIZE),
        "second": d.file("second.raw", SIZE),
        "small": d.file("small.raw", SIZE // 2),
    }
    for name, path in files.items():
        d.qmp("blockdev-add", driver="file", node_name=name, filename=path)


def backup(d: Session, **more: Any) -> None:
    """Back up ``disk`` to ``target`` as job ``j``."""
    given = {"job_id": "j", "device": "disk", "target": "target", "sync": "full"} | more
    d.qmp("blockdev-backup", **given)


def stopped(d: Session, **more: Any) -> None:
    """The same, paused after its first chunk."""
    backup(d, speed=1, **more)
    until_copied(d, "target.raw")
    d.qmp("job-pause", id="j")
    d.event(PAUSED)


def until_copied(d: Session, name: str, byte: int = 0x11) -> None:
    """Wait until the first chunk has arrived in a target and is counted: the job sleeps.

    One that has not counted it yet pauses later, after the reply to job-pause.
    """
    deadline = time.monotonic() + PATIENCE_S
    with (d.dir / name).open("rb") as file:
        while os.pread(file.fileno(), 1, (1 << 20) - 1) != bytes([byte]):
            if time.monotonic() > deadline:
                raise StoppedError(f"no answer: nothing is copied to {name}")
    d.until_told("query-jobs", lambda jobs: all(map(_has_counted, jobs)))


def _has_counted(job: dict[str, Any]) -> bool:
    return bool(job["current-progress"]) or not job["total-progress"]


def jobs(d: Session) -> None:
    """Show all jobs."""
    d.qmp("query-jobs")
    d.qmp("query-block-jobs")


def every_verb(d: Session) -> None:
    """Try every verb that is not allowed, and see that nothing changes."""
    for verb in ("pause", "resume", "complete", "finalize", "dismiss", "cancel"):
        d.qmp(f"job-{verb}", id="j")
    for verb in ("pause", "resume", "complete", "cancel"):
        d.qmp(f"block-job-{verb}", device="j")
    for verb in ("finalize", "dismiss"):
        d.qmp(f"block-job-{verb}", id="j")
    d.qmp("block-job-set-speed", device="j", speed=5)


@scenario
def job_runs_to_its_end(d: Session) -> None:
    disks(d)
    backup(d)
    d.event(NULL)
    jobs(d)
    d.content("target.raw")
    every_verb(d)


@scenario
def job_of_a_paused_user(d: Session) -> None:
    disks(d)
    stopped(d)
    jobs(d)
    d.qmp("job-pause", id="j")
    d.qmp("block-job-pause", device="j")
    for verb in ("complete", "finalize", "dismiss"):
        d.qmp(f"job-{verb}", id="j")
    d.qmp("block-job-complete", device="j")
    d.qmp("block-job-set-speed", device="j", speed=-1)
    d.qmp("block-job-set-speed", device="j", speed=1 << 20)
    d.qmp("block-job-cancel", device="j")
    jobs(d)
    d.qmp("block-job-set-speed", device="j", speed=0)
    d.qmp("job-resume", id="j")
    d.event(NULL)
    d.content("target.raw")


@scenario
def job_cancelled_while_paused(d: Session) -> None:
    disks(d)
    stopped(d)
    d.qmp("block-job-cancel", device="j", force=True)
    d.event(NULL)
    jobs(d)


@scenario
def job_cancelled_while_running(d: Session) -> None:
    disks(d)
    backup(d, sync="none")
    d.qmp("block-job-cancel", device="j")
    d.event(NULL)
    jobs(d)


@scenario
def job_cancelled_is_kept_until_dismissed(d: Session) -> None:
    disks(d)
    backup(d, sync="none", auto_dismiss=False)
    d.qmp("block-job-cancel", device="j")
    d.event(CONCLUDED)
    jobs(d)
    every_verb(d)
    jobs(d)


@scenario
def job_pending_is_finalized(d: Session) -> None:
    disks(d)
    backup(d, auto_finalize=False)
    d.event("BLOCK_JOB_PENDING")
    jobs(d)
    for verb in ("pause", "resume", "complete", "dismiss"):
        d.qmp(f"job-{verb}", id="j")
    d.qmp("block-job-set-speed", device="j", speed=5)
    d.qmp("job-finalize", id="j")
    jobs(d)


@scenario
def job_pending_is_finalized_as_a_block_job(d: Session) -> None:
    disks(d)
    backup(d, auto_finalize=False, auto_dismiss=False)
    d.event("BLOCK_JOB_PENDING")
    d.qmp("block-job-finalize", id="j")
    jobs(d)
    d.qmp("block-job-dismiss", id="j")
    jobs(d)


@scenario
def job_pending_is_cancelled(d: Session) -> None:
    disks(d)
    backup(d, auto_finalize=False, auto_dismiss=False)
    d.event("BLOCK_JOB_PENDING")
    d.qmp("job-cancel", id="j")
    jobs(d)
    d.qmp("job-dismiss", id="j")


@scenario
def job_ids(d: Session) -> None:
    disks(d)
    for job_id in ("", "1", "a b", "-", "a/b", "x" * 300):
        backup(d, job_id=job_id, sync="none")
    d.qmp("blockdev-backup", device="disk", target="target", sync="none")
    jobs(d)
    backup(d, target="second", job_id="x" * 300, sync="none")
    backup(d, target="second", job_id="a.b-c_d", sync="none")
    d.qmp("block-job-cancel", device="x" * 300)
    d.event(NULL)


@scenario
def job_unknown(d: Session) -> None:
    every_verb(d)
    d.qmp("job-pause")
    d.qmp("job-pause", id=1)
    d.qmp("block-job-cancel", device="j", force=1)
    d.qmp("block-job-set-speed", device="j")
    d.qmp("block-job-set-speed", device="j", speed="1")
    jobs(d)


@scenario
def jobs_are_cancelled_when_the_daemon_ends(d: Session) -> None:
    disks(d)
    backup(d, auto_finalize=False)
    d.event("BLOCK_JOB_PENDING")
    jobs(d)


@scenario
def jobs_pause_in_the_order_of_their_nodes(d: Session) -> None:
    """When a transaction drains everything, and when the daemon ends."""

    def add(name: str) -> None:
        d.qmp("blockdev-add", driver="file", node_name=name, filename=d.file(name, 1 << 20))

    for name in ("a", "b", "c", "tc"):
        add(name)
    for job, disk in (("b", "b"), ("a", "a"), ("c", "c"), ("d", "b")):
        if job != "c":
            add(f"t{job}")
        d.qmp("blockdev-backup", job_id=job, device=disk, target=f"t{job}", sync="none")
        d.qmp("transaction", actions=[])


@scenario
def jobs_are_cancelled_in_their_sleep_when_the_daemon_ends(d: Session) -> None:
    disks(d)
    backup(d, sync="none")
    jobs(d)


@scenario
def block_job_verbs_know_no_other_jobs(d: Session) -> None:
    create(d, job="j", driver="file", filename=d.path("new"), size=512)
    every_verb(d)
    d.qmp("query-jobs")


# -- blockdev-create ----------------------------------------------------------------------


def create(d: Session, job: str = "c", **options: Any) -> None:
    """Create an image and wait for the job, which is left to be dismissed."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    if d.qmp("blockdev-create", job_id=job, options=given) is not None:
        d.event(CONCLUDED)


@scenario
def create_file(d: Session) -> None:
    create(d, driver="file", filename=d.path("new.raw"), size=1 << 20)
    jobs(d)
    d.qmp("blockdev-create", job_id="c", options={"driver": "null-co"})
    create(d, driver="file", filename=d.path("new.raw"), size=1 << 20)
    d.qmp("job-dismiss", id="c")
    d.content("new.raw")
    for size in (0, 1, 511, 4097, 100_000):
        create(d, driver="file", filename=d.path(f"{size}.raw"), size=size)
        d.qmp("job-dismiss", id="c")
        d.content(f"{size}.raw")
    d.qmp("blockdev-add", driver="file", node_name="n", filename=d.path("4097.raw"))
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def create_file_over_another(d: Session) -> None:
    d.file("old.raw", 4096, (0x55, 0, 4096))
    create(d, driver="file", filename=d.path("old.raw"), size=1024)
    jobs(d)
    d.content("old.raw")


@scenario
def create_file_preallocated(d: Session) -> None:
    for mode in ("off", "falloc", "full", "metadata", "zzz"):
        create(d, driver="file", filename=d.path(mode), size=65536, preallocation=mode)
        d.qmp("query-jobs")
        d.qmp("job-dismiss", id="c")
        d.qmp("blockdev-add", driver="file", node_name=mode, filename=d.path(mode))
    d.qmp("query-named-block-nodes", flat=True)
    for mode in ("off", "falloc", "full", "metadata"):
        create(d, driver="file", filename=d.path("empty"), size=0, preallocation=mode)
        d.qmp("query-jobs")
        d.qmp("job-dismiss", id="c")
        d.content("empty")
    create(d, driver="file", filename=d.path("cow"), size=512, nocow=True)
    jobs(d)


@scenario
def create_file_that_fails(d: Session) -> None:
    for filename in ("/nonexistent/x", ".", "", "/dev/full"):
        create(d, driver="file", filename=filename, size=512)
        d.qmp("query-jobs")
        d.qmp("job-dismiss", id="c")
    for size in (-5, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        create(d, driver="file", filename=d.path("big"), size=size)
        d.qmp("query-jobs")
        d.qmp("job-dismiss", id="c")
    create(d, driver="file", filename=d.path("big"), size=1 << 62, preallocation="falloc")
    d.qmp("query-jobs")
    d.qmp("job-dismiss", id="c")
    create(d, driver="file", filename=d.path("hint"), size=512, extent_size_hint=-1)
    d.qmp("query-jobs")


@scenario
def create_file_in_use(d: Session) -> None:
    disks(d)
    d.nbd_server()
    d.qmp("blockdev-add", driver="raw", node_name="over", file="disk")
    d.qmp("block-export-add", type="nbd", id="e", node_name="over", writable=True)
    create(d, driver="file", filename=d.path("disk.raw"), size=512)
    d.qmp("query-jobs")
    d.qmp("job-dismiss", id="c")
    d.content("disk.raw")


@scenario
def create_what_cannot_be_created(d: Session) -> None:
    for driver in ("null-co", "raw", "copy-before-write", "snapshot-access", "zzz"):
        create(d, driver=driver)
    create(d, driver="host_device", size=512)
    create(d, driver="file")
    create(d, driver="file", filename="x")
    create(d, driver="file", filename="x", size=512, zzz=1)
    create(d, driver="file", filename=1, size=512)
    create(d, job="1", driver="file", filename="x", size=512)
    d.qmp("blockdev-create", job_id="c", options={})
    d.qmp("blockdev-create", job_id="c")
    d.qmp("blockdev-create", options={"driver": "file", "filename": "x", "size": 512})
    d.raw(json.dumps({"execute": "blockdev-create", "arguments": {"job-id": 1}}))
    d.qmp("query-jobs")


@scenario
def job_while_its_nodes_get_other_users(d: Session) -> None:
    disks(d)
    backup(d, sync="none")
    d.qmp("blockdev-add", driver="raw", node_name="over", file="target")
    d.qmp("blockdev-del", node_name="over")
    jobs(d)
    d.qmp("block-job-cancel", device="j")
    d.event(NULL)


@scenario
def job_copies_whole_clusters_at_once(d: Session) -> None:
    disks(d)
    for chunk in (65536, 65537, 100000, 196608, 1 << 20, (1 << 20) + 1):
        backup(d, speed=1, x_perf={"max-chunk": chunk, "max-workers": 1})
        d.until_told("query-jobs", lambda jobs: all(map(_has_counted, jobs)))
        jobs(d)
        d.qmp("block-job-cancel", device="j", force=True)
        d.event(NULL)

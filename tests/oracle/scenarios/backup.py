"""blockdev-backup: what is copied, what its bitmaps become, what is refused."""

from typing import Any

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.jobs import (
    NULL,
    SIZE,
    backup,
    disks,
    jobs,
    stopped,
    until_copied,
)
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session

#: Writes of a guest, by qemu-io.
FIRST = ("write -P 0xaa 0 64k", "write -P 0xab 2M 64k", "write -P 0xac 5000k 200k")
SECOND = ("write -P 0xba 1M 64k", "write -P 0xbb 2080k 64k", "write -z 6M 64k", "discard 7M 64k")


def nodes(d: Session) -> None:
    """Show all nodes and their bitmaps."""
    d.qmp("query-named-block-nodes", flat=True)


def guest(d: Session) -> None:
    """Export ``disk`` as ``guest``, writable."""
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="g", node_name="disk", name="guest", writable=True)


def tracked(d: Session) -> None:
    """Disks, a guest, and a bitmap ``b`` that has recorded its first writes."""
    disks(d)
    guest(d)
    d.qmp("block-dirty-bitmap-add", node="disk", name="b")
    d.io("guest", *FIRST)


def digest(d: Session) -> None:
    d.qmp("x-debug-block-dirty-bitmap-sha256", node="disk", name="b")


def held(d: Session, **more: Any) -> None:
    """Back up, up to the state pending; then the guest writes again."""
    backup(d, auto_finalize=False, **more)
    d.event("BLOCK_JOB_PENDING")
    nodes(d)
    digest(d)
    d.io("guest", *SECOND)
    nodes(d)
    digest(d)


def finished(d: Session) -> None:
    """Finalise; show what became of the bitmap and the target."""
    d.qmp("job-finalize", id="j")
    nodes(d)
    digest(d)
    d.content("target.raw")


def cancelled(d: Session) -> None:
    """Cancel the pending job; show what became of the bitmap."""
    d.qmp("job-cancel", id="j")
    nodes(d)
    digest(d)


@scenario
def backup_filter_is_under_the_guest(d: Session) -> None:
    disks(d)
    guest(d)
    backup(d, sync="none", filter_node_name="top")
    nodes(d)
    d.io("guest", *FIRST, "read -P 0xaa 0 64k")
    jobs(d)
    nodes(d)
    d.content("target.raw")
    d.qmp("block-job-cancel", device="j")
    d.event(NULL)
    nodes(d)
    d.io("guest", *SECOND)
    d.content("target.raw")
    d.content("disk.raw")


@scenario
def backup_full_under_writes(d: Session) -> None:
    disks(d)
    guest(d)
    stopped(d)
    d.io("guest", *FIRST, *SECOND)
    jobs(d)
    nodes(d)
    d.qmp("block-job-set-speed", device="j", speed=0)
    d.qmp("job-resume", id="j")
    d.event(NULL)
    d.content("target.raw")
    d.content("disk.raw")


@scenario
def backup_of_zeroes_and_holes(d: Session) -> None:
    fills = ((0x11, 100_000, 100_000), (0x12, 3 << 20, 65536))
    d.qmp(
        "blockdev-add", driver="file", node_name="disk", filename=d.file("disk.raw", SIZE, *fills)
    )
    full = d.file("target.raw", SIZE, (0xEE, 0, SIZE))
    d.qmp("blockdev-add", driver="file", node_name="target", filename=full)
    backup(d)
    d.event(NULL)
    d.content("target.raw")


@scenario
def backup_of_odd_sizes(d: Session) -> None:
    for size in (512, 65024, 66048, (1 << 20) + 512, 100_001, 1):
        name = f"n{size}"
        disk, target = d.file(name, size, (0x77, 0, size)), d.file(f"{name}.t", size)
        d.qmp("blockdev-add", driver="file", node_name="disk", filename=disk)
        d.qmp("blockdev-add", driver="file", node_name="target", filename=target)
        backup(d, auto_finalize=False)
        d.event("BLOCK_JOB_PENDING")
        jobs(d)
        d.qmp("job-finalize", id="j")
        d.content(f"{name}.t")
        d.qmp("blockdev-del", node_name="disk")
        d.qmp("blockdev-del", node_name="target")


@scenario
def backup_of_an_empty_disk(d: Session) -> None:
    for name in ("disk", "target"):
        d.qmp("blockdev-add", driver="file", node_name=name, filename=d.file(name, 0))
    backup(d, auto_finalize=False)
    d.event("BLOCK_JOB_PENDING")
    jobs(d)
    d.qmp("job-finalize", id="j")


@scenario
def backup_by_bitmap_never(d: Session) -> None:
    tracked(d)
    held(d, sync="bitmap", bitmap="b", bitmap_mode="never")
    finished(d)


@scenario
def backup_by_bitmap_on_success(d: Session) -> None:
    tracked(d)
    held(d, sync="bitmap", bitmap="b", bitmap_mode="on-success")
    finished(d)


@scenario
def backup_by_bitmap_always(d: Session) -> None:
    tracked(d)
    held(d, sync="bitmap", bitmap="b", bitmap_mode="always")
    finished(d)


@scenario
def backup_incremental(d: Session) -> None:
    tracked(d)
    held(d, sync="incremental", bitmap="b")
    finished(d)


@scenario
def backup_full_with_bitmap_always(d: Session) -> None:
    tracked(d)
    held(d, sync="full", bitmap="b", bitmap_mode="always")
    finished(d)


@scenario
def backup_top_with_bitmap_on_success(d: Session) -> None:
    tracked(d)
    held(d, sync="top", bitmap="b", bitmap_mode="on-success")
    finished(d)


@scenario
def backup_by_bitmap_never_cancelled(d: Session) -> None:
    tracked(d)
    held(d, sync="bitmap", bitmap="b", bitmap_mode="never")
    cancelled(d)


@scenario
def backup_by_bitmap_on_success_cancelled(d: Session) -> None:
    tracked(d)
    held(d, sync="bitmap", bitmap="b", bitmap_mode="on-success")
    cancelled(d)


@scenario
def backup_by_bitmap_always_cancelled(d: Session) -> None:
    tracked(d)
    held(d, sync="bitmap", bitmap="b", bitmap_mode="always")
    cancelled(d)


@scenario
def backup_full_with_bitmap_always_cancelled_halfway(d: Session) -> None:
    tracked(d)
    backup(d, sync="full", bitmap="b", bitmap_mode="always", speed=1)
    until_copied(d, "target.raw")
    d.qmp("job-pause", id="j")
    d.io("guest", "write -P 0xcc 7M 64k")
    nodes(d)
    d.qmp("block-job-cancel", device="j", force=True)
    d.event(NULL)
    nodes(d)
    digest(d)


@scenario
def backup_by_disabled_bitmap(d: Session) -> None:
    tracked(d)
    d.qmp("block-dirty-bitmap-disable", node="disk", name="b")
    held(d, sync="bitmap", bitmap="b", bitmap_mode="on-success")
    finished(d)


@scenario
def backup_by_bitmap_of_other_granularity(d: Session) -> None:
    disks(d)
    guest(d)
    for granularity in (512, 1 << 20):
        name = f"g{granularity}"
        d.qmp("block-dirty-bitmap-add", node="disk", name=name, granularity=granularity)
    d.io("guest", "write -P 0xaa 100k 1k", "write -P 0xab 3M 1k")
    for granularity in (512, 1 << 20):
        backup(
            d,
            sync="bitmap",
            bitmap=f"g{granularity}",
            bitmap_mode="never",
            auto_finalize=False,
        )
        d.event("BLOCK_JOB_PENDING")
        jobs(d)
        d.qmp("job-finalize", id="j")
        d.content("target.raw")


@scenario
def backup_bitmap_is_busy_meanwhile(d: Session) -> None:
    tracked(d)
    backup(d, sync="bitmap", bitmap="b", bitmap_mode="always", auto_finalize=False)
    d.event("BLOCK_JOB_PENDING")
    for verb in ("clear", "enable", "disable", "remove"):
        d.qmp(f"block-dirty-bitmap-{verb}", node="disk", name="b")
    d.qmp("block-dirty-bitmap-add", node="disk", name="b")
    d.qmp("block-dirty-bitmap-add", node="disk", name="c")
    d.qmp("block-dirty-bitmap-merge", node="disk", target="c", bitmaps=["b"])
    d.qmp("block-dirty-bitmap-merge", node="disk", target="b", bitmaps=["c"])
    d.qmp("block-export-add", type="nbd", id="x", node_name="disk", name="x", bitmaps=["b"])
    backup(d, job_id="k", target="second", sync="bitmap", bitmap="b", bitmap_mode="always")
    nodes(d)
    d.qmp("job-finalize", id="j")


@scenario
def backup_argument_checks(d: Session) -> None:
    disks(d)
    d.qmp("block-dirty-bitmap-add", node="disk", name="b")
    for sync in ("incremental", "bitmap", "full", "top", "none", "zzz"):
        for name in (None, "b404", "b"):
            for mode in ("on-success", "always", "never", None):
                if name == "b" and mode in {"on-success", "always"} and sync != "none":
                    continue  # would start, or is checked elsewhere
                more = {"bitmap": name} if name else {}
                more |= {"bitmap_mode": mode} if mode else {}
                if (sync == "bitmap" and name == "b" and mode == "never") or (
                    not more and sync in {"full", "top", "none"}
                ):
                    continue
                if sync == "incremental" and name == "b" and mode is None:
                    continue
                backup(d, sync=sync, **more)
    backup(d, sync="incremental", bitmap="b", bitmap_mode="always")
    backup(d, sync="full", bitmap="b", bitmap_mode="zzz")
    nodes(d)


@scenario
def backup_refusals(d: Session) -> None:
    disks(d)
    d.qmp("blockdev-add", **null("ro", SIZE, read_only=True))
    backup(d, device="none")
    backup(d, target="none")
    backup(d, target="disk")
    backup(d, target="small")
    backup(d, device="small")
    backup(d, target="ro")
    backup(d, speed=-1)
    backup(d, speed="1")
    backup(d, compress=True)
    backup(d, filter_node_name="disk")
    backup(d, filter_node_name="1")
    backup(d, filter_node_name="x" * 32)
    for perf in (
        {"max-workers": 0},
        {"max-workers": -1},
        {"max-workers": 1 << 31},
        {"max-chunk": -1},
        {"max-chunk": 1000},
        {"max-chunk": 65535},
        {"x": 1},
        {"use-copy-range": 1},
    ):
        backup(d, x_perf=perf)
    backup(d, on_source_error="zzz")
    backup(d, zzz=1)
    d.qmp("blockdev-backup", job_id="j", device="disk", target="target")
    d.qmp("blockdev-backup", job_id="j", sync="full", target="target")
    d.qmp("blockdev-backup", job_id="j", sync="full", device="disk")
    nodes(d)
    jobs(d)


@scenario
def backup_to_busy_nodes(d: Session) -> None:
    disks(d)
    backup(d, sync="none", filter_node_name="top")
    backup(d, job_id="k")
    backup(d, job_id="k", device="target", target="second")
    backup(d, job_id="k", device="second", target="target")
    backup(d, job_id="k", device="top", target="second")
    backup(d, job_id="j", target="second")
    for name in ("target", "top", "disk"):
        d.qmp("blockdev-del", node_name=name)
    nodes(d)


@scenario
def backup_of_a_read_only_disk(d: Session) -> None:
    path = d.file("disk.raw", SIZE, (0x33, 0, SIZE))
    d.qmp("blockdev-add", driver="file", node_name="disk", filename=path, read_only=True)
    d.qmp("blockdev-add", driver="file", node_name="target", filename=d.file("target.raw", SIZE))
    backup(d)
    d.event(NULL)
    d.content("target.raw")


@scenario
def backup_with_other_settings(d: Session) -> None:
    disks(d)
    for perf in (
        {"max-workers": 1},
        {"max-chunk": 65536},
        {"max-chunk": 0, "max-workers": 3},
        {"use-copy-range": True},
        {"use-copy-range": False, "max-chunk": 1 << 40},
    ):
        backup(d, x_perf=perf, on_source_error="stop", on_target_error="enospc")
        d.event(NULL)
    backup(d, on_source_error="auto", on_target_error="ignore", compress=False)
    d.event(NULL)
    d.content("target.raw")


@scenario
def backup_of_a_fleecing_snapshot(d: Session) -> None:
    disks(d)
    cbw = {"driver": "copy-before-write", "node-name": "cbw", "file": "disk", "target": "second"}
    d.qmp("blockdev-add", **cbw)
    d.qmp("blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="g", node_name="cbw", name="guest", writable=True)
    stopped(d, device="access")
    # Zeroes written by the guest are left out: QEMU 7.2 then copies zeroes, not what was there.
    d.io("guest", *FIRST, SECOND[0], SECOND[1])
    nodes(d)
    d.qmp("block-job-set-speed", device="j", speed=0)
    d.qmp("job-resume", id="j")
    d.event(NULL)
    d.content("target.raw")

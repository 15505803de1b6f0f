"""blockdev-backup; orders and texts are those of QEMU 7.2."""

import errno

import pytest

from qmpfleece.block.driver import Extent, Status
from tests.control.commands.conftest import ENDED, SIZE, STARTED
from tests.tools.fleecing import CLUSTER, dirty_clusters, pattern
from tests.tools.until import settle

ALL = {"device": "disk", "target": "target", "job_id": "j"}
CANCELLED = ["j aborting", "j BLOCK_JOB_CANCELLED", "j concluded", "j null"]


def clusters_of(desk, name):
    """Return which clusters of a disk hold the data that the source had at first."""
    data, first = desk.disks[name].data, pattern(SIZE)
    return [
        n
        for n in range(SIZE // CLUSTER)
        if data[n * CLUSTER : (n + 1) * CLUSTER] == first[n * CLUSTER : (n + 1) * CLUSTER]
    ]


async def test_full_backup_makes_the_target_equal(desk):
    assert await desk.say("blockdev-backup", sync="full", **ALL) == {}
    await desk.until("j null")
    assert desk.heard == STARTED + ENDED
    assert desk.disks["target"].data == desk.disks["disk"].data == pattern(SIZE)
    assert desk.events[-3] == {
        "event": "BLOCK_JOB_COMPLETED",
        "type": "backup",
        "device": "j",
        "len": SIZE,
        "offset": SIZE,
        "speed": 0,
    }


async def test_target_below_its_source_is_refused_and_no_job_stays(desk):
    await desk.say("blockdev-add", driver="raw", node_name="above", file="target")
    before = desk.graph.nodes()
    given = {"job_id": "j", "device": "above", "target": "target"}
    assert (await desk.say("blockdev-backup", sync="full", **given)).startswith(
        "Permission conflict on node 'target': permissions 'write' are both required by"
    )
    assert await desk.say("query-jobs") == []
    assert desk.graph.nodes() == before
    assert not any(node.blockers for node in before)
    await desk.say("blockdev-del", node_name="above")
    assert await desk.say("blockdev-backup", sync="full", **ALL) == {}
    await desk.until("j null")


async def test_guest_uses_the_filter_while_the_job_lives(desk):
    guest = desk.guest("disk")
    await desk.say("blockdev-backup", sync="none", filter_node_name="top", **ALL)
    assert guest.node.name == "top"
    await desk.say("job-cancel", id="j")
    await desk.until("j null")
    assert guest.node.name == "disk"
    assert desk.graph.get("top") is None


async def test_guest_write_is_copied_first_and_counts_as_progress(desk):
    guest = desk.guest("disk")
    await desk.say("blockdev-backup", sync="none", **ALL)
    await guest.pwrite(2 * CLUSTER, memoryview(b"g" * CLUSTER))
    (info,) = await desk.say("query-block-jobs")
    assert (info["offset"], info["len"]) == (CLUSTER, SIZE)
    assert clusters_of(desk, "target") == [2]
    assert clusters_of(desk, "disk") == [0, 1, 3, 4, 5, 6, 7]


async def test_snapshot_is_that_of_the_start_whatever_the_guest_writes_meanwhile(desk):
    guest = desk.guest("disk")
    desk.disks["disk"].stop("read")
    await desk.say("blockdev-backup", sync="full", **ALL)
    await settle()
    assert desk.disks["disk"].waiting
    tasks = [
        desk.later(guest.pwrite(n * CLUSTER + 100, memoryview(b"g" * CLUSTER))) for n in (0, 3, 6)
    ]
    await settle()
    desk.disks["disk"].release()
    for task in tasks:
        await task
    await desk.until("j null")
    assert desk.disks["target"].data == pattern(SIZE)
    assert desk.disks["disk"].data != pattern(SIZE)


async def test_bitmap_decides_what_is_copied(desk, add_bitmap):
    bitmap = add_bitmap(1, 4)
    await desk.say("blockdev-backup", sync="bitmap", bitmap="b", bitmap_mode="never", **ALL)
    await desk.until("j null")
    assert clusters_of(desk, "target") == [1, 4]
    assert dirty_clusters(bitmap) == [1, 4]
    assert desk.events[-3]["len"] == 2 * CLUSTER


@pytest.mark.parametrize(
    ("sync", "mode", "fails", "left"),
    [
        ("bitmap", "on-success", False, [7]),
        ("bitmap", "never", False, [1, 4, 7]),
        ("bitmap", "always", False, [7]),
        ("incremental", None, False, [7]),
        ("full", "on-success", False, [7]),
        ("full", "always", False, [7]),
        ("top", "always", False, [7]),
        ("bitmap", "on-success", True, [1, 4, 7]),
        ("bitmap", "never", True, [1, 4, 7]),
        ("bitmap", "always", True, [4, 7]),
        ("incremental", "on-success", True, [1, 4, 7]),
        ("full", "on-success", True, [1, 4, 7]),
        ("full", "always", True, [2, 3, 4, 5, 6, 7]),
    ],
)
async def test_bitmap_is_brought_up_to_date_as_its_mode_says(
    desk, add_bitmap, sync, mode, fails, left
):
    add_bitmap(1, 4)
    guest = desk.guest("disk")
    source = desk.disks["disk"]
    # The guest writes, and the job fails, once clusters 0 and 1 are copied.
    source.stops = lambda verb, offset, _length: verb == "read" and offset >= 2 * CLUSTER
    more = {"bitmap_mode": mode} if mode else {}
    perf = {"max-workers": 1, "max-chunk": CLUSTER}
    await desk.say("blockdev-backup", {"x-perf": perf}, sync=sync, bitmap="b", **more, **ALL)
    await settle()
    (waiting,) = source.waiting
    source.stop()
    named = desk.bitmap("disk", "b")
    assert named.busy
    assert dirty_clusters(named) == [1, 4]
    write = desk.later(guest.pwrite(7 * CLUSTER, memoryview(b"g")))
    await settle()
    assert dirty_clusters(named.successor) == [7]
    assert dirty_clusters(named) == [1, 4]
    if fails:
        waiting.fail(errno.EIO)
    else:
        waiting.go()
    await write
    await desk.until("j null")
    named = desk.bitmap("disk", "b")
    assert dirty_clusters(named) == left
    assert not named.busy
    assert len(desk.graph.find("disk").bitmaps) == 1
    assert ("error" in desk.events[-3]) == fails


async def test_sync_top_leaves_out_what_the_layer_does_not_have(desk):
    source = desk.disks["disk"]

    async def block_status(offset, _length, _limit):
        present = offset // CLUSTER not in {2, 3, 6}
        end = CLUSTER * (offset // CLUSTER + 1)
        return [Extent(end - offset, Status.DATA | Status.ALLOCATED if present else 0)]

    source.block_status = block_status
    await desk.say("blockdev-backup", sync="top", **ALL)
    await desk.until("j null")
    assert clusters_of(desk, "target") == [0, 1, 4, 5, 7]
    assert desk.events[-3]["len"] == desk.events[-3]["offset"] == 5 * CLUSTER


async def test_pause_and_resume_lose_nothing(desk):
    desk.disks["disk"].stop("read")
    await desk.say("blockdev-backup", sync="full", **ALL)
    await settle()
    await desk.say("job-pause", id="j")
    assert (await desk.take())[5:] == ["return"]
    desk.disks["disk"].release()
    assert await desk.take() == ["j paused"]
    (info,) = await desk.say("query-jobs")
    assert info["status"] == "paused"
    await desk.say("job-resume", id="j")
    await desk.until("j null")
    assert desk.disks["target"].data == pattern(SIZE)


async def test_job_waiting_for_its_rate_pauses_before_the_reply(desk):
    await desk.say(
        "blockdev-backup", {"x-perf": {"max-chunk": CLUSTER}}, speed=1, sync="full", **ALL
    )
    await desk.take()
    await desk.say("block-job-pause", device="j")
    assert desk.heard == ["j paused", "return"]
    await desk.say("block-job-set-speed", device="j", speed=0)
    await desk.say("block-job-resume", device="j")
    await desk.until("j null")
    assert desk.disks["target"].data == pattern(SIZE)


async def test_taking_the_limit_away_ends_the_wait(desk):
    await desk.say("blockdev-backup", speed=1, sync="full", **ALL)
    await settle()
    await desk.say("block-job-set-speed", device="j", speed=0)
    await desk.until("j null")
    assert desk.disks["target"].data == pattern(SIZE)


async def test_cancel_is_answered_first(desk):
    await desk.say("blockdev-backup", sync="none", **ALL)
    await desk.take()
    await desk.say("block-job-cancel", device="j")
    assert desk.heard == ["return"]
    assert await desk.take() == ["return", *CANCELLED]


async def test_pending_backup_finalises_before_the_reply(desk):
    await desk.say("blockdev-backup", {"auto-finalize": False}, sync="full", **ALL)
    await desk.until("j BLOCK_JOB_PENDING")
    await desk.take()
    await desk.say("job-finalize", id="j")
    assert desk.heard == ["j BLOCK_JOB_COMPLETED", "j concluded", "j null", "return"]


@pytest.mark.parametrize("where", ["source", "target"])
@pytest.mark.parametrize("policy", ["report", "stop", "enospc", "ignore"])
async def test_failed_request_does_what_the_policy_says(desk, where, policy):
    disk, verb = desk.disks["disk" if where == "source" else "target"], "read"
    if where == "target":
        verb = "write"
    disk.errors[verb] = errno.ENOSPC
    await desk.say("blockdev-backup", {f"on-{where}-error": policy}, sync="full", **ALL)
    await desk.until("j BLOCK_JOB_ERROR")
    error = next(event for event in desk.events if event["event"] == "BLOCK_JOB_ERROR")
    action = {"report": "report", "ignore": "ignore"}.get(policy, "stop")
    assert error["operation"] == verb
    assert error["action"] == action
    await settle()
    disk.errors.clear()
    if action == "stop":
        (info,) = await desk.say("query-block-jobs")
        assert (info["status"], info["io-status"]) == ("paused", "nospace")
        await desk.say("block-job-resume", device="j")
    await desk.until("j null")
    if action == "report":
        assert desk.events[-3]["error"] == "No space left on device"
    else:
        assert desk.disks["target"].data == pattern(SIZE)
        assert "error" not in desk.events[-3]


async def test_guest_is_not_harmed_by_an_error_of_the_job(desk):
    guest = desk.guest("disk")
    desk.disks["target"].errors["write"] = errno.EIO
    await desk.say("blockdev-backup", sync="full", **ALL)
    await desk.until("j null")
    await guest.pwrite(0, memoryview(b"g" * 512))
    assert guest.node.name == "disk"


@pytest.mark.parametrize("sync", ["none", "full"])
async def test_failed_copy_for_the_guest_breaks_the_guest_write(desk, sync):
    guest = desk.guest("disk")
    target = desk.disks["target"]
    target.stops = lambda verb, offset, _length: verb == "write" and offset == 0
    perf = {"x-perf": {"max-workers": 1, "max-chunk": CLUSTER}}
    await desk.say("blockdev-backup", perf, speed=1, sync=sync, **ALL)
    await settle()
    if sync == "full":
        target.release()
        await settle()
    target.errors["write"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        await guest.pwrite(5 * CLUSTER, memoryview(b"g" * 512))
    target.errors.clear()
    await guest.pwrite(5 * CLUSTER, memoryview(b"g" * 512))
    assert (await desk.say("query-jobs"))[0]["status"] == "running"
    assert 5 in clusters_of(desk, "target")


@pytest.mark.parametrize("sync", ["none", "full"])
async def test_failed_copy_for_the_guest_breaks_the_backup_on_demand(desk, sync):
    guest = desk.guest("disk")
    more = {"on-cbw-error": "break-snapshot", "x-perf": {"max-chunk": CLUSTER}}
    await desk.say("blockdev-backup", more, speed=1, sync=sync, **ALL)
    await settle()
    desk.disks["target"].errors["write"] = errno.ENOSPC
    await guest.pwrite(5 * CLUSTER, memoryview(b"g" * 512))
    await desk.until("j null")
    assert desk.events[-3]["error"] == "No space left on device"
    assert guest.node.name == "disk"
    assert 5 not in clusters_of(desk, "disk")


async def test_two_backups_of_one_disk_run_side_by_side(desk):
    guest = desk.guest("disk")
    desk.disk("second", bytes(SIZE))
    await desk.say("blockdev-backup", sync="none", **ALL)
    await desk.take()
    await desk.say("blockdev-backup", device="disk", target="second", job_id="k", sync="none")
    assert desk.heard == [
        "j paused",
        "j running",
        "j paused",
        "k created",
        "k running",
        "k paused",
        "k running",
        "j running",
        "return",
    ]
    await guest.pwrite(0, memoryview(b"g" * 512))
    assert clusters_of(desk, "target") == clusters_of(desk, "second") == [0]
    await desk.say("job-cancel", id="k")
    await desk.until("k null")
    await guest.pwrite(CLUSTER, memoryview(b"g" * 512))
    assert clusters_of(desk, "target") == [0, 1]
    assert clusters_of(desk, "second") == [0]


async def test_first_of_two_backups_may_end_first(desk):
    guest = desk.guest("disk")
    desk.disk("second", bytes(SIZE))
    await desk.say("blockdev-backup", sync="none", filter_node_name="outer", **ALL)
    more = {"job-id": "k", "filter-node-name": "inner"}
    await desk.say("blockdev-backup", more, device="disk", target="second", sync="none")
    await desk.take()
    await desk.say("job-cancel", id="j")
    assert await desk.take() == ["return", *CANCELLED]
    assert guest.node.name == "inner"
    await guest.pwrite(0, memoryview(b"g" * 512))
    assert clusters_of(desk, "target") == []
    assert clusters_of(desk, "second") == [0]


async def test_shutdown_cancels_a_running_backup(desk):
    await desk.say("blockdev-backup", sync="none", **ALL)
    await desk.take()
    await desk.system.jobs.close()
    assert desk.heard == ["j paused", "j running", *CANCELLED]


_BLOCK_JOBS = ("human-monitor-command", {"command-line": "info block-jobs"}, "No active jobs\r\n")


@pytest.mark.parametrize(
    ("query", "arguments", "answer"),
    [("query-jobs", {}, []), ("query-block-jobs", {}, []), _BLOCK_JOBS],
)
async def test_job_that_is_being_concluded_is_not_shown_as_pending(desk, query, arguments, answer):
    guest = desk.guest("disk")
    desk.disks["disk"].stop("read")
    await desk.say("blockdev-backup", sync="full", **ALL)
    desk.later(guest.pread(0, memoryview(bytearray(512))))
    await desk.take()
    of_the_job, _ = desk.disks["disk"].waiting
    of_the_job.go()
    await desk.until("j pending")  # the filter goes when the guest's read has ended
    await desk.take()
    asked = desk.later(desk.say(query, **arguments))
    assert await desk.take() == []
    desk.disks["disk"].release()
    assert await asked == answer
    assert desk.heard[-2:] == ["j null", "return"]

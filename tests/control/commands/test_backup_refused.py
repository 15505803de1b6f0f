"""blockdev-backup that is refused, or of a disk in use; texts are those of QEMU 7.2."""

import pytest

from tests.tools.fleecing import CLUSTER, dirty_clusters

SIZE = 8 * CLUSTER
ALL = {"device": "disk", "target": "target", "job_id": "j"}


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"sync": "bitmap"}, "must provide a valid bitmap name for 'bitmap' sync mode"),
        ({"sync": "incremental"}, "must provide a valid bitmap name for 'incremental' sync mode"),
        (
            {"sync": "incremental", "bitmap": "b", "bitmap-mode": "always"},
            "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
        ),
        ({"sync": "full", "bitmap": "x"}, "Bitmap 'x' could not be found"),
        (
            {"sync": "full", "bitmap": "b"},
            "Bitmap sync mode must be given when providing a bitmap",
        ),
        (
            {"sync": "none", "bitmap": "b", "bitmap-mode": "never"},
            "sync mode 'none' does not produce meaningful bitmap outputs",
        ),
        (
            {"sync": "top", "bitmap": "b", "bitmap-mode": "never"},
            "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode 'top'",
        ),
        (
            {"sync": "full", "bitmap-mode": "never"},
            "Cannot specify bitmap sync mode without a bitmap",
        ),
        ({"target": "disk"}, "Source and target cannot be the same"),
        ({"target": "small"}, "Source and target image have different sizes"),
        ({"target": "x"}, "Cannot find device='x' nor node-name='x'"),
        ({"device": "x"}, "Cannot find device='x' nor node-name='x'"),
        ({"target": "ro"}, "Could not create node: Block node is read-only"),
        ({"job-id": "1"}, "Invalid job ID '1'"),
        ({"job-id": "other"}, "Job ID 'other' already in use"),
        ({"filter-node-name": "disk"}, "Could not create node: Duplicate nodes with"),
        ({"compress": True}, "Compression is not supported for this drive "),
        ({"speed": -1}, "Parameter 'speed' expects a non-negative value"),
        ({"x-perf": {"max-workers": 0}}, "max-workers must be between 1 and 2147483647"),
        (
            {"x-perf": {"max-chunk": -1}},
            "max-chunk must be zero (which means no limit) or positive",
        ),
        (
            {"x-perf": {"max-chunk": 1000}},
            "Required max-chunk (1000) is less than backup cluster size (65536)",
        ),
        ({"target": "busy"}, "Node 'busy' is busy: block device is in use by block job: backup"),
    ],
)
async def test_refused_backup_leaves_everything_as_it_was(desk, add_bitmap, members, error):
    desk.disk("small", bytes(CLUSTER))
    desk.disk("ro", bytes(SIZE), read_only=True)
    desk.disk("elsewhere", bytes(SIZE))
    desk.disk("busy", bytes(SIZE))
    await desk.say(
        "blockdev-backup", device="elsewhere", target="busy", job_id="other", sync="none"
    )
    bitmap = add_bitmap(1, 2)
    guest = desk.guest("disk")
    before = desk.graph.nodes()
    given = {"device": "disk", "target": "target", "job-id": "j", "sync": "full"} | members
    assert (await desk.say("blockdev-backup", given)).startswith(error)
    assert desk.graph.nodes() == before
    assert guest.node.name == "disk"
    assert desk.graph.find("disk").bitmaps == [bitmap]
    assert not bitmap.busy
    assert bitmap.recording
    assert dirty_clusters(bitmap) == [1, 2]
    assert [job["id"] for job in await desk.say("query-jobs")] == ["other"]


async def test_busy_bitmap_cannot_be_used_by_another_job(desk, add_bitmap):
    add_bitmap(1)
    desk.disk("second", bytes(SIZE))
    more = {"sync": "bitmap", "bitmap": "b", "bitmap_mode": "always"}
    await desk.say("blockdev-backup", speed=1, **more, **ALL)
    reply = await desk.say("blockdev-backup", device="disk", target="second", job_id="k", **more)
    assert reply == "Bitmap 'b' is currently in use by another operation and cannot be used"


async def test_node_of_a_job_cannot_be_deleted(desk):
    await desk.say("blockdev-backup", sync="none", filter_node_name="top", **ALL)
    busy = "is busy: block device is in use by block job: backup"
    assert await desk.say("blockdev-del", node_name="target") == f"Node 'target' {busy}"
    assert await desk.say("blockdev-del", node_name="top") == f"Node 'top' {busy}"
    assert await desk.say("blockdev-del", node_name="disk") == "Block device disk is in use"

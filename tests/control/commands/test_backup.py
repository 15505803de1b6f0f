"""blockdev-backup; orders and texts are those of QEMU 7.2."""

from tests.tools.fleecing import CLUSTER, pattern

ALL = {"device": "disk", "target": "target", "job_id": "j"}


async def test_full_backup_makes_the_target_equal(desk):
    assert await desk.say("blockdev-backup", sync="full", **ALL) == {}
    await desk.until("j null")
    assert desk.heard == [
        "j created",
        "j running",
        "j paused",
        "j running",
        "return",
        "j waiting",
        "j pending",
        "j BLOCK_JOB_COMPLETED",
        "j concluded",
        "j null",
    ]
    assert desk.disks["target"].data == desk.disks["disk"].data == pattern(8 * CLUSTER)
    assert desk.events[-3] == {
        "event": "BLOCK_JOB_COMPLETED",
        "type": "backup",
        "device": "j",
        "len": 8 * CLUSTER,
        "offset": 8 * CLUSTER,
        "speed": 0,
    }

"""blockdev-snapshot and blockdev-snapshot-sync; texts are those of QEMU 7.2."""

import pytest

from qmpfleece.control.commands.backup import BlockdevBackup, BlockdevBackupAction
from qmpfleece.control.commands.snapshots import BlockdevSnapshotAction, BlockdevSnapshotData
from tests.control.commands.conftest import SIZE
from tests.tools.disk import qemu_img
from tests.tools.fleecing import pattern


@pytest.fixture
async def overlay(desk, tmp_path):
    """A qcow2 node without a backing file, and the path of its image."""
    path = tmp_path / "overlay"
    qemu_img("create", "-q", "-f", "qcow2", path, SIZE)
    file = {"driver": "file", "filename": str(path)}
    await desk.say("blockdev-add", driver="qcow2", node_name="ov", file=file, backing=None)
    yield path
    if desk.graph.get("ov") is not None:
        await desk.say("blockdev-del", node_name="ov")


async def read(node):
    buf = bytearray(SIZE)
    await node.driver.pread(0, memoryview(buf))
    return bytes(buf)


async def test_users_move_to_the_overlay_and_the_disk_stays_as_it_was(desk, overlay):
    guest = desk.guest("disk")
    assert await desk.say("blockdev-snapshot", node="disk", overlay="ov") == {}
    assert guest.node.name == "ov"
    await guest.pwrite(512, memoryview(b"g" * 512))
    assert desk.disks["disk"].data == pattern(SIZE)
    assert await read(guest.node) == pattern(SIZE)[:512] + b"g" * 512 + pattern(SIZE)[1024:]
    assert await desk.say("blockdev-del", node_name="disk") == (
        "Node 'disk' is busy: node is used as backing hd of 'ov'"
    )
    await guest.detach()


async def check_aborted(desk, guest, kind, data):
    before = desk.graph.nodes()
    actions = [{"type": kind, "data": data}, {"type": "abort", "data": {}}]
    reply = await desk.say("transaction", actions=actions)
    assert reply == "Transaction aborted using Abort action"
    assert guest.node is desk.graph.find(data.get("node") or data["node-name"])
    assert desk.graph.nodes() == before


async def test_aborted_snapshot_leaves_everything_as_it_was(desk, overlay):
    guest = desk.guest("disk")
    await check_aborted(desk, guest, "blockdev-snapshot", {"node": "disk", "overlay": "ov"})
    assert "backing" not in desk.graph.find("ov").children
    await guest.pwrite(0, memoryview(b"g" * 512))
    assert desk.disks["disk"].data[:512] == b"g" * 512


async def test_aborted_snapshot_to_a_new_image_leaves_everything_as_it_was(desk, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(pattern(SIZE))
    await desk.say("blockdev-add", driver="file", node_name="f", filename=str(disk))
    guest = desk.guest("f")
    data = {"node-name": "f", "snapshot-file": str(tmp_path / "new"), "snapshot-node-name": "n"}
    await check_aborted(desk, guest, "blockdev-snapshot-sync", data)
    await guest.pwrite(0, memoryview(b"g" * 512))
    assert disk.read_bytes()[:512] == b"g" * 512
    await guest.detach()


async def test_disk_can_be_written_to_after_a_snapshot_that_was_aborted_late(
    desk, overlay, tmp_path
):
    (tmp_path / "disk").write_bytes(pattern(SIZE))
    await desk.say("blockdev-add", driver="file", node_name="f", filename=str(tmp_path / "disk"))
    action = BlockdevSnapshotAction(desk.system, BlockdevSnapshotData(node="f", overlay="ov"))
    await action.prepare()
    action.commit()
    await action.abort()
    await action.clean()
    assert not desk.graph.find("f").read_only
    await desk.say("blockdev-del", node_name="f")


async def test_users_come_back_whom_a_job_has_led_to_the_overlay_before_it_is_aborted(
    desk, overlay
):
    guest = desk.guest("disk")
    job = {"job-id": "j", "device": "disk", "target": "target", "sync": "none"}
    assert await desk.say("blockdev-backup", job) == {}
    action = BlockdevSnapshotAction(desk.system, BlockdevSnapshotData(node="disk", overlay="ov"))
    await action.prepare()
    await desk.say("job-cancel", id="j")
    await desk.until("j null")
    assert guest.node.name == "ov"
    await action.abort()
    await action.clean()
    assert guest.node.name == "disk"
    assert desk.graph.find("disk").parents == [guest.root]
    await guest.detach()


async def test_image_of_a_snapshot_is_made_with_its_backing_file(desk, tmp_path, capfd):
    disk, new = tmp_path / "disk", tmp_path / "new"
    disk.write_bytes(pattern(SIZE))
    await desk.say("blockdev-add", driver="file", node_name="f", filename=str(disk))
    guest = desk.guest("f")
    given = {"node-name": "f", "snapshot-file": str(new), "snapshot-node-name": "n"}
    assert await desk.say("blockdev-snapshot-sync", given) == {}
    assert f"backing_file={disk} backing_fmt=file" in capfd.readouterr().out
    await guest.pwrite(0, memoryview(b"g" * 65536))
    await guest.detach()
    await desk.say("blockdev-del", node_name="f")
    assert desk.graph.get("n") is None
    raw = tmp_path / "raw"
    qemu_img("convert", "-O", "raw", new, raw)
    assert raw.read_bytes() == b"g" * 65536 + pattern(SIZE)[65536:]
    assert disk.read_bytes() == pattern(SIZE)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"node": "x"}, "Cannot find device='x' nor node-name='x'"),
        ({"overlay": "x"}, "Cannot find device='x' nor node-name='x'"),
        ({"overlay": "target"}, "The overlay does not support backing images"),
        ({"node": "ov"}, "Making 'ov' a backing child of 'ov' would create a cycle"),
    ],
)
async def test_refused_snapshot_changes_nothing(desk, overlay, members, error):
    guest = desk.guest("disk")
    before = desk.graph.nodes()
    assert (
        await desk.say("blockdev-snapshot", {"node": "disk", "overlay": "ov"} | members) == error
    )
    assert guest.node.name == "disk"
    assert desk.graph.nodes() == before


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"node-name": "x"}, "Cannot find device='' nor node-name='x'"),
        ({"node-name": None}, "Cannot find device='' nor node-name=''"),
        ({"snapshot-node-name": None}, "New overlay node-name missing"),
        ({"snapshot-node-name": "target"}, "New overlay node-name already in use"),
        ({"format": "zzz"}, "Unknown file format 'zzz'"),
        ({"format": "raw"}, "Backing file not supported for file format 'raw'"),
    ],
)
async def test_refused_snapshot_image_changes_nothing(desk, tmp_path, members, error):
    before = desk.graph.nodes()
    new = str(tmp_path / "new")
    given = {"node-name": "disk", "snapshot-file": new, "snapshot-node-name": "n"} | members
    given = {name: value for name, value in given.items() if value is not None}
    assert await desk.say("blockdev-snapshot-sync", given) == error
    assert desk.graph.nodes() == before


async def test_node_of_a_job_gets_no_overlay(desk, overlay):
    await desk.say("blockdev-backup", device="disk", target="target", job_id="j", sync="none")
    reply = await desk.say("blockdev-snapshot", node="target", overlay="ov")
    assert reply == "Node 'target' is busy: block device is in use by block job: backup"


async def prepare_as_a_backup_ends(desk, action):
    """Prepare an action that waits, as a backup of the same disk does, for a guest's write."""
    guest = desk.guest("disk", "drive0")
    job = {"job-id": "j", "device": "disk", "target": "target", "sync": "none"}
    assert await desk.say("blockdev-backup", job) == {}
    desk.disks["disk"].stop("write")
    desk.later(guest.pwrite(0, memoryview(b"g" * 512)))
    desk.later(desk.say("job-cancel", id="j"))
    await desk.take()
    prepared = desk.later(action.prepare())
    await desk.take()
    desk.disks["disk"].release()
    await prepared
    action.commit()
    await action.clean()
    await desk.take()
    return guest


async def test_overlay_goes_above_the_disk_whose_backup_has_ended_before(desk, overlay):
    data = BlockdevSnapshotData(node="drive0", overlay="ov")
    action = BlockdevSnapshotAction(desk.system, data)
    guest = await prepare_as_a_backup_ends(desk, action)
    assert guest.node.name == "ov"
    assert guest.node.children["backing"].node.name == "disk"
    await guest.detach()


async def test_filter_goes_above_the_disk_whose_backup_has_ended_before(desk):
    desk.disk("other", bytes(SIZE))
    data = BlockdevBackup(device="drive0", target="other", job_id="k", sync="none")
    action = BlockdevBackupAction(desk.system, data)
    guest = await prepare_as_a_backup_ends(desk, action)
    assert guest.node.children["file"].node.name == "disk"
    assert await desk.say("job-cancel", id="k") == {}
    await desk.until("k null")

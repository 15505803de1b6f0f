"""Disks that get shorter below a filter, of a user's or of a backup."""

import errno

import pytest

from qmpfleece.base.units import MIB
from tests.tools.desk import Desk
from tests.tools.fleecing import CLUSTER, pattern
from tests.tools.until import settle

#: More clusters than fit into one word of a bitmap; the first is a request of its own.
DATA = bytes(CLUSTER) + pattern(9 * MIB - CLUSTER)


@pytest.fixture
async def desk():
    """A desk with a disk, the whole of which the window ``r`` shows, and a target."""
    made = Desk()
    made.disk("disk", DATA)
    made.disk("target", bytes(len(DATA)))
    await made.say("blockdev-add", driver="raw", node_name="r", file="disk")
    yield made
    await made.close()


async def show(desk, size):
    """Let the window show no more than so many bytes."""
    window = {"driver": "raw", "node-name": "r", "file": "disk", "size": size}
    assert await desk.say("blockdev-reopen", options=[window]) == {}


async def check_guest(guest, behind):
    """Write to the beginning, and where the window does not reach; that is refused."""
    await guest.pwrite(0, memoryview(b"x"))
    for offset in behind:
        with pytest.raises(OSError, match="Input/output error") as failure:
            await guest.pwrite(offset, memoryview(b"x" * 1024))
        assert failure.value.errno == errno.EIO


async def test_disk_cut_below_a_filter_is_cut_out_of_the_snapshot(desk):
    add = {"driver": "copy-before-write", "file": "r", "target": "target", "discard": "unmap"}
    await desk.say("blockdev-add", add, node_name="c")
    more = {"driver": "snapshot-access", "file": "c", "discard": "unmap"}
    await desk.say("blockdev-add", more, node_name="s")
    guest, client = desk.guest("c"), desk.guest("s")
    await show(desk, MIB)
    await check_guest(guest, [MIB - 512, MIB, 8 * MIB])
    buf = bytearray(MIB)
    await client.pread(0, memoryview(buf))
    assert buf == DATA[:MIB]
    for offset in (MIB - 512, MIB, 8 * MIB):
        with pytest.raises(OSError, match="Permission denied"):
            await client.pread(offset, memoryview(bytearray(1024)))
    assert sum(e.length for e in await client.block_status(0, len(DATA), 9)) == MIB
    await client.pdiscard(0, len(DATA))
    with pytest.raises(OSError, match="Permission denied"):
        await client.pread(0, memoryview(bytearray(512)))
    while desk.guests:
        await desk.guests.pop().detach()
    for name in ("s", "c"):
        assert await desk.say("blockdev-del", node_name=name) == {}


async def test_backup_of_a_disk_that_is_cut_below_the_job_copies_what_is_left(desk):
    guest = desk.guest("r")
    options = {"device": "r", "target": "target", "job-id": "j"}
    await desk.say("blockdev-backup", options, sync="full", speed=1)
    await settle()
    await show(desk, 4 * MIB)
    await check_guest(guest, [4 * MIB, 8 * MIB])
    assert (await desk.say("query-block-jobs"))[0]["status"] == "running"
    await desk.say("block-job-set-speed", device="j", speed=0)
    await desk.until("j null")
    assert not any("error" in event for event in desk.events)
    assert desk.disks["target"].data == DATA[: 4 * MIB].ljust(len(DATA), b"\0")
    assert desk.disks["disk"].data[CLUSTER:] == DATA[CLUSTER:]

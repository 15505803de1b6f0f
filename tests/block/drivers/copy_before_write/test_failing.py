"""Copies that fail or take too long."""

import errno

import pytest

from qmpfleece.block import block_copy
from tests.block.drivers.copy_before_write.conftest import DATA, SIZE
from tests.tools.fleecing import CLUSTER
from tests.tools.until import settle


@pytest.mark.parametrize("side", ["disk", "temp"])
async def test_break_guest_write_fails_the_write_and_keeps_the_snapshot(fleece, side):
    await fleece.start()
    broken = getattr(fleece, side)
    verb = "read" if side == "disk" else "write"
    broken.errors[verb] = errno.ENOSPC
    with pytest.raises(OSError, match="No space left on device") as failure:
        await fleece.write(0, b"x")
    assert failure.value.errno == errno.ENOSPC
    broken.errors.clear()
    assert fleece.disk.data == DATA
    assert fleece.cbw.snapshot.broken_because is None
    assert fleece.counts() == {"access": SIZE, "done": 0, "copy": SIZE}
    assert await fleece.read(0, SIZE) == DATA
    await fleece.write(0, b"x")
    assert await fleece.read(0, SIZE) == DATA


async def test_break_snapshot_lets_the_guest_write_and_ends_the_snapshot(fleece):
    await fleece.start(on_cbw_error="break-snapshot")
    fleece.temp.errors["write"] = errno.ENOSPC
    await fleece.write(CLUSTER, b"x")
    assert fleece.disk.data[CLUSTER] == ord("x")
    for request in (fleece.read(0, 1), fleece.client.block_status(0, 512, 1)):
        with pytest.raises(OSError, match="Permission denied"):
            await request
    assert fleece.cbw.snapshot.broken_because == (
        "copy before write failed writing 65536 bytes at 65536 of 'temp': No space left on device"
    )
    fleece.temp.errors["write"] = errno.EIO
    fleece.temp.log.clear()
    await fleece.write(0, b"x")
    assert fleece.temp.log == []
    assert fleece.cbw.snapshot.error.errno == errno.ENOSPC


async def test_reads_in_flight_when_the_snapshot_breaks_still_give_the_old_data(fleece):
    await fleece.start(on_cbw_error="break-snapshot")
    fleece.disk.stop("read")
    read = await fleece.started(fleece.read(CLUSTER, 4096))
    fleece.disk.stop()
    fleece.temp.errors["write"] = errno.EIO
    await fleece.write(0, b"x")
    write = await fleece.started(fleece.guest.pwrite(CLUSTER, memoryview(b"x")))
    assert not write.done()
    fleece.disk.release()
    assert await read == DATA[CLUSTER : CLUSTER + 4096]
    await write


async def test_copy_that_takes_too_long_fails_the_guest_write_but_goes_on(fleece):
    await fleece.start(cbw_timeout=5)
    fleece.cbw._timeout_s = 0.001
    fleece.temp.stop("write")
    with pytest.raises(OSError, match="timed out") as failure:
        await fleece.write(0, b"x")
    assert failure.value.errno == errno.ETIMEDOUT
    assert fleece.filter.in_flight == 1
    assert fleece.disk.data == DATA
    fleece.temp.release()
    await fleece.filter.wait_idle()
    assert fleece.counts()["copy"] == SIZE - CLUSTER
    fleece.temp.log.clear()
    await fleece.write(0, b"x")
    assert fleece.temp.log == []
    assert await fleece.read(0, SIZE) == DATA


async def test_copy_that_takes_too_long_and_then_fails_is_tried_again_by_the_next_write(fleece):
    await fleece.start(cbw_timeout=5)
    fleece.cbw._timeout_s = 0.001
    fleece.temp.stop("write")
    with pytest.raises(OSError, match="timed out"):
        await fleece.write(0, b"x")
    fleece.temp.waiting[0].fail(errno.EIO)  # which nobody waits for any more
    await fleece.filter.wait_idle()
    fleece.temp.release()
    fleece.cbw._timeout_s = 60
    await fleece.write(0, b"x")
    assert await fleece.read(0, SIZE) == DATA


async def test_copy_that_takes_too_long_breaks_the_snapshot_if_that_is_the_policy(fleece):
    await fleece.start(cbw_timeout=5, on_cbw_error="break-snapshot")
    fleece.cbw._timeout_s = 0.001
    fleece.temp.stop("write")
    await fleece.write(0, b"x")
    assert fleece.disk.data[0] == ord("x")
    assert fleece.cbw.snapshot.broken_because == "copy before write failed: Connection timed out"
    fleece.temp.waiting[0].fail(errno.EIO)
    await fleece.filter.wait_idle()


async def test_copy_within_the_time_limit_is_like_any_other(fleece):
    await fleece.start(cbw_timeout=4294967295)
    fleece.temp.stop("write")
    write = await fleece.started(fleece.guest.pwrite(0, memoryview(b"x")))
    fleece.temp.release()
    await write
    fleece.temp.errors["write"] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        await fleece.write(CLUSTER, b"x")
    assert await fleece.read(0, SIZE) == DATA


async def test_closing_waits_for_a_copy_that_has_timed_out(fleece):
    await fleece.start(cbw_timeout=5)
    fleece.cbw._timeout_s = 0.001
    fleece.temp.stop("write")
    with pytest.raises(OSError, match="timed out"):
        await fleece.write(0, b"x")
    await fleece.client.detach()
    letting_go = await fleece.started(fleece.guest.detach())
    assert not letting_go.done()
    fleece.temp.release()
    await letting_go
    await fleece.graph.delete("snap")
    await fleece.graph.delete("cbw")
    assert fleece.disk.node.bitmaps == []
    await fleece.start()


async def test_copy_that_has_timed_out_begins_no_request_any_more(fleece, monkeypatch):
    monkeypatch.setattr(block_copy, "MAX_FLYING", CLUSTER)
    await fleece.start(cbw_timeout=5)
    fleece.cbw._timeout_s = 0.001
    fleece.cbw.copier.limit_chunk(CLUSTER)
    fleece.temp.stop("write")
    with pytest.raises(OSError, match="timed out"):
        await fleece.write(0, b"x" * 4 * CLUSTER)
    fleece.temp.waiting[0].go()
    await settle()
    assert fleece.temp.seen("write") == [(0, CLUSTER)]
    assert not fleece.filter.in_flight
    assert fleece.counts()["copy"] == SIZE - CLUSTER
    fleece.temp.stop()
    await fleece.write(0, b"x" * 4 * CLUSTER)
    assert await fleece.read(0, SIZE) == DATA

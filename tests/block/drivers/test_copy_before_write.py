import asyncio
import errno

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import ReqFlags
from qmpfleece.block.perm import Perm
from tests.tools.fleecing import CLUSTER, Fleece, pattern
from tests.tools.gate import add_disk, settle

SIZE = 8 * CLUSTER
DATA = pattern(SIZE)


@pytest.fixture
async def fleece():
    """A fleecing scheme over a disk of 8 clusters; the test starts it."""
    scheme = Fleece(DATA)
    yield scheme
    await scheme.close()


async def test_snapshot_shows_the_disk_as_it_was_after_every_kind_of_change(fleece):
    await fleece.start()
    await fleece.write(100, b"x" * 70000)
    await fleece.guest.pwrite_zeroes(3 * CLUSTER + 5, CLUSTER)
    await fleece.guest.pdiscard(6 * CLUSTER, 4096)
    assert fleece.disk.data != DATA
    assert await fleece.read(0, SIZE) == DATA
    assert fleece.counts() == {"access": SIZE, "done": 5 * CLUSTER, "copy": 3 * CLUSTER}


@pytest.mark.parametrize(
    "change",
    [
        lambda guest: guest.pwrite(CLUSTER + 1, memoryview(b"x")),
        lambda guest: guest.pwrite_zeroes(CLUSTER + 1, 1),
        lambda guest: guest.pdiscard(CLUSTER + 512, 512),
    ],
    ids=["write", "write-zeroes", "discard"],
)
async def test_each_kind_of_change_copies_its_whole_cluster_first(fleece, change):
    await fleece.start()
    fleece.temp.stop("write")
    task = await fleece.started(change(fleece.guest))
    assert fleece.disk.data == DATA
    assert [(r.offset, r.length) for r in fleece.temp.waiting] == [(CLUSTER, CLUSTER)]
    fleece.temp.release()
    await task
    assert fleece.temp.data[CLUSTER : 2 * CLUSTER] == DATA[CLUSTER : 2 * CLUSTER]
    assert await fleece.read(0, SIZE) == DATA


async def test_write_that_changes_nothing_is_not_copied(fleece):
    await fleece.start()
    await fleece.guest.pwrite(0, memoryview(DATA[:512]), ReqFlags.WRITE_UNCHANGED)
    assert fleece.temp.log == []


async def test_guest_sees_its_own_writes_and_a_copied_cluster_is_not_copied_again(fleece):
    await fleece.start()
    await fleece.write(0, b"1" * 512)
    await fleece.write(0, b"2" * 512)
    buf = bytearray(512)
    await fleece.guest.pread(0, memoryview(buf))
    assert buf == b"2" * 512
    assert fleece.temp.seen("write") == [(0, CLUSTER)]


async def test_zero_clusters_are_not_read_but_zeroed_on_the_target():
    fleece = Fleece(bytes(SIZE))
    await fleece.start()
    await fleece.write(CLUSTER, b"x")
    assert fleece.disk.seen("read") == []
    assert fleece.temp.seen("zero") == [(CLUSTER, CLUSTER)]
    await fleece.close()


@pytest.mark.parametrize("length", [SIZE - 512, SIZE - CLUSTER + 512, 512])
async def test_disk_that_ends_inside_a_cluster_is_kept_to_its_last_byte(length):
    data = pattern(length)
    fleece = Fleece(data)
    await fleece.start()
    await fleece.write(length - 512, b"x" * 512)
    assert await fleece.read(0, length) == data
    await fleece.client.pdiscard(0, length)
    assert fleece.counts()["access"] == 0
    assert fleece.temp.allocated.count == 0
    await fleece.close()


# -- what the bitmap admits ---------------------------------------------------------------


async def test_read_outside_the_given_bitmap_is_refused(fleece):
    fleece.add_bitmap("b").mark(2 * CLUSTER, CLUSTER + 1)
    await fleece.start(bitmap={"node": "disk", "name": "b"})
    assert await fleece.read(2 * CLUSTER, 2 * CLUSTER) == DATA[2 * CLUSTER : 4 * CLUSTER]
    for offset, length in ((0, 512), (2 * CLUSTER - 1, 2), (4 * CLUSTER - 1, 2)):
        with pytest.raises(OSError, match="Permission denied") as refused:
            await fleece.read(offset, length)
        assert refused.value.errno == errno.EACCES


async def test_write_outside_the_given_bitmap_is_not_copied(fleece):
    fleece.add_bitmap("b").mark(2 * CLUSTER, 1)
    await fleece.start(bitmap={"node": "disk", "name": "b"})
    await fleece.write(0, b"x" * 512)
    assert fleece.temp.log == []
    await fleece.write(2 * CLUSTER - 1, b"xx")
    assert fleece.temp.seen("write") == [(2 * CLUSTER, CLUSTER)]


async def test_given_bitmap_is_only_read_and_may_be_finer_or_coarser(fleece):
    fine, coarse = fleece.add_bitmap("fine", 512), fleece.add_bitmap("coarse", 2 * CLUSTER)
    fine.mark(CLUSTER + 512, 512)
    coarse.mark(0, 1)
    for name, expected in (("fine", CLUSTER), ("coarse", 2 * CLUSTER)):
        node = await fleece.add(
            driver="copy-before-write",
            node_name="other",
            file="disk",
            target="temp",
            bitmap={"node": "disk", "name": name},
        )
        assert [b.count for b in node.bitmaps] == [expected, 0]
        await fleece.graph.delete("other")
    assert fine.count == 512
    await fleece.start(bitmap={"node": "disk", "name": "fine"})
    fleece.disk.node.bitmaps.remove(fine)
    assert fleece.counts()["access"] == CLUSTER


# -- what the backup client gives up ------------------------------------------------------


async def test_discarded_clusters_cannot_be_read_are_not_copied_and_are_freed(fleece):
    await fleece.start()
    await fleece.write(0, b"x" * SIZE)
    assert fleece.temp.allocated.count == SIZE
    await fleece.client.pdiscard(CLUSTER, 2 * CLUSTER)
    assert fleece.temp.allocated.count == SIZE - 2 * CLUSTER
    with pytest.raises(OSError, match="Permission denied"):
        await fleece.read(CLUSTER, 1)
    assert await fleece.read(0, CLUSTER) == DATA[:CLUSTER]
    assert await fleece.read(3 * CLUSTER, 5 * CLUSTER) == DATA[3 * CLUSTER :]


async def test_guest_write_to_a_cluster_given_up_is_not_copied(fleece):
    await fleece.start()
    await fleece.client.pdiscard(0, 2 * CLUSTER)
    fleece.temp.log.clear()
    await fleece.write(0, b"x" * 2 * CLUSTER)
    assert fleece.temp.log == []


async def test_discard_gives_up_only_whole_clusters(fleece):
    await fleece.start()
    await fleece.client.pdiscard(CLUSTER - 512, CLUSTER + 512)
    assert await fleece.read(0, CLUSTER) == DATA[:CLUSTER]
    assert await fleece.read(2 * CLUSTER, CLUSTER) == DATA[2 * CLUSTER : 3 * CLUSTER]
    await fleece.client.pdiscard(4 * CLUSTER + 512, CLUSTER)
    assert fleece.temp.seen("discard") == [(CLUSTER, CLUSTER)]


@pytest.mark.parametrize("fails", [False, True])
async def test_discard_waits_for_the_copy_in_flight_so_that_the_space_stays_free(fleece, fails):
    await fleece.start()
    fleece.temp.stop("write")
    write = await fleece.started(fleece.guest.pwrite(0, memoryview(b"x")))
    discard = await fleece.started(fleece.client.pdiscard(0, CLUSTER))
    assert not discard.done()
    with pytest.raises(OSError, match="Permission denied"):
        await fleece.read(0, 1)
    if fails:
        fleece.temp.waiting[0].fail(errno.ENOSPC)
        await settle()
    fleece.temp.release()
    await asyncio.gather(write, discard, return_exceptions=True)
    assert fleece.temp.allocated.count == 0
    assert fleece.counts()["copy"] == SIZE - CLUSTER


# -- who waits for whom -------------------------------------------------------------------


async def test_snapshot_reads_wait_neither_for_guest_writes_nor_for_the_temporary_image(fleece):
    await fleece.start()
    await fleece.write(0, b"x")  # cluster 0 is done
    fleece.temp.stop("write", "zero", "discard", "flush")
    fleece.disk.stop("write")
    copying = await fleece.started(fleece.guest.pwrite(CLUSTER, memoryview(b"x")))
    writing = await fleece.started(fleece.guest.pwrite(0, memoryview(b"y")))
    assert await fleece.read(0, SIZE) == DATA
    assert not copying.done()
    assert not writing.done()
    fleece.temp.release()
    await settle()
    assert await fleece.read(0, SIZE) == DATA
    fleece.disk.release()
    await asyncio.gather(copying, writing)


async def test_guest_write_waits_for_a_frozen_read_that_overlaps(fleece):
    await fleece.start()
    fleece.disk.stop("read")
    read = await fleece.started(fleece.read(CLUSTER, 4096))
    fleece.disk.stop()
    write = await fleece.started(fleece.guest.pwrite(CLUSTER + 4095, memoryview(b"x")))
    second = await fleece.started(fleece.guest.pwrite(CLUSTER, memoryview(b"y")))
    assert fleece.counts()["done"] == CLUSTER
    assert not write.done()
    assert not second.done()
    assert fleece.disk.seen("write") == []
    fleece.disk.release()
    assert await read == DATA[CLUSTER : CLUSTER + 4096]
    await asyncio.gather(write, second)


async def test_guest_write_does_not_wait_for_frozen_reads_elsewhere(fleece):
    await fleece.start()
    fleece.disk.stop("read")
    await fleece.started(fleece.read(CLUSTER, 4096))
    fleece.disk.stop()
    await fleece.write(CLUSTER + 4096, b"x")
    await fleece.write(0, b"x" * CLUSTER)
    assert len(fleece.disk.waiting) == 1


async def test_guest_write_does_not_wait_for_reads_of_the_temporary_image(fleece):
    await fleece.start()
    await fleece.write(0, b"x")
    fleece.temp.stop("read")
    read = await fleece.started(fleece.read(0, CLUSTER))
    await fleece.write(0, b"y")
    fleece.temp.release()
    assert await read == DATA[:CLUSTER]


async def test_cancelled_frozen_read_holds_up_nobody(fleece):
    await fleece.start()
    fleece.disk.stop("read")
    read = await fleece.started(fleece.read(0, 512))
    fleece.disk.stop()
    write = await fleece.started(fleece.guest.pwrite(0, memoryview(b"x")))
    assert not write.done()
    read.cancel()
    await write


async def test_overlapping_guest_writes_copy_a_cluster_once(fleece):
    await fleece.start()
    fleece.temp.stop("write")
    writes = [
        await fleece.started(fleece.guest.pwrite(offset, memoryview(b"x" * CLUSTER)))
        for offset in (0, CLUSTER // 2, CLUSTER // 4)
    ]
    assert fleece.disk.seen("write") == []
    fleece.temp.release()
    await asyncio.gather(*writes)
    assert sorted(fleece.temp.seen("write")) == [(0, CLUSTER), (CLUSTER, CLUSTER)]


async def test_cancelled_guest_write_leaves_its_cluster_to_the_next_one(fleece):
    await fleece.start()
    fleece.temp.stop("write")
    first = await fleece.started(fleece.guest.pwrite(0, memoryview(b"x")))
    second = await fleece.started(fleece.guest.pwrite(1, memoryview(b"y")))
    first.cancel()
    await settle()
    fleece.temp.release()
    await second
    assert fleece.temp.data[:CLUSTER] == DATA[:CLUSTER]
    assert fleece.disk.data[:3] == DATA[:1] + b"y" + DATA[2:3]
    assert await fleece.read(0, SIZE) == DATA


async def test_guest_flush_does_not_wait_for_the_temporary_image(fleece):
    await fleece.start()
    await fleece.write(0, b"x")
    await fleece.guest.flush()
    assert fleece.disk.seen("flush") == [(0, 0)]
    assert fleece.temp.seen("flush") == []


async def test_flush_reaches_writes_from_before_the_filter(fleece):
    direct = Backend(fleece.graph, perm=Perm.WRITE)
    direct.attach(fleece.disk.node)
    await direct.pwrite(0, memoryview(DATA[:512]))
    await direct.detach()
    await fleece.start()
    await fleece.guest.flush()
    assert fleece.disk.seen("flush") == [(0, 0)]


def frames(coroutine):
    """Return the names of the coroutines that await each other, outermost first."""
    names = []
    while hasattr(coroutine, "cr_await"):
        names.append(coroutine.cr_code.co_name)
        coroutine = coroutine.cr_await
    return names


async def test_requests_that_need_no_copy_pass_few_coroutines(fleece):
    await fleece.start()
    await fleece.write(0, b"x")
    buf = memoryview(bytearray(1))
    cases = [
        (fleece.client.pread(0, buf), ["_in_flight"] * 2 + ["pread"]),  # done
        (
            fleece.client.pread(CLUSTER, buf),
            ["_in_flight", "_frozen_until_read", "_in_flight", "pread"],
        ),
        (fleece.guest.pwrite(0, buf), ["pwrite"] * 3),
        (fleece.guest.pread(0, buf), ["_in_flight"] * 2 + ["pread"]),
    ]
    for disk in (fleece.disk, fleece.temp):
        disk.stop("read", "write")
    for request, expected in cases:
        task = await fleece.started(request)
        assert frames(task.get_coro()) == [*expected, "_pass"]


# -- failing copies -----------------------------------------------------------------------


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
    assert fleece.cbw.broken_because is None
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
    assert fleece.cbw.broken_because == (
        "copy before write failed writing 65536 bytes at 65536 of 'temp': No space left on device"
    )
    fleece.temp.errors["write"] = errno.EIO
    fleece.temp.log.clear()
    await fleece.write(0, b"x")
    assert fleece.temp.log == []
    assert fleece.cbw.snapshot_error.errno == errno.ENOSPC


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


async def test_copy_that_takes_too_long_breaks_the_snapshot_if_that_is_the_policy(fleece):
    await fleece.start(cbw_timeout=5, on_cbw_error="break-snapshot")
    fleece.cbw._timeout_s = 0.001
    fleece.temp.stop("write")
    await fleece.write(0, b"x")
    assert fleece.disk.data[0] == ord("x")
    assert fleece.cbw.broken_because == "copy before write failed: Connection timed out"
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


# -- opening, permissions -----------------------------------------------------------------


async def test_bitmaps_are_listed_newest_first_and_go_with_the_filter(fleece):
    named = fleece.add_bitmap("old")
    await fleece.start()
    assert fleece.disk.node.bitmaps[1:] == [named]
    for bitmap in (*fleece.filter.bitmaps, fleece.disk.node.bitmaps[0]):
        assert (bitmap.name, bitmap.recording, bitmap.granularity) == (None, False, CLUSTER)
    assert [b.count for b in fleece.filter.bitmaps] == [SIZE, 0]


async def test_cluster_follows_the_target_and_the_wish_for_larger_ones(fleece):
    fleece.temp.clusters = 2 * CLUSTER
    await fleece.start()
    assert fleece.cbw._copier.cluster_size == 2 * CLUSTER
    await fleece.write(0, b"x")
    assert fleece.temp.seen("write") == [(0, 2 * CLUSTER)]
    other = add_disk(fleece.graph, "temp2", bytes(SIZE))
    node = await fleece.add(
        driver="copy-before-write",
        node_name="large",
        file="cbw",
        target="temp2",
        min_cluster_size=4 * CLUSTER,
    )
    assert node.bitmaps[0].granularity == 4 * CLUSTER
    await fleece.graph.delete("large")
    assert other.closed is False


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"file": "nah"}, "Cannot find device='nah' nor node-name='nah'"),
        ({"target": "nah"}, "Cannot find device='nah' nor node-name='nah'"),
        ({"bitmap": {"node": "nah", "name": "b"}}, "Node 'nah' not found"),
        ({"bitmap": {"node": "disk", "name": "nah"}}, "Dirty bitmap 'nah' not found"),
        (
            {"bitmap": {"node": "big", "name": "b"}},
            "Cannot create block-copy-state: Failed to merge bitmap 'b' to internal copy-bitmap: "
            "Bitmaps are of different sizes (destination size is 524288, source size is 1048576) "
            "and can't be merged",
        ),
        (
            {"bitmap": {"node": "disk", "name": "busy"}},
            "Cannot create block-copy-state: Failed to merge bitmap 'busy' to internal "
            "copy-bitmap: Bitmap 'busy' is currently in use by another operation and cannot be "
            "used",
        ),
        ({"target": "ro"}, "Block node is read-only"),
        ({"target": "disk"}, "Source and target cannot be the same"),
        (
            {"target": "small"},
            "Target 'small' (512 bytes) is smaller than source 'disk' (524288 bytes)",
        ),
        ({"min-cluster-size": 100000}, "min-cluster-size needs to be a power of 2"),
    ],
)
async def test_bad_options_are_refused_and_leave_no_trace(fleece, options, text):
    add_disk(fleece.graph, "ro", bytes(SIZE), read_only=True)
    add_disk(fleece.graph, "small", bytes(512))
    big = add_disk(fleece.graph, "big", bytes(2 * SIZE))
    fleece.add_bitmap("busy").busy = True
    big.node.bitmaps.append(fleece.add_bitmap("b").__class__(2 * SIZE, CLUSTER, "b"))
    nodes, bitmaps = fleece.graph.nodes(), list(fleece.disk.node.bitmaps)
    with pytest.raises(QmpError) as refused:
        await fleece.start(**options)
    assert refused.value.desc == text
    assert fleece.graph.nodes() == nodes
    assert fleece.disk.node.bitmaps == bitmaps
    assert not fleece.disk.node.parents
    await fleece.start()


async def test_target_may_be_larger_than_the_disk():
    fleece = Fleece(DATA, temp=2 * SIZE)
    await fleece.start()
    await fleece.write(SIZE - 1, b"x")
    assert await fleece.read(0, SIZE) == DATA
    await fleece.close()


async def test_nobody_else_writes_to_the_temporary_image_or_the_disk(fleece):
    await fleece.start()
    other = Backend(fleece.graph, perm=Perm.WRITE)
    for node, child in ((fleece.temp.node, "target"), (fleece.disk.node, "file")):
        with pytest.raises(QmpError) as refused:
            other.attach(node)
        assert refused.value.desc == (
            f"Permission conflict on node '{node.name}': permissions 'write' are both required "
            f"by an unnamed block device (uses node '{node.name}' as 'root' child) and unshared "
            f"by node 'cbw' (uses node '{node.name}' as '{child}' child)."
        )
    reader = Backend(fleece.graph)
    reader.attach(fleece.temp.node)
    await reader.detach()


async def test_image_that_somebody_writes_to_is_no_temporary_image(fleece):
    writer = Backend(fleece.graph, perm=Perm.WRITE)
    writer.attach(fleece.temp.node)
    with pytest.raises(QmpError, match="Permission conflict on node 'temp'"):
        await fleece.start()
    await writer.detach()
    await fleece.start()


async def test_filter_nobody_uses_leaves_the_disk_to_its_writers(fleece):
    writer = Backend(fleece.graph, perm=Perm.WRITE)
    writer.attach(fleece.disk.node)
    node = await fleece.add(
        driver="copy-before-write", node_name="cbw", file="disk", target="temp"
    )
    with pytest.raises(QmpError, match="Permission conflict on node 'disk'"):
        Backend(fleece.graph).attach(node)
    await fleece.graph.delete("cbw")
    await writer.detach()
    await fleece.start()


@pytest.mark.parametrize("length", [SIZE, SIZE - 512])
async def test_disk_may_grow_under_a_format_and_the_snapshot_stays_as_large_as_it_was(length):
    data = pattern(length)
    fleece = Fleece(data)
    await fleece.start()
    await fleece.guest.detach()
    fleece.guest = Backend(fleece.graph, perm=Perm.CONSISTENT_READ | Perm.WRITE | Perm.RESIZE)
    fleece.guest.attach(fleece.filter)
    await fleece.write(length + 4096, b"y" * CLUSTER)
    assert fleece.temp.log == []
    await fleece.write(length - 512, b"x" * 1024)
    assert fleece.disk.data[length - 512 :][:1024] == b"x" * 1024
    assert await fleece.read(0, length) == data
    await fleece.client.pdiscard(0, length)
    assert fleece.counts()["access"] == 0
    await fleece.write(length - 512, b"z" * CLUSTER)
    assert fleece.temp.allocated.count == 0
    await fleece.close()

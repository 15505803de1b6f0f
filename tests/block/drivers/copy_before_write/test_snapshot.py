"""What the snapshot shows, and what is copied for it."""

import asyncio
import errno

import pytest

from qmpfleece.block.driver import ReqFlags
from tests.block.drivers.copy_before_write.conftest import DATA, SIZE
from tests.tools.fleecing import CLUSTER, Fleece, pattern
from tests.tools.until import settle

# -- what changes --------------------------------------------------------------------------


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


# -- what the bitmap admits ----------------------------------------------------------------


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


# -- what the backup client gives up -------------------------------------------------------


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

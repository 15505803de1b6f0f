"""Who waits for whom."""

import asyncio

import pytest

from qmpfleece.base.workers import Workers
from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.drain import drained
from qmpfleece.block.driver import Status
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm, Role
from qmpfleece.block.status import block_status
from qmpfleece.jobs.users import movable
from tests.block.drivers.copy_before_write.conftest import DATA, SIZE
from tests.tools.disk import qemu_img
from tests.tools.fleecing import CLUSTER
from tests.tools.graphs import add
from tests.tools.memory import Barrier, Load, add_memory, hold
from tests.tools.until import settle, until


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


def depth(coroutine):
    """Return how many coroutines await each other."""
    count = 0
    while hasattr(coroutine, "cr_await"):
        count += 1
        coroutine = coroutine.cr_await
    return count


async def test_requests_that_need_no_copy_pass_few_coroutines(fleece):
    await fleece.start()
    await fleece.write(0, b"x")
    buf = memoryview(bytearray(1))
    cases = [  # and how many there are above the two of the disk
        (fleece.client.pread(0, buf), 2),  # done
        (fleece.client.pread(CLUSTER, buf), 3),  # frozen meanwhile
        (fleece.guest.pwrite(0, buf), 2),
        (fleece.guest.pread(0, buf), 2),
    ]
    for disk in (fleece.disk, fleece.temp):
        disk.stop("read", "write")
    for request, most in cases:
        task = await fleece.started(request)
        assert 0 < depth(task.get_coro()) - 2 <= most


async def test_read_of_many_spans_passes_no_more_coroutines_than_one_of_two(fleece):
    await fleece.start()
    for cluster in range(0, SIZE // CLUSTER, 2):
        await fleece.write(cluster * CLUSTER, b"x")
    fleece.disk.stop("read")
    read = await fleece.started(fleece.read(0, SIZE))
    (request,) = fleece.disk.waiting
    first = depth(read.get_coro())
    fleece.disk.stops = lambda verb, offset, _: verb == "read" and offset == SIZE - CLUSTER
    request.go()
    await settle()
    assert depth(read.get_coro()) <= first
    fleece.disk.release()
    assert await read == DATA


async def test_read_of_many_spans_ends_where_they_cannot_be_read_any_more(fleece):
    await fleece.start()
    await fleece.write(0, b"x")
    await fleece.write(2 * CLUSTER, b"x")
    fleece.disk.stop("read")
    read = await fleece.started(fleece.read(0, SIZE))
    await fleece.client.pdiscard(3 * CLUSTER, CLUSTER)
    fleece.disk.release()
    with pytest.raises(OSError, match="Permission denied"):
        await read


async def test_copies_wait_for_reads_that_come_through_what_was_put_above_the_target(tmp_path):
    """The target shows the disk where it has nothing yet, and its users have an overlay now."""
    workers, load, barrier = Workers(), Load(), Barrier("read")
    graph = Graph(workers)
    disk = add_memory(graph, "disk", DATA)
    for name, below in (("target", "disk"), ("overlay", None)):
        qemu_img("create", "-q", "-f", "qcow2", tmp_path / name, SIZE)
        file = {"driver": "file", "filename": str(tmp_path / name)}
        await add(graph, "qcow2", name, file=file, backing=below)
    await add(graph, "copy-before-write", "cbw", file="disk", target="target")
    target, overlay = graph.find("target"), graph.find("overlay")
    reader = hold(graph, target, Perm.CONSISTENT_READ)
    guest = hold(graph, graph.find("cbw"), Perm.CONSISTENT_READ | Perm.WRITE)
    async with drained(target):
        users = movable(target, overlay)
        graph.attach_child(overlay, "backing", Role.COW, target)
        graph.replace_node(users, overlay)
    disk.pause, buf = barrier, memoryview(bytearray(CLUSTER))
    read = await load.start(pipeline.pread(reader, 0, buf))
    await until(lambda: len(barrier.waiting) == 1)
    write = await load.start(pipeline.pwrite(guest, 0, memoryview(b"x" * CLUSTER)))
    await until(lambda: len(barrier.waiting) == 2)
    barrier.go(1)  # the copy has read, and waits for the other before it writes
    await until(lambda: overlay.in_flight == 2)
    other = hold(graph, overlay, Perm.WRITE)
    await pipeline.pwrite(other, CLUSTER, memoryview(b"y" * CLUSTER))
    await pipeline.flush(other)
    (extent,) = await block_status(overlay, 0, CLUSTER, 1)
    assert not extent.flags & Status.ALLOCATED
    barrier.release()
    await asyncio.gather(read, write)
    assert buf == DATA[:CLUSTER]
    graph.detach(other)
    graph.detach(guest)
    await graph.delete("cbw")
    assert (target.tracks_reads, overlay.tracks_reads) == (0, 0)
    graph.detach(reader)
    await graph.close()
    workers.close()

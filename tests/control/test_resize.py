"""Resizing a node while its users go on."""

import asyncio
import errno

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.workers import Workers
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from qmpfleece.control.resize import resize
from tests.tools.desk import Desk
from tests.tools.disk import check, opened, qemu_img
from tests.tools.fleecing import CLUSTER, Fleece, pattern
from tests.tools.gate import BLOCK, add_disk
from tests.tools.hold import hold, start
from tests.tools.memory import Load

SIZE = 4 * CLUSTER
MIB = 1 << 20


@pytest.fixture
async def disk():
    graph = Graph(Workers())
    disk = add_disk(graph, "disk", bytes(SIZE))
    disk.users = [Backend(graph, perm=Perm.WRITE), Backend(graph, perm=Perm.RESIZE)]
    for user in disk.users:
        user.attach(disk.node)
    yield disk
    disk.release()
    for user in disk.users:
        await user.detach()
    await graph.close()
    graph.workers.close()


@pytest.fixture
async def fleece():
    scheme = Fleece(pattern(SIZE))
    await scheme.start()
    scheme.resizer = Backend(scheme.graph, perm=Perm.RESIZE)
    scheme.resizer.attach(scheme.filter)
    yield scheme
    await scheme.resizer.detach()
    await scheme.close()


async def test_disk_that_grows_beyond_what_its_bitmaps_can_cover_is_as_it_was(tmp_path):
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, str(SIZE))
    async with opened(path) as disk:
        bitmaps = [DirtyBitmap(SIZE, granularity, "b") for granularity in (1 << 30, BLOCK)]
        disk.node.bitmaps.extend(bitmaps)
        with pytest.raises(QmpError, match="Cannot allocate memory"):
            await resize(disk.guest, 1 << 55)
        assert {disk.node.length, *(bitmap.bits.length for bitmap in bitmaps)} == {SIZE}
        await disk.write(SIZE - BLOCK, b"x" * BLOCK)
        assert bitmaps[1].count == BLOCK
    check(path)


async def test_request_that_waits_for_a_resize_is_refused_behind_the_new_end(disk):
    load, (guest, user) = Load(), disk.users
    disk.stop("truncate")
    resizing = await load.start(resize(user, CLUSTER))
    write = await load.start(guest.pwrite(CLUSTER, memoryview(b"x" * BLOCK)))
    assert disk.seen("write") == []
    disk.release()
    await resizing
    with pytest.raises(OSError, match="Input/output") as failed:
        await write
    assert failed.value.errno == errno.EIO
    assert disk.node.length == len(disk.data) == CLUSTER


async def test_request_that_waits_for_a_resize_goes_on_when_it_has_failed(disk):
    load, (guest, user) = Load(), disk.users
    disk.stop("truncate")
    disk.errors["truncate"] = errno.ENOSPC
    resizing = await load.start(resize(user, CLUSTER))
    write = await load.start(guest.pwrite(CLUSTER, memoryview(b"x" * BLOCK)))
    disk.release()
    with pytest.raises(Exception, match="No space left"):
        await resizing
    await write
    assert disk.node.length == SIZE


async def test_clusters_that_a_failed_cut_leaves_are_still_to_be_copied(fleece):
    fleece.disk.stop("truncate")
    fleece.disk.errors["truncate"] = errno.ENOSPC
    resizing = await fleece.started(resize(fleece.resizer, CLUSTER))
    write = fleece.write(2 * CLUSTER, b"x" * BLOCK)
    reading = await fleece.started(fleece.read(2 * CLUSTER, CLUSTER))
    fleece.disk.release()
    with pytest.raises(Exception, match="No space left"):
        await resizing
    await write
    assert await reading == fleece.before[2 * CLUSTER : 3 * CLUSTER]
    assert await fleece.read(2 * CLUSTER, CLUSTER) == fleece.before[2 * CLUSTER : 3 * CLUSTER]


async def test_snapshot_read_that_waits_for_a_cut_is_refused(fleece):
    fleece.disk.stop("truncate")
    resizing = await fleece.started(resize(fleece.resizer, CLUSTER))
    reading = await fleece.started(fleece.read(2 * CLUSTER, CLUSTER))
    fleece.disk.release()
    await resizing
    with pytest.raises(OSError, match="Permission denied"):
        await reading


async def test_disk_whose_backup_has_ended_before_takes_no_requests_while_it_shrinks():
    desk = Desk()
    disk = desk.disk("disk", pattern(SIZE))
    desk.disk("target", bytes(SIZE))
    guest = desk.guest("disk")
    job = {"job-id": "j", "device": "disk", "target": "target", "sync": "none"}
    assert await desk.say("blockdev-backup", job) == {}
    user = Backend(desk.graph, perm=Perm.RESIZE)
    user.attach(guest.node)
    desk.guests.append(user)
    disk.stop("write", "truncate")
    desk.later(guest.pwrite(0, memoryview(b"x" * BLOCK)))
    desk.later(desk.say("job-cancel", id="j"))
    await desk.take()
    resizing = desk.later(resize(user, CLUSTER))
    await desk.take()
    disk.waiting[0].go()
    await desk.until("j null")
    await desk.take()
    assert [request.verb for request in disk.waiting] == ["truncate"]
    desk.later(guest.pwrite(0, memoryview(b"y" * BLOCK)))
    await desk.take()
    assert [request.verb for request in disk.waiting] == ["truncate"]
    disk.release()
    await resizing
    assert guest.length == CLUSTER
    await desk.close()


async def test_write_that_comes_while_the_disk_shrinks_waits_for_the_new_end(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, MIB)
    async with opened(image) as disk:
        await disk.write(0, b"x" * MIB)
        await disk.guest.flush()
        user, other = (Backend(disk.graph, perm=perm) for perm in (Perm.WRITE, Perm.RESIZE))
        user.attach(disk.node)
        other.attach(disk.node)
        gate, _ = hold(disk.node.children["file"].node.driver, "flush")
        resizing = await gate.stops(resize(other, MIB // 2))
        late = await start(user.pwrite(MIB * 3 // 4, memoryview(b"z" * 65536)))
        assert not resizing.done()
        gate.set()
        await resizing
        await asyncio.wait([late])
        assert isinstance(late.exception(), OSError)
        await resize(other, MIB)
        assert await disk.read() == b"x" * (MIB // 2) + bytes(MIB // 2)
        await user.detach()
        await other.detach()
    check(image)

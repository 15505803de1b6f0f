"""The door to a driver: the order of layers, ranges, permissions, growing."""

import errno

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import pipeline
from qmpfleece.block.perm import Perm
from tests.block.pipeline.layers import add_layer
from tests.block.pipeline.requests import SIZE, F, pattern, read, write
from tests.tools.memory import Barrier, Load, add_memory, hold

# -- layers --------------------------------------------------------------------------------


async def test_every_verb_passes_every_layer_in_order_and_marks_each_ones_bitmap(graph):
    log = []
    disk = add_memory(graph, "bottom", discard="unmap")
    middle = add_layer(graph, "middle", disk.node, log)
    top = add_layer(graph, "top", middle, log)
    edge = hold(graph, top)
    nodes = (top, middle, disk.node)
    for node in nodes:
        node.bitmaps.append(DirtyBitmap(node.length, 512))

    async def seen(request):
        log.clear()
        disk.calls.clear()
        await request
        assert not any(node.in_flight for node in nodes)
        return [*log, *(call[0] for call in disk.calls)]

    assert await seen(read(edge, 0, 512)) == ["top read", "middle read", "read"]
    assert not any(node.bitmaps[0].count for node in nodes)
    # FUA passes the layers that handle it, and is a flush where one does not.
    assert await seen(write(edge, 0, b"x" * 512, F.FUA)) == [
        "top write",
        "middle write",
        "write",
        "flush",
    ]
    assert await seen(pipeline.pwrite_zeroes(edge, 512, 512)) == [
        "top zero",
        "middle zero",
        "zero",
    ]
    assert await seen(pipeline.pdiscard(edge, 1024, 512)) == [
        "top discard",
        "middle discard",
        "discard",
    ]
    assert [node.bitmaps[0].count for node in nodes] == [1536, 1536, 1536]
    assert await seen(pipeline.flush(edge)) == ["top flush", "middle flush", "flush"]
    assert await seen(pipeline.flush(edge)) == []
    assert await seen(pipeline.truncate(edge, 8192)) == [
        "top truncate",
        "middle truncate",
        "truncate",
    ]
    assert [node.length for node in nodes] == [8192] * 3
    assert [node.bitmaps[0].bits.length for node in nodes] == [8192] * 3


# -- ranges, permissions -------------------------------------------------------------------

OUTSIDE = [(SIZE, 1), (SIZE - 1, 2), (1 << 63, 1), (1 << 80, 512), (-1, 1), (-512, 512)]


@pytest.mark.parametrize(("offset", "length"), OUTSIDE)
async def test_request_outside_the_node_fails_and_reaches_nothing(graph, offset, length):
    disk = add_memory(graph, "disk", discard="unmap")
    disk.node.bitmaps.append(DirtyBitmap(SIZE, 512))
    edge = hold(graph, disk.node, Perm.CONSISTENT_READ | Perm.WRITE)
    for request in (
        read(edge, offset, length),
        write(edge, offset, bytes(length)),
        pipeline.pwrite_zeroes(edge, offset, length),
        pipeline.pdiscard(edge, offset, length),
    ):
        with pytest.raises(OSError, match="Input/output error") as caught:
            await request
        assert caught.value.errno == errno.EIO
    assert disk.calls == []
    assert disk.node.in_flight == disk.node.bitmaps[0].count == 0


async def test_request_may_end_at_the_end_and_be_empty_there(graph):
    disk = add_memory(graph, "disk", pattern(SIZE))
    edge = hold(graph, disk.node, Perm.CONSISTENT_READ | Perm.WRITE)
    assert await read(edge, SIZE - 1, 1) == disk.data[-1:]
    assert await read(edge, SIZE, 0) == b""
    await write(edge, SIZE, b"")
    await pipeline.pwrite_zeroes(edge, SIZE, 0)
    await pipeline.pdiscard(edge, SIZE, 0)
    assert disk.data == pattern(SIZE)


async def test_read_only_node_refuses_all_changes(graph):
    disk = add_memory(graph, "disk", read_only=True, discard="unmap")
    edge = hold(graph, disk.node, Perm.CONSISTENT_READ)
    for request in (
        write(edge, 0, b"x"),
        pipeline.pwrite_zeroes(edge, 0, 1),
        pipeline.pdiscard(edge, 0, 1),
        pipeline.truncate(edge, 0),
    ):
        with pytest.raises(OSError, match="Operation not permitted"):
            await request
    assert disk.calls == []


async def test_who_lacks_the_permission_changes_nothing(graph):
    disk = add_memory(graph, "disk")
    edge = hold(graph, disk.node, Perm.CONSISTENT_READ)
    for request in (write(edge, 0, b"x"), pipeline.pwrite_zeroes(edge, 0, 1)):
        with pytest.raises(OSError, match="Operation not permitted"):
            await request
    assert disk.calls == []
    with pytest.raises(AssertionError, match="without the permission"):
        await pipeline.truncate(edge, 0)


async def test_who_may_not_resize_may_not_write_to_a_node_that_ends_within_a_block(graph):
    """The last bytes are written with their whole block: the image would become longer."""
    disk = add_memory(graph, "disk", bytes(4608), alignment=4096)
    hold(graph, disk.node, Perm.CONSISTENT_READ)
    for perm in (Perm.WRITE, Perm.WRITE_UNCHANGED):
        with pytest.raises(QmpError, match="Image size is not a multiple of request alignment"):
            hold(graph, disk.node, perm)
    hold(graph, disk.node, Perm.WRITE | Perm.RESIZE)


# -- growing -------------------------------------------------------------------------------


@pytest.mark.parametrize("alignment", [1, 512])
async def test_write_past_the_end_makes_the_node_and_its_bitmaps_longer(graph, alignment):
    disk = add_memory(graph, "disk", pattern(1024), alignment=alignment)
    disk.grows = True
    disk.node.bitmaps.append(DirtyBitmap(1024, 512))
    edge = hold(graph, disk.node)
    await write(edge, 1000, b"x" * 100)
    assert disk.node.length == 1536
    assert disk.node.bitmaps[0].bits.length == 1536
    assert list(disk.node.bitmaps[0].bits.areas()) == [(512, 1024)]
    await pipeline.pwrite_zeroes(edge, 2000, 1000)
    assert disk.node.length == disk.node.bitmaps[0].bits.length == 3072
    assert bytes(disk.data) == (pattern(1024)[:1000] + b"x" * 100).ljust(len(disk.data), b"\0")


async def test_failed_write_past_the_end_does_not_grow_the_node(graph):
    disk = add_memory(graph, "disk", bytes(1024))
    disk.node.bitmaps.append(DirtyBitmap(1024, 512))
    disk.errors = {"write": errno.ENOSPC, "zero": errno.ENOSPC}
    edge = hold(graph, disk.node)
    with pytest.raises(OSError, match="No space"):
        await write(edge, 512, bytes(1024))
    with pytest.raises(OSError, match="No space"):
        await pipeline.pwrite_zeroes(edge, 2048, 1024)
    assert disk.node.length == 1024
    assert list(disk.node.bitmaps[0].bits.areas()) == [(512, 512)]


async def test_node_cut_during_a_write_is_not_made_longer_by_who_may_not_resize_it(graph):
    disk = add_memory(graph, "disk", bytes(2048))
    writer = hold(graph, disk.node, Perm.WRITE)
    disk.grows = True
    load, disk.pause = Load(), Barrier("write", "zero")
    for request in (write(writer, 1024, b"x" * 512), pipeline.pwrite_zeroes(writer, 1536, 512)):
        await load.start(request)
    await pipeline.truncate(hold(graph, disk.node), 512)
    disk.pause.release()
    for task in load.tasks:
        await task
    assert disk.node.length == 512


async def test_discard_past_the_end_does_not_grow_the_node(graph):
    disk = add_memory(graph, "disk", bytes(1024), discard="unmap")
    edge = hold(graph, disk.node)
    disk.errors = {"discard": errno.ENOTSUP}
    await pipeline.pdiscard(edge, 512, 4096)
    assert disk.node.length == 1024


async def test_failed_truncate_changes_nothing(graph):
    disk = add_memory(graph, "disk")
    disk.errors = {"truncate": errno.ENOSPC}
    with pytest.raises(OSError, match="No space"):
        await pipeline.truncate(hold(graph, disk.node), 512)
    assert disk.node.length == SIZE
    assert disk.node.in_flight == 0

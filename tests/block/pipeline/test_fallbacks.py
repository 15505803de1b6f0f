"""What a driver can't do itself: FUA, zeroes, flushes; and dirty bits."""

import asyncio
import errno

import pytest

from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import pipeline, zeroes
from qmpfleece.qapi.blockdev import BlockdevCacheOptions
from tests.block.pipeline.layers import add_layer
from tests.block.pipeline.requests import SIZE, F, write
from tests.tools.memory import Barrier, add_memory, hold
from tests.tools.until import settle

# -- FUA, zeroes ---------------------------------------------------------------------------


@pytest.mark.parametrize("able", [True, False])
async def test_fua_is_the_drivers_or_a_flush_after_the_write(graph, able):
    disk = add_memory(graph, "disk")
    disk.write_flags = F.FUA if able else F.NONE
    edge = hold(graph, disk.node)
    await write(edge, 0, b"x" * 10, F.FUA)
    expected = [("write", 0, 10, F.FUA)] if able else [("write", 0, 10, 0), ("flush", 0, 0, 0)]
    assert disk.seen() == expected


async def test_fua_of_zeroes_written_the_slow_way_is_one_of_writes(graph):
    disk = add_memory(graph, "disk", bytes(3 << 20))
    disk.fast_zeroes = False
    disk.write_flags = F.FUA
    edge = hold(graph, disk.node)
    await pipeline.pwrite_zeroes(edge, 5, (2 << 20) + 7, F.FUA)
    assert disk.seen() == [
        ("zero", 5, (2 << 20) + 7, 0),
        ("write", 5, 1 << 20, F.FUA),
        ("write", 5 + (1 << 20), 1 << 20, F.FUA),
        ("write", 5 + (2 << 20), 7, F.FUA),
    ]


async def test_fua_of_zeroes_is_a_flush_where_the_driver_does_not_know_it(graph):
    disk = add_memory(graph, "disk", alignment=512)
    edge = hold(graph, disk.node)
    await pipeline.pwrite_zeroes(edge, 512, 1024, F.FUA)
    assert [call[0] for call in disk.seen()] == ["zero", "flush"]
    await pipeline.pwrite_zeroes(edge, 100, 10, F.FUA)
    assert [call[0] for call in disk.seen()] == ["read", "write", "flush"]


async def test_zeroes_without_fallback_fail_rather_than_being_written(graph):
    disk = add_memory(graph, "disk", b"x" * SIZE, alignment=512)
    edge = hold(graph, disk.node)
    # The driver has a fast way but can't promise not to fall back itself.
    with pytest.raises(OSError, match="not supported") as caught:
        await pipeline.pwrite_zeroes(edge, 0, 512, F.NO_FALLBACK)
    assert caught.value.errno == errno.ENOTSUP
    disk.zero_flags = F.NO_FALLBACK
    await pipeline.pwrite_zeroes(edge, 0, 512, F.NO_FALLBACK)
    with pytest.raises(OSError, match="not supported"):
        await pipeline.pwrite_zeroes(edge, 600, 1024, F.NO_FALLBACK)
    disk.fast_zeroes = False
    with pytest.raises(OSError, match="not supported"):
        await pipeline.pwrite_zeroes(edge, 1024, 512, F.NO_FALLBACK)
    assert disk.seen("write") == []
    assert disk.node.in_flight == 0


async def test_error_of_a_fast_zero_is_not_papered_over_by_writing(graph):
    disk = add_memory(graph, "disk")
    disk.errors = {"zero": errno.ENOSPC}
    with pytest.raises(OSError, match="No space"):
        await pipeline.pwrite_zeroes(hold(graph, disk.node), 0, 512)
    assert disk.seen("write") == []


@pytest.mark.parametrize("discard", ["unmap", "ignore"])
async def test_zeroes_of_a_node_above_may_unmap_only_where_the_node_does(graph, discard):
    disk = add_memory(graph, "disk", discard=discard)
    disk.zero_flags = F.MAY_UNMAP
    top = add_layer(graph, "top", disk.node, [])
    hold(graph, top)
    edge = top.children["file"]
    await pipeline.pwrite_zeroes(edge, 0, 512, F.MAY_UNMAP)
    unmap = discard == "unmap"
    assert disk.seen("zero") == [("zero", 0, 512, F.MAY_UNMAP if unmap else 0)]
    await pipeline.pdiscard(edge, 0, 512)
    assert bool(disk.seen("discard")) == unmap


@pytest.mark.parametrize("discard", ["unmap", "ignore"])
async def test_zeroes_of_a_user_may_unmap_in_any_case(graph, discard):
    disk = add_memory(graph, "disk", discard=discard)
    disk.zero_flags = F.MAY_UNMAP
    await pipeline.pwrite_zeroes(hold(graph, disk.node), 0, 512, F.MAY_UNMAP)
    assert disk.seen("zero") == [("zero", 0, 512, F.MAY_UNMAP)]


@pytest.mark.parametrize("length", [1, 511, 65536, 65537, 200_000])
def test_is_zero_sees_every_byte(length):
    data = bytearray(length)
    assert zeroes.is_zero(memoryview(data))
    for at in {0, length // 2, length - 1}:
        data[at] = 1
        assert not zeroes.is_zero(memoryview(data))
        data[at] = 0


async def test_written_zeroes_are_detected(graph):
    disk = add_memory(graph, "disk", detect_zeroes="on", discard="unmap")
    disk.zero_flags = F.MAY_UNMAP
    edge = hold(graph, disk.node)
    await write(edge, 0, bytes(1000))
    await write(edge, 0, bytes(999) + b"x")
    await write(edge, 0, b"")
    assert [call[0] for call in disk.seen()] == ["zero", "write", "write"]
    disk = add_memory(graph, "other", detect_zeroes="unmap", discard="unmap")
    disk.zero_flags = F.MAY_UNMAP
    await write(hold(graph, disk.node), 0, bytes(1000))
    assert disk.seen() == [("zero", 0, 1000, F.MAY_UNMAP)]


# -- dirty bits ----------------------------------------------------------------------------


async def test_failed_changes_leave_dirty_bits(graph):
    disk = add_memory(graph, "disk", discard="unmap")
    bitmap = DirtyBitmap(SIZE, 512)
    disabled = DirtyBitmap(SIZE, 512, enabled=False)
    disk.node.bitmaps += [bitmap, disabled]
    disk.errors = dict.fromkeys(("write", "zero", "discard"), errno.EIO)
    edge = hold(graph, disk.node)
    for request in (
        write(edge, 0, b"x"),
        pipeline.pwrite_zeroes(edge, 1024, 1),
        pipeline.pdiscard(edge, 2048, 1),
    ):
        with pytest.raises(OSError, match="Input/output"):
            await request
    assert list(bitmap.bits.areas()) == [(0, 512), (1024, 512), (2048, 512)]
    assert disabled.count == 0


async def test_discard_that_is_not_supported_succeeds(graph):
    disk = add_memory(graph, "disk", discard="unmap")
    disk.errors = {"discard": errno.ENOTSUP}
    await pipeline.pdiscard(hold(graph, disk.node), 0, 512)
    assert disk.seen() == [("discard", 0, 512, 0)]


async def test_dirty_bits_are_set_when_the_write_has_ended_not_before(graph):
    disk = add_memory(graph, "disk")
    disk.node.bitmaps.append(bitmap := DirtyBitmap(SIZE, 512))
    disk.pause = barrier = Barrier()
    task = asyncio.ensure_future(write(hold(graph, disk.node), 0, b"x"))
    await settle()
    assert bitmap.count == 0
    barrier.release()
    await task
    assert bitmap.count == 512


# -- flushes -------------------------------------------------------------------------------


async def test_flush_without_a_write_since_the_last_one_reaches_nothing(graph):
    disk = add_memory(graph, "disk")
    edge = hold(graph, disk.node)
    await pipeline.flush(edge)
    assert disk.seen() == []
    await write(edge, 0, b"x")
    await pipeline.flush(edge)
    await pipeline.flush(edge)
    assert len(disk.seen("flush")) == 1


async def test_write_during_a_flush_is_not_considered_flushed(graph):
    disk = add_memory(graph, "disk")
    edge = hold(graph, disk.node)
    await write(edge, 0, b"x")
    disk.pause = barrier = Barrier("flush")
    flush = asyncio.ensure_future(pipeline.flush(edge))
    await settle()
    await write(edge, 0, b"y")
    barrier.release()
    await flush
    disk.calls.clear()
    await pipeline.flush(edge)
    assert len(disk.seen("flush")) == 1


async def test_failed_flush_is_tried_again(graph):
    disk = add_memory(graph, "disk")
    edge = hold(graph, disk.node)
    await write(edge, 0, b"x")
    disk.errors = {"flush": errno.EIO}
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            await pipeline.flush(edge)
    assert len(disk.seen("flush")) == 2
    disk.errors.clear()
    await pipeline.flush(edge)
    assert disk.node.in_flight == 0


async def test_flush_after_a_failed_write_reaches_the_driver(graph):
    disk = add_memory(graph, "disk")
    edge = hold(graph, disk.node)
    disk.errors = {"write": errno.EIO}
    with pytest.raises(OSError, match="Input/output"):
        await write(edge, 0, b"x")
    await pipeline.flush(edge)
    assert len(disk.seen("flush")) == 1


async def test_node_that_ignores_flushes_never_flushes(graph):
    disk = add_memory(graph, "disk", cache=BlockdevCacheOptions(no_flush=True))
    edge = hold(graph, disk.node)
    await write(edge, 0, b"x", F.FUA)
    await pipeline.flush(edge)
    assert disk.seen("flush") == []

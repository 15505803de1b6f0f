"""The door to a driver: order, ranges, alignment, flags, dirty bits, flushes, cancellation."""

import asyncio
import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.base.workers import Workers
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import pipeline
from qmpfleece.block.driver import BlockDriver, ReqFlags
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Perm, Role
from qmpfleece.qapi.blockdev import BlockdevCacheOptions, BlockdevOptions
from tests.tools.memory import Barrier, add_memory, hold, settle

SIZE = 64 * 1024
F = ReqFlags


def pattern(length, seed=1):
    return random.Random(seed).randbytes(length)


async def read(edge, offset, length):
    buf = bytearray(length)
    await pipeline.pread(edge, offset, memoryview(buf))
    return bytes(buf)


def write(edge, offset, data, flags=0):
    return pipeline.pwrite(edge, offset, memoryview(data), flags)


# -- layers ---------------------------------------------------------------------------------


class Layer(BlockDriver[BlockdevOptions]):
    """A filter that writes down what passes."""

    is_filter = True
    driver_name = "layer"
    write_flags = F.FUA
    zero_flags = F.FUA | F.MAY_UNMAP | F.NO_FALLBACK

    log = None

    def _note(self, verb):
        self.log.append(f"{self.node.name} {verb}")
        return self.node.children["file"]

    def pread(self, offset, buf):
        return pipeline.pread(self._note("read"), offset, buf)

    def pwrite(self, offset, buf, flags):
        return pipeline.pwrite(self._note("write"), offset, buf, flags)

    def pwrite_zeroes(self, offset, length, flags):
        return pipeline.pwrite_zeroes(self._note("zero"), offset, length, flags)

    def pdiscard(self, offset, length):
        return pipeline.pdiscard(self._note("discard"), offset, length)

    async def flush(self):
        self._note("flush")

    def truncate(self, length):
        return pipeline.truncate(self._note("truncate"), length)


def add_layer(graph, name, below, log):
    options = BlockdevOptions(driver="layer", node_name=name, discard="unmap")
    node = Node(name, options, NodeOptions(options))
    node.driver = Layer(node, options)
    node.driver.log = log
    node.length = below.length
    node.monitor_owned = True
    graph._nodes[name] = node
    graph.attach_child(node, "file", Role.FILTERED | Role.PRIMARY, below)
    return node


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


# -- ranges, permissions --------------------------------------------------------------------

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


async def test_write_without_the_permission_is_a_bug(graph):
    disk = add_memory(graph, "disk")
    edge = hold(graph, disk.node, Perm.CONSISTENT_READ)
    with pytest.raises(AssertionError, match="without the permission"):
        await write(edge, 0, b"x")
    with pytest.raises(AssertionError, match="without the permission"):
        await pipeline.truncate(edge, 0)


# -- growing --------------------------------------------------------------------------------


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


# -- alignment ------------------------------------------------------------------------------


@pytest.mark.parametrize("alignment", [512, 4096])
@pytest.mark.parametrize("size", [SIZE, SIZE - 512])
async def test_unaligned_requests_reach_the_driver_as_whole_blocks(graph, alignment, size):
    disk = add_memory(graph, "disk", pattern(size), alignment=alignment, discard="unmap")
    edge = hold(graph, disk.node, Perm.CONSISTENT_READ | Perm.WRITE)
    model = bytearray(pattern(size))
    dice = random.Random(alignment)
    for number in range(200):
        offset = dice.randrange(size)
        length = dice.randrange(min(3 * alignment, size - offset) + 1)
        match number % 3:
            case 0:
                assert await read(edge, offset, length) == model[offset : offset + length]
            case 1:
                data = dice.randbytes(length)
                model[offset : offset + length] = data
                await write(edge, offset, data, dice.choice([0, F.FUA]))
            case 2:
                model[offset : offset + length] = bytes(length)
                await pipeline.pwrite_zeroes(edge, offset, length)
        assert disk.data[:size] == model


async def test_edges_are_read_only_where_a_write_leaves_part_of_a_block(graph):
    disk = add_memory(graph, "disk", alignment=512)
    edge = hold(graph, disk.node)
    cases = {
        (0, 1024): [("write", 0, 1024)],
        (100, 10): [("read", 0, 512), ("write", 0, 512)],
        (0, 10): [("read", 0, 512), ("write", 0, 512)],
        (100, 1000): [("read", 0, 512), ("read", 1024, 512), ("write", 0, 1536)],
        (100, 412): [("read", 0, 512), ("write", 0, 512)],
        (100, 924): [("read", 0, 512), ("write", 0, 1024)],
        (512, 600): [("read", 1024, 512), ("write", 512, 1024)],
    }
    for (offset, length), expected in cases.items():
        await write(edge, offset, bytes(length))
        assert [call[:3] for call in disk.seen()] == expected


async def test_empty_unaligned_write_touches_nothing(graph):
    disk = add_memory(graph, "disk", alignment=512)
    edge = hold(graph, disk.node)
    await write(edge, 100, b"")
    await pipeline.pwrite_zeroes(edge, 100, 0)
    assert await read(edge, 100, 0) == b""
    assert not disk.seen("write", "zero")


async def test_discard_leaves_partial_blocks_alone(graph):
    disk = add_memory(graph, "disk", b"x" * SIZE, alignment=4096, discard="unmap")
    edge = hold(graph, disk.node)
    await pipeline.pdiscard(edge, 100, 4000)
    await pipeline.pdiscard(edge, 1, 12287)
    assert disk.seen() == [("discard", 4096, 8192, 0)]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([512, 4096]), st.sampled_from(["memory", "small"]))
def test_overlapping_unaligned_writes_lose_no_update(data, alignment, size):
    """Writers own single bytes that interleave in the same blocks; none may lose its own."""
    length = 4 * alignment if size == "memory" else alignment
    seed = data.draw(st.integers(0, 1 << 30))
    spans = data.draw(
        st.lists(
            st.tuples(st.integers(0, length - 1), st.integers(1, 2 * alignment)),
            min_size=2,
            max_size=8,
        )
    )

    async def main():
        workers = Workers()
        graph = Graph(workers)
        disk = add_memory(graph, "disk", bytes(length), alignment=alignment)
        edge = hold(graph, disk.node, Perm.CONSISTENT_READ | Perm.WRITE)
        dice = random.Random(seed)

        async def pause(*_: object):
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)

        disk.pause = pause
        owner = [None] * length
        requests = []
        for number, (start, wish) in enumerate(spans, 1):
            offset, span = start, min(wish, length - start)
            # A whole-block write in between, so that aligned and unaligned ones meet.
            if number % 3 == 0:
                offset, span = start - start % alignment, alignment
            for at in range(offset, offset + span):
                owner[at] = number if owner[at] is None else 0  # 0: nobody knows
            if number % 4 == 0:
                requests.append(pipeline.pwrite_zeroes(edge, offset, span))
            else:
                requests.append(write(edge, offset, bytes([number]) * span))
        await asyncio.gather(*requests)
        for at, number in enumerate(owner):
            if number is None:
                assert disk.data[at] == 0
            elif number:
                assert disk.data[at] == (0 if number % 4 == 0 else number)
        assert disk.node.in_flight == 0
        assert not disk.node.tracked
        assert not disk.node.serialising

    asyncio.run(main())


async def test_aligned_write_waits_for_an_unaligned_one_that_it_overlaps(graph):
    disk = add_memory(graph, "disk", alignment=512)
    edge = hold(graph, disk.node)
    disk.pause = barrier = Barrier("read")
    first = asyncio.ensure_future(write(edge, 10, b"a"))
    await settle()
    second = asyncio.ensure_future(write(edge, 0, b"b" * 512))
    apart = asyncio.ensure_future(write(edge, 512, b"c" * 512))
    await settle()
    assert [call[:2] for call in disk.seen()] == [("read", 0), ("write", 512)]
    assert apart.done()
    barrier.release()
    await asyncio.gather(first, second)
    assert disk.data[:512] == b"b" * 512


async def test_serialising_write_waits_for_overlapping_ones_and_holds_back_later_ones(graph):
    disk = add_memory(graph, "disk")
    disk.node.tracks = True
    edge = hold(graph, disk.node)
    disk.pause = barrier = Barrier()
    requests = [
        asyncio.ensure_future(request)
        for request in (
            write(edge, 0, b"1" * 100),
            write(edge, 50, b"2" * 100, F.SERIALISING),
        )
    ]
    await settle()
    assert [entry[:2] for entry in barrier.waiting] == [("write", 0)]
    barrier.go()
    await settle()
    assert [entry[:2] for entry in barrier.waiting] == [("write", 50)]
    requests.append(asyncio.ensure_future(write(edge, 100, b"3" * 100)))
    await settle()
    assert [entry[:2] for entry in barrier.waiting] == [("write", 50)]
    barrier.release()
    await asyncio.gather(*requests)
    assert disk.data[:200] == b"1" * 50 + b"2" * 50 + b"3" * 100


async def test_serialising_write_holds_back_later_ones_on_a_node_that_tracked_nothing(graph):
    disk = add_memory(graph, "disk")
    edge = hold(graph, disk.node)
    disk.pause = barrier = Barrier()
    first = asyncio.ensure_future(pipeline.pwrite_zeroes(edge, 0, 100, F.SERIALISING))
    await settle()
    second = asyncio.ensure_future(write(edge, 50, b"2" * 100))
    await settle()
    assert [entry[0] for entry in barrier.waiting] == ["zero"]
    barrier.release()
    await asyncio.gather(first, second)
    assert disk.data[50:150] == b"2" * 100


# -- FUA, zeroes ----------------------------------------------------------------------------


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
    assert pipeline.is_zero(memoryview(data))
    for at in {0, length // 2, length - 1}:
        data[at] = 1
        assert not pipeline.is_zero(memoryview(data))
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


# -- dirty bits -----------------------------------------------------------------------------


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


# -- flushes --------------------------------------------------------------------------------


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


# -- cancellation, errors -------------------------------------------------------------------

REQUESTS = {
    "read": lambda edge: read(edge, 100, 1000),
    "aligned read": lambda edge: read(edge, 0, 1024),
    "write": lambda edge: write(edge, 100, b"x" * 1000, F.FUA),
    "aligned write": lambda edge: write(edge, 0, b"x" * 1024, F.FUA),
    "zeroes": lambda edge: pipeline.pwrite_zeroes(edge, 100, 3000, F.FUA),
    "discard": lambda edge: pipeline.pdiscard(edge, 0, 4096),
    "flush": pipeline.flush,
    "truncate": lambda edge: pipeline.truncate(edge, 4096),
}


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_counts_are_right_wherever_a_request_ends(graph, request_name, how):
    """Cancel at, or fail, the first driver call, the second, and so on until none is left."""
    for stop_at in range(10):
        disk = add_memory(graph, f"disk{stop_at}", alignment=512, discard="unmap")
        edge = hold(graph, disk.node)
        disk.node.write_gen += 1
        calls = 0
        stuck = asyncio.Event()

        async def pause(*_: object, stop_at=stop_at, stuck=stuck):
            nonlocal calls
            calls += 1
            if calls == stop_at + 1:
                if how == "failed":
                    raise OSError(errno.EIO, "injected")
                stuck.set()
                await asyncio.get_running_loop().create_future()

        disk.pause = pause
        task = asyncio.ensure_future(REQUESTS[request_name](edge))
        await settle()
        if how == "cancelled" and stuck.is_set():
            assert disk.node.in_flight == 1
            task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        assert disk.node.in_flight == 0
        assert not disk.node.tracked
        assert not disk.node.serialising
        if not isinstance(done, BaseException):
            assert stop_at > 0
            return
        assert isinstance(done, asyncio.CancelledError if how == "cancelled" else OSError)
    pytest.fail("the request never ended by itself")


async def test_cancelled_while_waiting_for_a_serialised_write(graph):
    disk = add_memory(graph, "disk", alignment=512)
    edge = hold(graph, disk.node)
    disk.pause = barrier = Barrier("read")
    first = asyncio.ensure_future(write(edge, 10, b"a"))
    waiting = [
        asyncio.ensure_future(request)
        for request in (
            write(edge, 20, b"b"),
            write(edge, 0, bytes(512)),
            pipeline.pwrite_zeroes(edge, 0, 512),
        )
    ]
    await settle()
    assert disk.node.in_flight == 4
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert disk.node.in_flight == 1
    barrier.release()
    await first
    assert disk.data[10:11] == b"a"
    assert disk.node.in_flight == len(disk.node.tracked) == len(disk.node.serialising) == 0

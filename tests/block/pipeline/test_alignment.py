"""Unaligned requests, and those that nothing may overlap."""

import asyncio
import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.base.workers import Workers
from qmpfleece.block import pipeline
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from tests.block.pipeline.requests import SIZE, F, pattern, read, write
from tests.tools.memory import Barrier, add_memory, hold
from tests.tools.until import settle


@pytest.mark.parametrize("alignment", [512, 4096])
@pytest.mark.parametrize("size", [SIZE, SIZE - 512])
async def test_unaligned_requests_reach_the_driver_as_whole_blocks(graph, alignment, size):
    disk = add_memory(graph, "disk", pattern(size), alignment=alignment, discard="unmap")
    edge = hold(graph, disk.node, Perm.CONSISTENT_READ | Perm.WRITE | Perm.RESIZE)
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


async def test_discard_leaves_parts_of_blocks_to_the_driver_apart_from_whole_ones(graph):
    disk = add_memory(graph, "disk", b"x" * SIZE, alignment=4096, discard="unmap")
    edge = hold(graph, disk.node)
    disk.errors["discard"] = errno.ENOTSUP
    for offset, length, expected in (
        (100, 3000, [(100, 3000)]),
        (100, 4000, [(100, 3996), (4096, 4)]),
        (1, 12287, [(1, 4095), (4096, 8192)]),
        (1, 12288, [(1, 4095), (4096, 8192), (12288, 1)]),
        (4096, 8193, [(4096, 8192), (12288, 1)]),
        (8192, 1, [(8192, 1)]),
    ):
        await pipeline.pdiscard(edge, offset, length)
        assert [call[1:3] for call in disk.seen("discard")] == expected


@settings(max_examples=60)
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


async def test_compressed_write_of_zeroes_waits_for_overlapping_ones(graph):
    disk = add_memory(graph, "disk", detect_zeroes="on")
    disk.node.tracks = True
    edge = hold(graph, disk.node)
    disk.pause = barrier = Barrier()
    first = asyncio.ensure_future(write(edge, 0, b"1" * 512))
    second = asyncio.ensure_future(pipeline.pwrite_compressed(edge, 0, memoryview(bytes(512))))
    await settle()
    assert [entry[:2] for entry in barrier.waiting] == [("write", 0)]
    barrier.release()
    await asyncio.gather(first, second)
    assert disk.data[:512] == bytes(512)


@pytest.mark.parametrize(("offset", "length"), [(1000, 200_000), (1000, 2_000_000)])
async def test_parts_of_blocks_of_any_size_are_zeroed(graph, offset, length):
    size = 4 << 20
    disk = add_memory(graph, "disk", b"x" * size, alignment=1 << 20)
    await pipeline.pwrite_zeroes(hold(graph, disk.node), offset, length)
    assert disk.data == b"x" * offset + bytes(length) + b"x" * (size - offset - length)

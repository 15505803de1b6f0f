"""Block status through layers; the layers are memory disks with holes."""

import asyncio
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.base.workers import Workers
from qmpfleece.block import status
from qmpfleece.block.driver import Status
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Role
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.memory import add_memory

SECTOR = 512
A = Status.ALLOCATED


def add_layer(graph, name, sectors, below=None):
    """Add a disk that has data where ``sectors`` is true, and a backing file."""
    disk = add_memory(graph, name, bytes(len(sectors) * SECTOR))
    disk.allocated.clear()
    for number, full in enumerate(sectors):
        if full:
            disk.allocated.set(number * SECTOR, 1)
    disk.hole = 0 if below is not None else Status.ZERO | A
    if below is not None:
        graph.attach_child(disk.node, "backing", Role.COW, below)
    return disk


def expand(extents):
    """Return the flags of each sector."""
    return [e.flags for e in extents for _ in range(e.length // SECTOR)]


async def test_status_is_cut_at_the_end_of_the_node(graph):
    node = add_memory(graph, "n", bytes(1024)).node
    assert sum(e.length for e in await status.block_status(node, 512, 1 << 40, 9)) == 512
    assert await status.block_status(node, 0, 0, 9) == []
    assert node.in_flight == 0


async def test_status_behind_the_end_is_an_error(graph):
    """Or who has not heard of the end would ask for ever."""
    node = add_memory(graph, "n", bytes(1024)).node
    with pytest.raises(OSError, match="Input/output") as failed:
        await status.block_status(node, 1024, 512, 9)
    assert failed.value.errno == errno.EIO
    assert node.in_flight == 0


async def test_failed_status_leaves_the_count_right(graph):
    disk = add_memory(graph, "n")

    async def fail(*_: object):
        raise OSError(5, "broken")

    disk.pause = fail
    for walk in (status.block_status, status.status_above, status.allocation_depth):
        with pytest.raises(OSError, match="broken"):
            await walk(disk.node, 0, 512, 1)
    assert disk.node.in_flight == 0


async def test_filters_are_layers_of_what_they_do_not_have_themselves(graph):
    base = add_layer(graph, "base", [1, 1, 0, 0])
    top = add_layer(graph, "top", [1, 0, 0, 0], base.node)
    filter_ = add_memory(graph, "filter", bytes(2048))
    filter_.is_filter = True
    graph.attach_child(filter_.node, "file", Role.FILTERED, top.node)
    filter_.block_status = lambda *span: status.block_status(top.node, *span)
    assert status.skip_filters(filter_.node) is top.node
    assert await status.allocation_depth(filter_.node, 0, 2048, 9) == [
        (512, 1),
        (512, 3),
        (1024, 3),
    ]
    extents = await status.status_above(filter_.node, 0, 2048, 9)
    assert [(e.length, e.node.name) for e in extents] == [(512, "top"), (512, "base"),
                                                          (1024, "base")]  # fmt: skip


async def test_raw_shows_backing_files_of_its_file_as_data_not_as_zeroes(graph):
    base = add_layer(graph, "base", [1, 1, 0, 0])
    add_layer(graph, "top", [1, 0, 0, 0], base.node)
    raw = await graph.add(validate_blockdev({"driver": "raw", "node-name": "r", "file": "top"}))
    extents = await status.status_above(raw, 0, 2048, 9)
    assert expand(extents) == [Status.DATA | A] * 2 + [Status.ZERO | A] * 2
    assert await status.allocation_depth(raw, 0, 2048, 9) == [(512, 1), (512, 1), (1024, 1)]


async def test_raw_shows_zeroes_of_its_file_as_zeroes_though_no_layer_has_them(graph):
    top = add_layer(graph, "top", [1, 0])
    top.hole = 0  # the walk says so: there could be a backing file, and is none
    raw = await graph.add(validate_blockdev({"driver": "raw", "node-name": "r", "file": "top"}))
    extents = await status.status_above(raw, 0, 1024, 9)
    assert expand(extents) == [Status.DATA | A, Status.ZERO]
    assert await status.allocation_depth(raw, 0, 1024, 9) == [(512, 1), (512, 0)]


async def test_what_lies_past_a_shorter_backing_file_is_zero(graph):
    base = add_layer(graph, "base", [1])
    top = add_layer(graph, "top", [0, 0, 1], base.node)
    extents = await status.status_above(top.node, 0, 1536, 9)
    assert expand(extents) == [Status.DATA | A]
    extents = await status.status_above(top.node, 512, 1024, 9)
    assert expand(extents) == [Status.ZERO, Status.DATA | A]
    assert await status.allocation_depth(top.node, 0, 1536, 9) == [(512, 2), (512, 2), (512, 1)]


layers = st.lists(st.lists(st.booleans(), min_size=1, max_size=10), min_size=1, max_size=4)


@settings(max_examples=100)
@given(layers, st.integers(0, 9), st.integers(1, 10), st.integers(1, 5))
def test_walk_finds_the_topmost_layer_that_has_the_data(layers, first, count, limit):
    """``layers[0]`` is the base; asked again and again, the answers cover the range."""

    def expected(sector):
        """Return the depth, and the status as it is read."""
        for depth, layer in enumerate(reversed(layers), 1):
            if sector >= len(layer):
                return depth, Status.ZERO  # past the end of a backing file
            if layer[sector]:
                return depth, Status.DATA | A
        # The base says of its holes that they are its own.
        return len(layers), Status.ZERO | A

    async def main():
        workers = Workers()
        graph = Graph(workers)
        node = None
        for number, sectors in enumerate(layers):
            node = add_layer(graph, f"n{number}", sectors, node).node
        end = min(first + count, len(layers[-1])) * SECTOR
        at, depths, flags = first * SECTOR, [], []
        while at < end:
            runs = await status.allocation_depth(node, at, end - at, limit)
            assert 1 <= len(runs) <= limit
            for run, depth in runs:
                assert run > 0
                depths += [depth] * (run // SECTOR)
                at += run
        at = first * SECTOR
        while at < end:
            extents = await status.status_above(node, at, end - at, limit)
            assert 1 <= len(extents) <= limit
            flags += expand(extents)
            at += sum(e.length for e in extents)
        assert at == max(end, first * SECTOR)
        sectors = range(first, end // SECTOR)
        assert depths == [expected(sector)[0] for sector in sectors]
        assert flags == [expected(sector)[1] for sector in sectors]
        for node in graph.nodes():
            assert node.in_flight == 0
        await graph.close()
        workers.close()

    asyncio.run(main())

import asyncio

import pytest

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.block import pipeline, status
from qmpfleece.block.driver import ReqFlags, Status
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.memory import hold


def add(graph, driver="null-co", **options: object):
    wire = {key.replace("_", "-"): value for key, value in options.items()}
    return graph.add(validate_blockdev({"driver": driver, "node-name": "n", **wire}))


@pytest.mark.parametrize("driver", ["null-co", "null-aio"])
async def test_everything_is_taken_and_zeroes_are_given(graph, driver):
    node = await add(graph, driver)
    assert (node.length, node.exact_filename) == (1 << 30, f"{driver}://")
    edge = hold(graph, node)
    await pipeline.pwrite(edge, 10, memoryview(b"data"), ReqFlags.FUA)
    await pipeline.pwrite_zeroes(edge, 0, 512)
    with pytest.raises(BlockError, match="not supported"):
        await pipeline.pwrite_zeroes(edge, 0, 512, ReqFlags.NO_FALLBACK)
    await pipeline.flush(edge)
    buf = bytearray(b"\xff" * 100)
    await pipeline.pread(edge, 0, memoryview(buf))
    assert buf == bytes(100)  # not what another client had there
    assert await node.driver.allocated_size() == 0


@pytest.mark.parametrize(("size", "length"), [(0, 0), (1, 512), (512, 512), (1000, 1024)])
async def test_size_is_rounded_up_to_sectors(graph, size, length):
    node = await add(graph, size=size)
    assert (node.length, node.exact_filename) == (length, "")


@pytest.mark.parametrize(
    ("reads_zeroes", "flags"), [(True, Status.ZERO | Status.ALLOCATED), (None, 0)]
)
@pytest.mark.parametrize("ask", [status.block_status, status.status_above])
async def test_there_are_zeroes_if_it_is_told_so_and_else_nothing(graph, ask, reads_zeroes, flags):
    given = {} if reads_zeroes is None else {"read_zeroes": reads_zeroes}
    node = await add(graph, size=1024, **given)
    found = await ask(node, 0, 1024, 5)
    assert [(e.length, e.flags & ~Status.OFFSET_VALID) for e in found] == [(1024, flags)]


async def test_requests_take_their_latency_without_blocking_the_loop(graph):
    edge = hold(graph, await add(graph, latency_ns=1_000_000))
    requests = [asyncio.ensure_future(pipeline.flush(edge))]
    edge.node.write_gen += 1
    requests += [
        asyncio.ensure_future(request)
        for request in (
            pipeline.pread(edge, 0, memoryview(bytearray(1))),
            pipeline.pwrite(edge, 0, memoryview(b"x")),
            pipeline.pwrite_zeroes(edge, 0, 1),
        )
    ]
    await asyncio.sleep(0)
    assert not any(request.done() for request in requests)
    await asyncio.gather(*requests)


@pytest.mark.parametrize("size", [-1, -512])
async def test_negative_size_is_refused(graph, size):
    with pytest.raises(QmpError, match=r"^Parameter 'size' expects a non-negative number below"):
        await add(graph, size=size)


async def test_latency_beyond_63_bits_is_refused(graph):
    with pytest.raises(QmpError, match="latency-ns is invalid"):
        await add(graph, latency_ns=1 << 63)

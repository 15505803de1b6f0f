"""Requests that fail or are cancelled."""

import asyncio
import errno

import pytest

from qmpfleece.block import pipeline
from tests.block.pipeline.requests import F, read, write
from tests.tools.memory import Barrier, add_memory, hold
from tests.tools.until import settle

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

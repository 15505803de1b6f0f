"""Sources that get shorter while they are copied."""

import asyncio
import errno

import pytest

from qmpfleece.base.units import MIB
from tests.tools.fleecing import pattern
from tests.tools.until import settle

CLUSTER = 65536
DATA = pattern(8 * MIB)


async def test_source_is_cut_when_what_was_being_copied_there_has_been(bench):
    b = bench(DATA)
    b.target.stop("write")
    task = await b.start(0, len(DATA), workers=2)
    b.target.waiting[0].go()
    await settle()
    assert [request.offset for request in b.target.waiting] == [MIB, 2 * MIB]
    cut = asyncio.create_task(b.engine.truncate_source(MIB))
    await settle()
    late = await b.start(6 * MIB, 1)
    for request in list(b.target.waiting):
        await settle()
        assert not cut.done()
        assert not late.done()
        request.go()
    await asyncio.gather(cut, task, late)
    assert b.source.node.length == b.engine.length == MIB
    assert b.target.seen("write") == [(n * MIB, MIB) for n in range(3)]
    assert b.engine.remaining == 0


@pytest.mark.parametrize("whole", [MIB, MIB + 512, MIB - 512])
async def test_everything_is_copied_if_the_source_refuses_to_be_cut(bench, whole):
    b = bench(DATA)
    first = whole - whole % CLUSTER
    b.source.stop("truncate")
    b.source.errors["truncate"] = errno.ENOTSUP
    cut = asyncio.create_task(b.engine.truncate_source(whole))
    await settle()
    ranges = ((first - CLUSTER, 2 * CLUSTER), (0, len(DATA)), (4 * MIB, 1))
    tasks = [await b.start(*range_) for range_ in ranges]
    assert sorted(b.target.seen("write")) == [(0, first - CLUSTER), (first - CLUSTER, CLUSTER)]
    assert not any(task.done() for task in tasks)
    b.source.release()
    with pytest.raises(OSError, match="not supported"):
        await cut
    await asyncio.gather(*tasks)
    assert b.engine.length == len(DATA)
    assert b.target.data == DATA


async def test_cancelled_cut_leaves_everything_to_be_copied(bench):
    b = bench(DATA)
    b.target.stop("write")
    task = await b.start(0, len(DATA), workers=2)
    cut = asyncio.create_task(b.engine.truncate_source(MIB))
    await settle()
    cut.cancel()
    b.target.release()
    await task
    assert b.target.data == DATA


async def test_status_that_comes_when_the_source_has_been_cut_drops_nothing_behind_the_end(bench):
    b = bench(DATA)
    plain = b.source.block_status

    async def nothing_is_allocated(offset, length, limit):
        return [e._replace(flags=0) for e in await plain(offset, length, limit)]

    b.source.block_status = nothing_is_allocated
    b.source.stop("answer")
    dropping = asyncio.create_task(b.engine.drop_unallocated(0))
    await settle()
    b.source.stop()
    await b.engine.truncate_source(4 * MIB)
    b.source.release()
    assert await dropping == 4 * MIB
    assert b.engine.remaining == 0

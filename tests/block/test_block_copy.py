import asyncio
import errno
import gc

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import MIB
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import block_copy
from qmpfleece.block.copy_error import CopyError
from qmpfleece.block.copy_limits import cluster_size_for
from tests.tools.fleecing import CLUSTER, pattern
from tests.tools.gate import GateDisk
from tests.tools.until import settle

DATA = pattern(8 * MIB)


async def test_copy_takes_all_dirty_clusters_in_chunks_of_a_mebibyte(bench):
    b = bench(DATA)
    await b.engine.copy(0, len(DATA))
    assert b.target.data == DATA
    assert b.target.seen("write") == [(n * MIB, MIB) for n in range(8)]
    assert b.engine.remaining == 0
    assert sum(b.copied) == len(DATA)


async def test_cluster_larger_than_a_chunk_is_copied_whole_but_in_pieces(bench):
    b = bench(DATA[: 7 * MIB + 512], cluster_size=4 * MIB)
    await b.engine.copy(4 * MIB, 1)
    mebibytes = [(n * MIB, MIB) for n in range(4, 7)]
    assert b.target.seen("write") == [*mebibytes, (7 * MIB, 512)]
    assert b.target.data[4 * MIB :] == b.data[4 * MIB :]
    assert [*b.engine.bitmap.bits.areas()] == [(0, 4 * MIB)]


async def test_cluster_of_the_target_is_written_at_once(bench, monkeypatch):
    monkeypatch.setattr(GateDisk, "clusters", 2 * MIB)
    b = bench(DATA, cluster_size=4 * MIB)
    await b.engine.copy(0, 1)
    assert b.target.seen("write") == [(0, 2 * MIB), (2 * MIB, 2 * MIB)]


async def test_only_the_clusters_that_the_range_touches_are_copied(bench):
    b = bench(DATA)
    await b.engine.copy(CLUSTER - 1, 2)
    assert b.target.seen("write") == [(0, 2 * CLUSTER)]
    await b.engine.copy(0, 3 * CLUSTER)
    assert b.target.seen("write")[1:] == [(2 * CLUSTER, CLUSTER)]


async def test_runs_of_zeroes_are_not_read(bench):
    data = pattern(CLUSTER) + bytes(3 * CLUSTER) + pattern(CLUSTER) + bytes(4096)
    b = bench(data)
    b.target.data[:] = b"?" * len(data)
    await b.engine.copy(0, len(data))
    assert b.target.data == data
    assert b.source.seen("read") == [(0, CLUSTER), (4 * CLUSTER, CLUSTER)]
    assert b.target.seen("zero") == [(CLUSTER, 3 * CLUSTER), (5 * CLUSTER, 4096)]
    assert sum(b.copied) == 6 * CLUSTER


async def test_cluster_that_is_zero_only_in_part_is_read(bench):
    data = bytes(CLUSTER - 512) + pattern(512) + bytes(CLUSTER)
    b = bench(data)
    await b.engine.copy(0, len(data))
    assert b.target.data == data
    assert b.source.seen("read") == [(0, CLUSTER)]


async def test_source_that_does_not_tell_its_status_is_read_cluster_by_cluster(bench):
    b = bench(DATA[: 2 * CLUSTER])
    b.source.errors["status"] = errno.EIO
    await b.engine.copy(0, 2 * CLUSTER)
    assert b.target.data == b.data
    assert b.source.seen("read") == [(0, CLUSTER), (CLUSTER, CLUSTER)]


async def test_several_requests_are_in_flight_but_no_more_than_allowed(bench):
    b = bench(DATA)
    b.target.stop("write")
    task = await b.start(0, len(DATA), workers=3)
    assert len(b.target.waiting) == 3
    assert b.engine.remaining == len(DATA)
    b.target.waiting[1].go()
    await settle()
    assert len(b.target.waiting) == 3
    assert b.engine.remaining == len(DATA) - MIB
    b.target.release()
    await task
    assert b.target.data == DATA


async def test_few_bytes_of_data_but_many_requests_for_zeroes_are_in_flight(bench, monkeypatch):
    monkeypatch.setattr(block_copy, "MAX_FLYING", 2 * MIB)
    b = bench(DATA)
    b.target.stop("write")
    task = await b.start(0, len(DATA))
    assert len(b.target.waiting) == 2
    b.target.waiting[0].go()
    await settle()
    assert len(b.target.waiting) == 2
    b.target.release()
    await task
    b = bench(bytes(len(DATA)))
    b.target.stop("zero")
    task = await b.start(0, len(DATA))
    assert len(b.target.waiting) == len(DATA) // MIB > 2
    b.target.release()
    await task


async def test_no_more_requests_for_zeroes_are_in_flight_than_is_sensible(bench, monkeypatch):
    monkeypatch.setattr(block_copy, "MAX_REQUESTS", 3)
    b = bench(bytes(len(DATA)))
    b.target.stop("zero")
    task = await b.start(0, len(DATA), workers=2**31 - 1)
    assert len(b.target.waiting) == 3
    b.target.release()
    await task
    assert b.engine.remaining == 0


async def test_buffers_of_all_copies_are_bounded(bench, monkeypatch):
    monkeypatch.setattr(block_copy, "MAX_MEMORY", 2 * MIB)
    b = bench(DATA)
    b.source.stop("read")
    task = await b.start(0, len(DATA))
    assert len(b.source.waiting) == 2
    b.source.waiting[0].go()
    await settle()
    assert len(b.source.waiting) == 2
    b.source.release()
    await task
    assert b.target.data == DATA


@pytest.mark.parametrize(("verb", "side", "is_read"), [("read", 0, True), ("write", 1, False)])
async def test_failed_copy_makes_its_clusters_dirty_again(bench, verb, side, is_read):
    b = bench(DATA[:CLUSTER])
    (b.source, b.target)[side].errors[verb] = errno.EIO
    with pytest.raises(CopyError) as failure:
        await b.engine.copy(0, 1)
    assert (failure.value.errno, failure.value.is_read) == (errno.EIO, is_read)
    assert b.engine.bitmap.count == CLUSTER
    assert not b.engine.in_flight


async def test_failure_of_one_request_ends_the_copy_after_those_in_flight(bench):
    b = bench(DATA)
    b.target.stop("write")
    task = await b.start(0, len(DATA), workers=4)
    b.target.waiting[2].fail(errno.ENOSPC)
    await settle()
    assert not task.done()
    b.target.release()
    with pytest.raises(CopyError, match="No space left"):
        await task
    assert b.target.seen("write") == [(n * MIB, MIB) for n in range(4)]
    assert [*b.engine.bitmap.bits.areas()] == [(2 * MIB, MIB), (4 * MIB, 4 * MIB)]


async def test_waiting_copy_tries_again_what_another_one_could_not_copy(bench):
    b = bench(DATA[:CLUSTER])
    b.target.stop("write")
    first, second = await b.start(0, 1), await b.start(0, 1)
    assert len(b.target.waiting) == 1
    b.target.waiting[0].fail(errno.EIO)
    await settle()
    assert first.exception().errno == errno.EIO
    b.target.release()
    await second
    assert b.target.data == b.data


@pytest.mark.parametrize("verb", ["status", "read", "write"])
async def test_cancelled_copy_makes_everything_dirty_again(bench, verb):
    b = bench(DATA)
    (b.target if verb == "write" else b.source).stop(verb)
    task = await b.start(0, len(DATA), workers=3)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert not b.engine.in_flight
    assert b.engine.bitmap.count == len(DATA)
    assert not b.source.node.in_flight
    assert not b.target.node.in_flight


async def test_forgotten_clusters_are_not_copied_even_if_they_were_in_flight_and_failed(bench):
    b = bench(DATA[: 2 * CLUSTER])
    b.target.stop("write")
    copy = await b.start(0, 1)
    forget = asyncio.create_task(b.engine.forget(0, CLUSTER))
    await settle()
    assert not forget.done()
    b.target.waiting[0].fail(errno.EIO)
    await asyncio.gather(copy, forget, return_exceptions=True)
    assert [*b.engine.bitmap.bits.areas()] == [(CLUSTER, CLUSTER)]


async def test_what_lies_behind_the_disk_that_is_copied_is_forgotten_without_ado(bench):
    b = bench(DATA[: 2 * CLUSTER])
    await b.engine.forget(CLUSTER, 2 * CLUSTER)
    await b.engine.forget(3 * CLUSTER, CLUSTER)
    assert [*b.engine.bitmap.bits.areas()] == [(0, CLUSTER)]


async def test_what_the_top_layer_does_not_have_is_dropped_and_is_no_progress(bench):
    b = bench(DATA[: 2 * CLUSTER])
    b.engine.skip_unallocated = True
    plain = b.source.block_status

    async def second_half_only(offset, length, limit):
        extents = await plain(offset, min(length, CLUSTER), limit)
        return [e._replace(flags=0) if offset < CLUSTER else e for e in extents]

    b.source.block_status = second_half_only
    await b.engine.copy(0, 2 * CLUSTER)
    assert b.target.seen("write") == [(CLUSTER, CLUSTER)]
    assert b.copied == [0, CLUSTER]
    assert b.engine.remaining == 0


class Budget:
    """Lets some bytes pass and makes the rest wait for the test."""

    stopping = False

    def __init__(self) -> None:
        self.left = MIB
        self.more = asyncio.Event()

    def delay_s(self):
        return 0.0 if self.left > 0 else 1.0

    def account(self, length):
        self.left -= length

    async def pause(self, seconds):
        assert seconds == 1.0
        await self.more.wait()
        self.more.clear()
        self.left = MIB


async def test_throttled_copy_holds_no_clusters_while_it_pauses(bench):
    b = bench(DATA)
    budget = Budget()
    task = await b.start(0, 2 * MIB, throttle=budget)
    assert b.target.seen("write") == [(0, MIB)]
    await b.engine.copy(MIB, 1)  # a guest's copy is not held up
    assert b.target.seen("write") == [(0, MIB), (MIB, CLUSTER)]
    budget.more.set()
    await task
    assert b.target.data[: 2 * MIB] == DATA[: 2 * MIB]


async def test_throttled_copy_that_has_failed_begins_nothing_after_its_pause(bench):
    b = bench(DATA)
    budget = Budget()
    b.target.stop("write")
    task = await b.start(0, 4 * MIB, throttle=budget)
    b.target.waiting[0].fail(errno.EIO)
    await settle()
    b.target.stop()
    budget.more.set()
    await settle()
    budget.left = len(DATA)
    budget.more.set()
    with pytest.raises(CopyError, match="Input/output"):
        await task
    assert b.target.seen("write") == [(0, MIB)]
    assert b.engine.remaining == len(DATA)


async def test_throttled_copy_that_is_stopped_in_its_pause_asks_for_nothing_more(bench):
    mixed = (pattern(512) + bytes(512)) * (CLUSTER // 1024)  # all that is asked for at once
    b = bench(mixed * 4)
    budget = Budget()
    budget.left = CLUSTER
    task = await b.start(0, len(b.data), throttle=budget)
    assert b.target.seen("write") == [(0, CLUSTER)]
    await b.engine.copy(CLUSTER, 1)
    b.source.log.clear()
    budget.stopping = True
    budget.more.set()
    await task
    assert b.source.log == []
    assert b.engine.remaining == 2 * CLUSTER


class Halt:
    stopping = False


async def test_halted_copy_ends_after_what_is_in_flight(bench):
    b = bench(DATA)
    b.target.stop("write")
    halt = Halt()
    copying = b.engine.copy(0, 4 * MIB, halt=halt, workers=2)
    task = asyncio.create_task(copying)
    await settle()
    halt.stopping = True
    b.target.release()
    await task
    assert b.target.seen("write") == [(0, MIB), (MIB, MIB)]
    assert b.engine.remaining == len(DATA) - 2 * MIB


async def halted_at_its_next_turn(b):
    """Start to copy all; somebody who has one turn meanwhile halts it."""
    halt = Halt()
    task = asyncio.create_task(b.engine.copy(0, len(DATA), halt=halt))
    asyncio.get_running_loop().call_soon(setattr, halt, "stopping", True)
    await settle()
    b.target.release()
    await task


@pytest.mark.parametrize("stuck", [False, True])
async def test_others_have_their_turn_while_requests_end_at_once(bench, stuck):
    b = bench(DATA)
    b.target.stops = lambda verb, offset, _: stuck and not offset
    await halted_at_its_next_turn(b)
    assert b.target.seen("write")
    assert b.engine.remaining


async def test_others_have_their_turn_while_clusters_are_dropped(bench):
    b = bench(DATA)
    b.engine.skip_unallocated = True
    plain = b.source.block_status

    async def nothing_allocated(offset, length, limit):
        return [extent._replace(flags=0) for extent in await plain(offset, length, limit)]

    b.source.block_status = nothing_allocated
    await halted_at_its_next_turn(b)
    assert b.copied
    assert b.engine.remaining


async def test_given_bitmap_says_what_is_copied_at_first(bench):
    wanted = DirtyBitmap(len(DATA), 512, "w")
    wanted.mark(3 * MIB, 1)
    b = bench(DATA, bitmap=wanted)
    await b.engine.copy(0, len(DATA))
    assert b.target.seen("write") == [(3 * MIB, CLUSTER)]
    assert wanted.count == 512


async def test_cluster_size_is_the_largest_of_what_is_asked_for(bench):
    b = bench(DATA)
    assert cluster_size_for(b.target.node) == CLUSTER
    assert cluster_size_for(b.target.node, 4096) == CLUSTER
    assert cluster_size_for(b.target.node, MIB) == MIB
    b.target.clusters = 2 * MIB
    assert cluster_size_for(b.target.node, MIB) == 2 * MIB
    with pytest.raises(QmpError, match="power of 2"):
        cluster_size_for(b.target.node, 3)


async def test_copy_that_fails_twice_leaves_no_error_unseen(bench, caplog):
    b = bench(DATA)
    b.target.stop("write")
    task = await b.start(0, 3 * MIB)
    for request in tuple(b.target.waiting):
        request.fail(errno.EIO)
    with pytest.raises(CopyError):
        await task
    b.tasks.clear()
    del task
    gc.collect()
    assert caplog.records == []

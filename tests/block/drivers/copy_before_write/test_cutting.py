"""Requests of the backup client that are under way when the disk is cut through the filter."""

import asyncio

import pytest

from qmpfleece.base.units import MIB
from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from tests.tools.fleecing import Fleece, pattern
from tests.tools.until import settle

#: More clusters than fit into one word of a bitmap.
DATA = pattern(9 * MIB)


@pytest.fixture
async def large():
    """A fleecing scheme and what cuts its disk to one MiB."""
    scheme = Fleece(DATA)
    await scheme.start()
    resizer = Backend(scheme.graph, perm=Perm.RESIZE)
    resizer.attach(scheme.filter)

    async def cut(length=MIB):
        assert resizer.root is not None
        await pipeline.truncate(resizer.root, length)

    yield scheme, cut
    await resizer.detach()
    await scheme.close()


async def test_status_of_what_has_been_cut_off_meanwhile_is_not_told(large):
    fleece, cut = large
    fleece.disk.stop("answer")
    asking = [
        await fleece.started(fleece.client.block_status(offset, MIB, 9))
        for offset in (MIB // 2, 8 * MIB)
    ]
    await cut()
    fleece.disk.release()
    assert sum(extent.length for extent in await asking[0]) == MIB // 2
    with pytest.raises(OSError, match="Permission denied"):
        await asking[1]


async def test_discard_waits_for_a_job_that_copies_what_is_cut_off_meanwhile(large):
    fleece, cut = large
    fleece.temp.stop("write")
    copy = await fleece.started(fleece.cbw.copier.copy(8 * MIB, MIB))
    discard = await fleece.started(fleece.client.pdiscard(8 * MIB, MIB))
    cutting = fleece.run(cut())
    await settle()
    assert not discard.done()
    assert not cutting.done()
    fleece.temp.release()
    await asyncio.gather(copy, discard, cutting)
    assert fleece.counts() == {"access": MIB, "done": 0, "copy": MIB}


async def test_guest_s_write_to_what_is_being_cut_off_is_none_of_the_snapshot_s(large):
    fleece, cut = large
    fleece.disk.stop("truncate")
    cutting = fleece.run(cut())
    await settle()
    writing = fleece.write(8 * MIB, bytes(65536))
    await settle()
    assert not writing.done()
    fleece.disk.release()
    await cutting
    await writing  # the disk grows again: it may, as long as somebody resizes it
    assert fleece.counts()["done"] == 0


async def test_what_was_cut_off_does_not_come_back_when_the_disk_grows(large):
    fleece, cut = large
    await cut()
    await cut(9 * MIB)
    assert await fleece.read(0, MIB) == DATA[:MIB]
    with pytest.raises(OSError, match="Permission denied"):
        await fleece.read(MIB, 512)


async def test_snapshot_of_a_disk_that_has_only_grown_reaches_as_far(large):
    fleece, cut = large
    await cut(10 * MIB)
    assert fleece.cbw.snapshot.length == 10 * MIB

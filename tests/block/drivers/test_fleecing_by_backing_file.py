"""Fleecing the older way: the temporary image has the disk as its backing file."""

import pytest

from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.child import Child
from qmpfleece.block.driver import Status
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Perm, Role
from qmpfleece.qapi.blockdev import BlockdevOptions
from tests.tools.fleecing import CLUSTER, Fleece, pattern
from tests.tools.gate import BLOCK, GateDisk
from tests.tools.until import settle

SIZE = 4 * CLUSTER
DATA = pattern(SIZE)


class Overlay(GateDisk):
    """A disk that shows its child where nothing is written yet."""

    is_protocol = False

    async def pread(self, offset, buf):
        while buf:
            here, length = self.allocated.run(offset, len(buf))
            if here:
                await super().pread(offset, buf[:length])
            else:
                backing: Child = self.node.children["backing"]
                await pipeline.pread(backing, offset, buf[:length])
            offset += length
            buf = buf[length:]

    async def block_status(self, offset, length, limit):
        return [
            extent if extent.flags & Status.DATA else extent._replace(flags=0)
            for extent in await super().block_status(offset, length, limit)
        ]


@pytest.fixture
async def fleece():
    """The filter over the disk, copying to an overlay of the disk."""
    scheme = Fleece(DATA)
    given = BlockdevOptions(driver="gate", node_name="overlay", discard="unmap")
    node = Node("overlay", given, NodeOptions(given))
    node.driver = Overlay(node, given)
    node.driver.fill(bytes(SIZE))
    node.length = SIZE
    node.monitor_owned = True
    scheme.graph._nodes["overlay"] = node
    scheme.graph.attach_child(node, "backing", Role.COW, scheme.disk.node)
    await scheme.start(target="overlay")
    scheme.reader = Backend(scheme.graph)
    scheme.reader.attach(node)
    yield scheme
    for disk in (scheme.disk, node.driver):
        disk.release()
    await settle()
    await scheme.reader.detach()
    await scheme.client.detach()
    await scheme.guest.detach()
    await scheme.graph.close()
    scheme.graph.workers.close()


async def read(fleece, offset, length):
    buf = bytearray(length)
    await fleece.reader.pread(offset, memoryview(buf))
    return bytes(buf)


async def test_overlay_keeps_showing_the_disk_as_it_was(fleece):
    await fleece.write(CLUSTER + BLOCK, b"x" * CLUSTER)
    assert fleece.disk.data != DATA
    assert await read(fleece, 0, SIZE) == DATA


async def test_guest_write_waits_for_reads_on_their_way_through_the_overlay(fleece):
    fleece.disk.stop("read")
    reading = await fleece.started(read(fleece, 0, BLOCK))
    fleece.disk.stop()
    write = await fleece.started(fleece.guest.pwrite(0, memoryview(b"x" * BLOCK)))
    assert not write.done()
    fleece.disk.release()
    assert await reading == DATA[:BLOCK]
    await write
    assert await read(fleece, 0, BLOCK) == DATA[:BLOCK]


async def test_read_waits_for_the_copy_that_moves_its_cluster(fleece):
    overlay = fleece.graph.find("overlay").driver
    overlay.stop("write")
    write = await fleece.started(fleece.guest.pwrite(0, memoryview(b"x")))
    reading = await fleece.started(read(fleece, 0, BLOCK))
    assert not reading.done()
    overlay.release()
    assert await reading == DATA[:BLOCK]
    await write


async def test_guest_zeroes_wait_for_block_status_on_its_way_through_the_overlay(fleece):
    fleece.disk.stop("status")
    asking = await fleece.started(fleece.reader.block_status(0, SIZE, 64))
    fleece.disk.stop()
    write = await fleece.started(fleece.guest.pwrite_zeroes(0, CLUSTER))
    assert not write.done()
    fleece.disk.release()
    assert [(e.length, bool(e.flags & Status.ZERO)) for e in await asking] == [(SIZE, False)]
    await write
    extents = await fleece.reader.block_status(0, SIZE, 64)
    assert [(e.length, e.node.name, bool(e.flags & Status.ZERO)) for e in extents] == [
        (CLUSTER, "overlay", False),
        (SIZE - CLUSTER, "disk", False),
    ]


async def test_block_status_of_a_cluster_that_has_moved_meanwhile_is_asked_for_again(fleece):
    overlay = fleece.graph.find("overlay").driver
    await fleece.write(2 * CLUSTER, b"x")
    overlay.stop("answer")
    asking = await fleece.started(fleece.reader.block_status(0, SIZE, 64))
    overlay.stop()
    await fleece.guest.pwrite_zeroes(CLUSTER, CLUSTER)
    overlay.release()
    assert [(e.length, e.node.name, bool(e.flags & Status.ZERO)) for e in await asking] == [
        (CLUSTER, "disk", False)
    ]


async def test_block_status_waits_only_for_the_copy_that_moves_its_first_cluster(fleece):
    overlay = fleece.graph.find("overlay").driver
    overlay.stop("write")
    write = await fleece.started(fleece.guest.pwrite(CLUSTER, memoryview(b"x")))
    extents = await fleece.reader.block_status(0, SIZE, 64)
    assert [(e.length, e.node.name) for e in extents] == [(CLUSTER, "disk")]
    asking = await fleece.started(fleece.reader.block_status(CLUSTER, CLUSTER, 64))
    assert not asking.done()
    overlay.release()
    assert [(e.length, e.node.name) for e in await asking] == [(CLUSTER, "overlay")]
    await write


async def test_others_may_write_to_the_overlay_because_the_disk_is_below_it(fleece):
    writer = Backend(fleece.graph, perm=Perm.WRITE)
    writer.attach(fleece.graph.find("overlay"))
    await writer.detach()

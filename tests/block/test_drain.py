"""Drained sections: what they wait for, what they hold back, and in which order all goes on."""

import asyncio
import errno

import pytest

from qmpfleece.block.backend import Backend
from qmpfleece.block.drain import drained
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.memory import Barrier, add_memory
from tests.tools.until import settle

R, W = Perm.CONSISTENT_READ, Perm.WRITE


async def add_raw(graph, name, file):
    return await graph.add(validate_blockdev({"driver": "raw", "node-name": name, "file": file}))


def backend(graph, node, perm=R | W):
    user = Backend(graph, node.name, perm)
    user.attach(node)
    return user


class Section:
    """A drained section, entered in a task and left on command."""

    def __init__(self, *nodes: object) -> None:
        self.inside = asyncio.Event()
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(nodes))

    async def _run(self, nodes):
        async with drained(*nodes):
            self.inside.set()
            await self.leave.wait()

    async def end(self):
        self.leave.set()
        await self.task


@pytest.fixture
async def chain(graph):
    """A backend over raw over a disk whose calls stop."""
    disk = add_memory(graph, "disk", bytes(4096))
    raw = await add_raw(graph, "raw", "disk")
    disk.pause = Barrier()
    return disk, raw, backend(graph, raw)


async def test_section_waits_for_requests_of_the_node_and_above(graph, chain):
    disk, raw, user = chain
    requests = [
        asyncio.ensure_future(user.pwrite(0, memoryview(b"x"))),
        asyncio.ensure_future(user.pread(0, memoryview(bytearray(1)))),
    ]
    await settle()
    sections = [Section(disk.node), Section(raw), Section(disk.node, raw)]
    await settle()
    disk.pause.go()
    await settle()
    assert not any(section.inside.is_set() for section in sections)
    disk.pause.go()
    await settle()
    assert all(section.inside.is_set() for section in sections)
    assert all(request.done() for request in requests)
    for section in sections:
        await section.end()


async def test_section_waits_for_background_work(graph, chain):
    disk, raw, _ = chain
    raw.work_begin()
    section = Section(disk.node)
    await settle()
    assert not section.inside.is_set()
    raw.work_end()
    await settle()
    assert section.inside.is_set()
    await section.end()


async def test_every_request_waits_until_the_section_ends_and_goes_on_in_order(graph, chain):
    disk, _, user = chain
    disk.pause = None
    disk.node.write_gen += 1
    section = Section(disk.node)
    await section.inside.wait()
    requests = [
        asyncio.ensure_future(request)
        for request in (
            user.pwrite(0, memoryview(b"x")),
            user.pread(0, memoryview(bytearray(1))),
            user.pwrite_zeroes(1, 1),
            user.pdiscard(0, 1),
            user.flush(),
            user.block_status(0, 4096, 10),
            user.allocation_depth(0, 4096, 10),
        )
    ]
    await settle()
    assert disk.calls == []
    assert not any(request.done() for request in requests)
    await section.end()
    results = await asyncio.gather(*requests)
    assert [call[0] for call in disk.calls] == [
        "write",
        "read",
        "zero",
        "flush",
        "status",
        "status",
    ]
    assert sum(extent.length for extent in results[5]) == 4096
    assert results[6] == [(4096, 1)]


async def test_sections_nest(graph, chain):
    disk, raw, user = chain
    disk.pause = None
    outer, inner = Section(disk.node), Section(raw)
    await asyncio.gather(outer.inside.wait(), inner.inside.wait())
    write = asyncio.ensure_future(user.pwrite(0, memoryview(b"x")))
    await outer.end()
    await settle()
    assert disk.calls == []
    await inner.end()
    await write


async def test_section_that_begins_before_the_held_requests_run_holds_them_again(graph, chain):
    disk, _, user = chain
    disk.pause = None
    first = Section(disk.node)
    await first.inside.wait()
    write = asyncio.ensure_future(user.pwrite(0, memoryview(b"x")))
    await settle()
    disk.node.drained_begin()
    await first.end()
    disk.node.drained_end()
    disk.node.drained_begin()
    await settle()
    assert disk.calls == []
    disk.node.drained_end()
    await write


async def test_error_inside_ends_the_section(graph, chain):
    disk, raw, user = chain
    disk.pause = None
    with pytest.raises(ValueError, match="inside"):
        async with drained(disk.node, raw):
            raise ValueError("inside")
    assert disk.node.quiesced == raw.quiesced == 0
    await user.pwrite(0, memoryview(b"x"))


async def test_cancelled_wait_for_a_section_lets_requests_go_on(graph, chain):
    disk, raw, user = chain
    stuck = asyncio.ensure_future(user.pwrite(0, memoryview(b"x")))
    await settle()
    section = Section(raw)
    await settle()
    held = asyncio.ensure_future(user.pread(0, memoryview(bytearray(1))))
    section.task.cancel()
    await asyncio.gather(section.task, return_exceptions=True)
    assert not section.inside.is_set()
    assert disk.node.quiesced == raw.quiesced == 0
    disk.pause.release()
    await asyncio.gather(stuck, held)


async def test_cancelled_request_no_longer_waits_for_the_section(graph, chain):
    disk, _, user = chain
    disk.pause = None
    section = Section(disk.node)
    await section.inside.wait()
    held = [asyncio.ensure_future(user.pwrite(n, memoryview(b"x"))) for n in range(2)]
    await settle()
    held[0].cancel()
    await section.end()
    assert (await asyncio.gather(*held, return_exceptions=True))[1] is None
    assert [call[:2] for call in disk.calls] == [("write", 1)]


async def test_siblings_of_a_drained_node_go_on(graph):
    below = add_memory(graph, "below")
    disks = [await add_raw(graph, name, "below") for name in ("left", "right")]
    users = [backend(graph, node) for node in disks]
    async with drained(disks[0]):
        held = asyncio.ensure_future(users[0].pwrite(0, memoryview(b"x")))
        await users[1].pwrite(0, memoryview(b"y"))
        assert len(below.seen("write")) == 1
    await held


async def test_users_that_come_and_go_inside_are_held_and_let_go(graph, chain):
    disk, raw, user = chain
    disk.pause = None
    async with drained(disk.node):
        late = backend(graph, raw, R)
        held = asyncio.ensure_future(late.pread(0, memoryview(bytearray(1))))
        await settle()
        assert disk.calls == []
        await user.detach()
        assert user._quiesced == 0
    await held
    await late.detach()
    assert late._quiesced == 0


async def test_status_walk_through_the_layers_is_waited_for(graph):
    """Between the layers, too, nobody may change what the walk passes."""
    disk = add_memory(graph, "disk", bytes(4096))
    raw = await add_raw(graph, "raw", "disk")
    disk.pause = Barrier("status")
    user = backend(graph, raw)
    walk = asyncio.ensure_future(user.block_status(0, 4096, 5))
    await settle()
    section = Section(raw)
    await settle()
    assert not section.inside.is_set()
    disk.pause.release()
    await walk
    await section.end()
    assert raw.in_flight == disk.node.in_flight == 0


async def test_failed_request_ends_the_wait_as_well(graph, chain):
    disk, raw, user = chain
    disk.errors = {"write": errno.EIO}
    write = asyncio.ensure_future(user.pwrite(0, memoryview(b"x")))
    await settle()
    section = Section(raw)
    await settle()
    disk.pause.release()
    with pytest.raises(OSError, match="Input/output"):
        await write
    await section.end()

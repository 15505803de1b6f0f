import asyncio
import errno

import pytest

from qmpfleece.base import eager
from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.drain import drained
from qmpfleece.block.perm import Perm
from qmpfleece.block.throttle_group import ThrottleGroup
from qmpfleece.block.throttling import Limits
from tests.tools.clock import StillClock
from tests.tools.memory import Barrier, add_memory
from tests.tools.until import settle

R, W, ALL = Perm.CONSISTENT_READ, Perm.WRITE, Perm.ALL


@pytest.fixture
def disk(graph):
    return add_memory(graph, "disk", b"x" * 4096, discard="unmap")


@pytest.fixture
def backend(graph, disk):
    backend = Backend(graph, "guest", R | W)
    backend.attach(disk.node)
    return backend


async def test_every_verb_reaches_the_node(backend, disk):
    buf = bytearray(10)
    await backend.pread(5, memoryview(buf))
    assert buf == b"x" * 10
    await backend.pwrite(0, memoryview(b"abc"))
    await backend.pwrite_zeroes(512, 512)
    await backend.pdiscard(1024, 512)
    await backend.flush()
    assert [call[:3] for call in disk.seen()] == [
        ("read", 5, 10),
        ("write", 0, 3),
        ("zero", 512, 512),
        ("discard", 1024, 512),
        ("flush", 0, 0),
    ]
    assert [extent.length for extent in await backend.block_status(0, 4096, 9)] == [
        512,
        1024,
        2560,
    ]
    assert await backend.allocation_depth(0, 4096, 9) == [(512, 1), (1024, 1), (2560, 1)]
    assert (backend.node, backend.length) == (disk.node, 4096)


async def test_without_a_node_there_is_no_medium(graph):
    backend = Backend(graph, "guest")
    assert (backend.node, backend.length) == (None, 0)
    for request in (
        backend.pread(0, memoryview(bytearray(1))),
        backend.pwrite(0, memoryview(b"x")),
        backend.pwrite_zeroes(0, 1),
        backend.pdiscard(0, 1),
        backend.flush(),
        backend.block_status(0, 1, 1),
        backend.allocation_depth(0, 1, 1),
    ):
        with pytest.raises(OSError, match="No medium found") as caught:
            await request
        assert caught.value.errno == errno.ENOMEDIUM
    await backend.detach()


@pytest.mark.parametrize(
    ("name", "text"), [("", "an unnamed block device"), ("d0", "block device 'd0'")]
)
async def test_messages_name_the_device(graph, name, text):
    assert Backend(graph, name).describe() == text


async def test_refused_node_is_not_attached(graph):
    node = add_memory(graph, "ro", read_only=True).node
    backend = Backend(graph, "guest", R | W)
    with pytest.raises(QmpError, match="Block node is read-only"):
        backend.attach(node)
    assert backend.node is None
    assert node.parents == []


async def test_detaching_waits_for_requests_and_refuses_new_ones(graph, backend, disk):
    disk.pause = Barrier()
    write = asyncio.ensure_future(backend.pwrite(0, memoryview(b"y")))
    await settle()
    detaching = [asyncio.ensure_future(backend.detach()) for _ in range(2)]
    await settle()
    late = asyncio.ensure_future(backend.pwrite(1, memoryview(b"z")))
    await settle()
    assert not any(task.done() for task in detaching)
    assert backend.node is disk.node
    disk.pause.release()
    await asyncio.gather(write, *detaching)
    with pytest.raises(OSError, match="No medium"):
        await late
    assert disk.data[:2] == b"yx"
    assert backend.node is None
    assert disk.node.parents == []
    assert backend._quiesced == disk.node.quiesced == 0


async def test_detaching_closes_a_node_that_nobody_owns(graph, backend, disk):
    disk.node.monitor_owned = False
    await backend.detach()
    assert disk.closed
    assert graph.nodes() == []


async def test_node_may_be_exchanged_while_detaching_waits(graph, backend, disk):
    other = add_memory(graph, "other")
    disk.pause = Barrier()
    write = asyncio.ensure_future(backend.pwrite(0, memoryview(b"y")))
    await settle()
    detaching = asyncio.ensure_future(backend.detach())
    await settle()
    graph.replace_node([backend._root], other.node)
    disk.pause.release()
    await asyncio.gather(write, detaching)
    assert backend.node is None
    assert other.node.parents == disk.node.parents == []
    assert backend._quiesced == 0


async def test_cancelled_detaching_leaves_all_as_it_was(backend, disk):
    disk.pause = Barrier()
    write = asyncio.ensure_future(backend.pwrite(0, memoryview(b"y")))
    await settle()
    detaching = asyncio.ensure_future(backend.detach())
    await settle()
    detaching.cancel()
    await asyncio.gather(detaching, return_exceptions=True)
    disk.pause.release()
    await write
    await backend.pwrite(1, memoryview(b"z"))
    assert disk.data[:2] == b"yz"


async def test_backend_can_be_attached_again(graph, backend, disk):
    other = add_memory(graph, "other")
    await backend.detach()
    backend.attach(other.node)
    await backend.pwrite(0, memoryview(b"y"))
    assert other.data[:1] == b"y"


async def test_request_that_need_not_wait_ends_without_a_turn_of_the_loop(backend, disk):
    loop = asyncio.get_running_loop()
    buf = bytearray(4)
    assert eager.start(backend.pread(0, memoryview(buf)), loop) is None
    assert buf == b"xxxx"


async def test_error_of_a_held_request_is_its_own(backend, disk):
    disk.errors = {"write": errno.ENOSPC}
    async with drained(disk.node):
        held = asyncio.ensure_future(backend.pwrite(0, memoryview(b"y")))
        past = asyncio.ensure_future(backend.pread(1 << 40, memoryview(bytearray(1))))
        await settle()
    with pytest.raises(OSError, match="No space"):
        await held
    with pytest.raises(OSError, match="Input/output"):
        await past


async def test_replacing_the_node_waits_for_requests_in_flight_and_leads_later_ones(
    graph, backend, disk
):
    other = add_memory(graph, "other", bytes(4096))
    disk.pause = barrier = Barrier("write")
    first = asyncio.ensure_future(backend.pwrite(0, memoryview(b"1")))
    await settle()
    replacing = asyncio.ensure_future(backend.replace(other.node))
    await settle()
    second = asyncio.ensure_future(backend.pwrite(0, memoryview(b"2")))
    await settle()
    assert (backend.node, other.seen()) == (disk.node, [])
    barrier.release()
    await asyncio.gather(first, replacing, second)
    assert (disk.data[:1], other.data[:1]) == (b"1", b"2")
    assert backend.node is other.node
    assert not disk.node.quiesced + other.node.quiesced


async def test_replacing_by_the_same_node_or_from_nothing(graph, backend, disk):
    await backend.replace(disk.node)
    await backend.detach()
    await backend.replace(disk.node)
    assert backend.node is disk.node


async def test_refused_replacement_changes_nothing(graph, backend, disk):
    taken = add_memory(graph, "taken", bytes(4096))
    holder = Backend(graph, "holder", R, R)
    holder.attach(taken.node)
    with pytest.raises(QmpError, match="unshared by block device 'holder'"):
        await backend.replace(taken.node)
    assert backend.node is disk.node
    await backend.pwrite(0, memoryview(b"y"))


async def test_permissions_are_changed_whole_or_not(graph, backend, disk):
    second = Backend(graph, "second", R)
    second.attach(disk.node)
    backend.set_perm(R | W, ALL & ~W)
    with pytest.raises(QmpError, match="required by block device 'second'"):
        second.set_perm(R | W, ALL)
    assert (second.perm, second.shared) == (R, ALL)
    backend.set_perm(R, ALL)
    second.set_perm(R | W, ALL)
    await second.pwrite(0, memoryview(b"y"))


async def test_messages_name_what_has_no_name_after_its_device(graph):
    backend = Backend(graph)
    backend.device = "sda"
    assert backend.describe() == "block device 'sda'"


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def limited(backend, clock):
    """The backend under a limit of 100 bytes a second."""
    limits = Limits().changed({"bps-total": 100})
    backend.join(ThrottleGroup("g", limits, clock))
    return backend


async def test_requests_wait_for_the_io_limits(limited, disk, clock):
    await limited.pwrite(0, memoryview(b"a" * 100))
    waiting = asyncio.ensure_future(limited.pwrite(100, memoryview(b"b" * 100)))
    await settle()
    await limited.flush()  # which is no matter of limits
    assert [call[0] for call in disk.seen()] == ["write", "flush"]
    clock.advance(1)
    await waiting
    assert [call[0] for call in disk.seen()] == ["write"]


async def test_requests_that_wait_go_when_limits_are_lifted(limited, disk):
    await limited.pwrite(0, memoryview(b"a" * 100))
    waiting = asyncio.ensure_future(limited.pread(0, memoryview(bytearray(100))))
    group = limited.throttle_group
    await settle()
    limited.join(None)
    await waiting
    assert (limited.throttle_group, group.members) == (None, [])
    await limited.pwrite(0, memoryview(b"a" * 1000))


async def test_requests_that_wait_for_limits_are_let_go_and_waited_for_by_a_drain(
    limited, disk, clock
):
    await limited.pwrite(0, memoryview(b"a" * 100))
    waiting = asyncio.ensure_future(limited.pwrite(100, memoryview(b"b" * 100)))
    await settle()
    async with drained(disk.node):
        assert waiting.done()
        later = asyncio.ensure_future(limited.pwrite(100, memoryview(b"b" * 100)))
        await settle()
        assert not later.done()
    await settle()
    assert not later.done()  # the limits hold again
    clock.advance(5)
    await later


async def test_request_that_waits_for_limits_is_done_before_the_medium_goes(limited, disk):
    await limited.pwrite(0, memoryview(b"a" * 100))
    waiting = asyncio.ensure_future(limited.pwrite(100, memoryview(b"b" * 100)))
    await settle()
    disk.seen()
    await limited.detach()
    await waiting
    assert [call[0] for call in disk.seen()] == ["write"]
    with pytest.raises(OSError, match="No medium found"):
        await limited.pwrite(0, memoryview(b"c"))

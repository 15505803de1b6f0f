"""The throttle filter over gate disks, its group on a clock that we move."""

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block import status
from qmpfleece.block.backend import Backend
from qmpfleece.block.drain import drained
from qmpfleece.block.drivers.throttle import Throttle
from qmpfleece.block.perm import Perm
from qmpfleece.block.throttle_group import ThrottleGroup
from qmpfleece.block.throttling import Limits
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.clock import StillClock
from tests.tools.desk import Desk
from tests.tools.until import settle

KIB = 1024


class Throttled(Desk):
    """A desk with a disk of 64 KiB under a throttle node of group ``g``."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = StillClock()
        self.limited = self.group("g", **{"bps-total": KIB, "bps-total-max": 4 * KIB})
        self.gate = self.disk("disk", b"\1" * 64 * KIB)

    def group(self, name, **values: int):
        group = ThrottleGroup(name, Limits().changed(values), self.clock)
        self.graph.throttle_groups[name] = group
        return group

    async def node(self, name="t", file="disk", **more: object):
        given = {"driver": "throttle", "node-name": name, "file": file, "throttle-group": "g"}
        return await self.graph.add(validate_blockdev(given | {"discard": "unmap"} | more))

    def reads(self, guest, *offsets: int):
        return [self.later(guest.pread(at * KIB, memoryview(bytearray(KIB)))) for at in offsets]

    @property
    def begun(self):
        return [f"{verb} {offset // KIB}" for verb, offset, _ in self.gate.log]

    async def close(self):
        for group in self.graph.throttle_groups.values():
            group.configure(Limits())
        await settle()
        await super().close()
        assert not [group for group in self.graph.throttle_groups.values() if group.members]


@pytest.fixture
async def desk():
    desk = Throttled()
    yield desk
    await desk.close()


async def test_each_kind_of_request_waits_for_its_turn_and_flushes_do_not(desk):
    await desk.node()
    guest = desk.guest("t")
    data = memoryview(b"\2" * 4 * KIB)
    tasks = [
        desk.later(request)
        for request in (
            guest.pwrite(0, data),
            guest.pwrite(4 * KIB, data[:KIB]),
            guest.pwrite_zeroes(8 * KIB, KIB),
            guest.pdiscard(12 * KIB, KIB),
            guest.flush(),
        )
    ]
    await settle()
    assert desk.begun == ["write 0", "write 4", "flush 0"]
    desk.clock.advance(1)
    await settle()
    assert desk.begun[3:] == ["zero 8"]
    desk.clock.advance(1)
    await settle()
    assert desk.begun[4:] == ["discard 12"]
    assert all(task.done() for task in tasks)
    assert desk.gate.data[: 6 * KIB] == b"\2" * 5 * KIB + b"\1" * KIB


async def test_without_limits_requests_pass_at_once(desk):
    desk.limited.configure(Limits())
    await desk.node()
    for read in desk.reads(desk.guest("t"), *range(32)):
        await read
    assert not desk.clock.armed


async def test_nodes_of_one_group_share_its_limits(desk):
    desk.disk("other", bytes(64 * KIB))
    await desk.node()
    await desk.node("u", "other")
    desk.reads(desk.guest("t"), *range(5))
    desk.reads(desk.guest("u"), 0)
    await settle()
    assert len(desk.begun) == 5
    assert not desk.disks["other"].log
    desk.clock.advance(1)
    await settle()
    assert len(desk.disks["other"].log) == 1


async def test_a_drain_of_the_node_lets_waiting_requests_go(desk):
    node = await desk.node()
    reads = desk.reads(desk.guest("t"), *range(12))
    await settle()
    assert len(desk.begun) == 5
    async with drained(node):
        assert all(read.done() for read in reads)
    assert len(desk.begun) == 12
    after = desk.reads(desk.guest("t"), 20)
    await settle()
    assert not after[0].done()  # what a drain let go has counted


@pytest.mark.parametrize("which", ["disk", "over"])
async def test_a_drain_below_or_above_the_node_does_not_wait_for_limits(desk, which):
    await desk.node()
    await desk.say("blockdev-add", driver="raw", node_name="over", file="t")
    reads = desk.reads(desk.guest("over"), *range(12))
    await settle()
    async with drained(desk.graph.find(which)):
        assert all(read.done() for read in reads)
    assert not desk.graph.find("t").in_flight


async def test_a_transaction_lets_waiting_requests_go(desk):
    await desk.node()
    reads = desk.reads(desk.guest("t"), *range(12))
    await settle()
    assert await desk.say("transaction", actions=[]) == {}
    assert all(read.done() for read in reads)


async def test_a_cancelled_request_leaves_the_queue(desk):
    node = await desk.node()
    reads = desk.reads(desk.guest("t"), *range(8))
    await settle()
    for read in reads[5:]:
        read.cancel()
    await settle()
    assert not node.in_flight
    assert len(desk.begun) == 5


async def test_a_node_that_goes_over_to_another_group_keeps_to_that_one(desk):
    node = await desk.node()
    other = desk.group("other", **{"iops-total": 1})
    driver = node.driver
    assert isinstance(driver, Throttle)
    async with drained(node):
        driver.join(other)
    assert (len(desk.limited.members), len(other.members)) == (0, 1)
    desk.reads(desk.guest("t"), 0, 1)
    await settle()
    assert len(desk.begun) == 1


async def test_everything_else_passes(desk):
    node = await desk.node()
    assert node.length == 64 * KIB
    assert node.driver.filtered_child is not None
    extents = await status.block_status(node, 0, 64 * KIB, 10)
    assert [extent.length for extent in extents] == [64 * KIB]
    below = desk.graph.find("disk").driver
    below.is_known_data = lambda offset, length: (offset, length) == (5, 6)
    assert node.driver.is_known_data(5, 6)
    assert not node.driver.is_known_data(5, 7)
    assert not node.driver.compresses
    backend = Backend(desk.graph, perm=Perm.WRITE, shared=Perm.ALL & ~Perm.WRITE)
    backend.attach(node)
    assert desk.graph.find("disk").users_perm()[0] == Perm.WRITE
    with pytest.raises(QmpError, match="Permission conflict on node 't'"):
        desk.guest("t")
    await backend.detach()


async def test_an_unknown_group_is_refused_and_nothing_is_left(desk):
    told = await desk.say(
        "blockdev-add",
        {"driver": "throttle", "node-name": "t", "file": "disk", "throttle-group": "zzz"},
    )
    assert told == "Throttle group 'zzz' does not exist"
    assert desk.graph.get("t") is None
    assert not desk.graph.find("disk").parents


async def test_the_node_is_named_by_its_group(desk):
    await desk.node()
    nodes = await desk.say("query-named-block-nodes", flat=True)
    assert '"throttle-group": "g"' in nodes[0]["file"]

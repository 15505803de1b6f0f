"""Large replies that threads read and send: of several clients at once, over real files."""

import asyncio
import os
import random
from itertools import pairwise
from types import SimpleNamespace

import pytest

from qmpfleece.base.uring.mover import Mover
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.exports.nbd.courier import Courier, Sharing
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.buffers import BufferPool
from tests.tools.graphs import add
from tests.tools.hold import hold
from tests.tools.until import settle, until
from tests.tools.uring import needs_uring

pytestmark = needs_uring

LARGE = 256 << 10
CLUSTER = 64 << 10
#: The last sector is not whole.
SIZE = (8 << 20) + 100
BEFORE = random.Random(7).randbytes(SIZE)
READ = const.CMD_READ


class Fleecing:
    """A snapshot of a file, exported, and the guest's handle on the disk."""

    def __init__(self, bench, folder) -> None:
        self.bench = bench
        self.folder = folder
        self.moved = 0

    async def start(self):
        for name, data in (("disk", BEFORE), ("temp", b"")):
            (self.folder / name).write_bytes(data)
            os.truncate(self.folder / name, SIZE)
        graph = self.bench.graph
        await add(graph, "file", "file", filename=str(self.folder / "disk"))
        await add(graph, "file", "temp", filename=str(self.folder / "temp"))
        self.cbw = await add(graph, "copy-before-write", "cbw", file="file", target="temp")
        await add(graph, "snapshot-access", "snapshot", file="cbw")
        await self.bench.start()
        await self.bench.add("s", node_name="snapshot", writable=False)
        self.guest = Backend(graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
        self.guest.attach(graph.find("cbw"))

    async def write(self, offset, data):
        await self.guest.pwrite(offset, memoryview(bytearray(data)))

    async def close(self):
        await self.guest.detach()
        self.bench.disk.release()
        await self.bench.manager.close()
        for name in ("snapshot", "cbw", "temp", "file"):
            await self.bench.graph.delete(name)
        self.bench.graph.workers.close()


@pytest.fixture
async def fleecing(bench, tmp_path, monkeypatch):
    made = Fleecing(bench, tmp_path)
    whole = Mover.add

    def counted(*args: object):
        taken = whole(*args)
        made.moved += taken
        return taken

    monkeypatch.setattr(Mover, "add", counted)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def gate(monkeypatch):
    """Holds batches back until it is opened."""
    movers, whole = [], Mover.go

    class Gate:
        def __init__(self) -> None:
            self.movers = movers

        def open(self):
            monkeypatch.setattr(Mover, "go", whole)
            while movers:
                movers.pop().go()

    def hold_back(mover):
        movers.append(mover)

    monkeypatch.setattr(Mover, "go", hold_back)
    gate = Gate()
    yield gate
    gate.open()


def expected(offset, length):
    return (BEFORE + bytes(512))[offset : offset + length]


async def read_all(client, seed, *, small=False):
    """Read everything in pieces, many at a time and in any order."""
    rng = random.Random(seed)
    edges = sorted({0, SIZE // 512 * 512 + 512, *range(0, SIZE, LARGE)})
    pieces = [(a, b - a) for a, b in pairwise(edges)]
    if small:
        pieces += [(rng.randrange(SIZE - 4096), rng.randrange(1, 4096)) for _ in pieces]
    rng.shuffle(pieces)
    for start in range(0, len(pieces), 20):
        replies = [client.request(READ, *piece) for piece in pieces[start : start + 20]]
        for reply in replies:
            await client.finish(reply)
            assert not reply.error, reply.message
            assert reply.buffer == expected(reply.offset, reply.length)


@pytest.mark.parametrize("structured", [False, True])
async def test_clients_read_the_snapshot_whole_while_the_guest_writes(fleecing, structured):
    clients = [await fleecing.bench.enter("s", structured=structured) for _ in range(3)]
    rng = random.Random(11)
    after = bytearray(BEFORE + bytes(412))
    ended = False

    async def guest():
        while not ended:
            offset = rng.randrange(len(after) // 512) * 512
            data = rng.randbytes(min(rng.randrange(1, 200) * 512, len(after) - offset))
            await fleecing.write(offset, data)
            after[offset : offset + len(data)] = data
            await asyncio.sleep(0)

    writes = asyncio.create_task(guest())
    for turn in range(3):
        await asyncio.gather(
            *(read_all(client, 10 * turn + i, small=i == 1) for i, client in enumerate(clients))
        )
    ended = True
    await writes
    assert fleecing.moved
    got = memoryview(bytearray(len(after)))
    await fleecing.guest.pread(0, got)
    assert got == after


async def test_one_client_alone_is_served_by_the_loop(fleecing):
    client = await fleecing.bench.enter("s")
    await read_all(client, 1)
    assert not fleecing.moved


async def two_clients_away(fleecing, gate):
    """Have large replies for two clients on their way, and held back."""
    clients = [await fleecing.bench.enter("s") for _ in range(2)]
    # No question for holes comes before such reads.
    replies = [
        client.request(READ, 0, LARGE, flags=const.CMD_FLAG_DF) for client in clients for _ in "12"
    ]
    await until(lambda: gate.movers)
    return clients, replies


async def test_the_guest_waits_until_what_is_away_was_read(fleecing, gate):
    clients, replies = await two_clients_away(fleecing, gate)
    write = asyncio.ensure_future(fleecing.write(CLUSTER, bytes(CLUSTER)))
    other = asyncio.ensure_future(fleecing.write(LARGE, bytes(CLUSTER)))
    await other
    await settle()
    assert not write.done()
    gate.open()
    await write
    for client in clients:
        await client.finish(*(reply for reply in replies if reply in client.in_flight.values()))
    assert all(reply.buffer == expected(0, LARGE) for reply in replies)


async def test_nodes_are_drained_only_when_what_was_away_is_back(fleecing, gate):
    await two_clients_away(fleecing, gate)
    nodes = [fleecing.bench.graph.find(name) for name in ("snapshot", "file")]
    assert all(node.in_flight for node in nodes)
    await fleecing.bench.delete("s", "hard")
    await settle()
    assert fleecing.bench.manager.query()
    gate.open()
    await until(lambda: not fleecing.bench.manager.query())
    assert not any(node.in_flight for node in nodes)


@pytest.mark.parametrize(("replies", "unsent"), [(True, 0), (False, 1)])
async def test_nothing_is_taken_while_something_else_is_to_be_sent(replies, unsent):
    client = SimpleNamespace(has_replies=replies)
    transport = SimpleNamespace(get_write_buffer_size=lambda: unsent)
    sharing = Sharing()
    sharing.is_shared("another")
    courier = Courier(client, BufferPool(), transport, sharing, lambda: None)
    assert not courier.take(SimpleNamespace(length=LARGE))
    assert not courier.pending


async def test_what_is_done_meanwhile_is_answered_behind_what_is_away(fleecing, gate):
    clients, _ = await two_clients_away(fleecing, gate)
    small = [client.request(READ, SIZE // 2, 100) for client in clients]
    await settle()
    gate.open()
    for client, reply in zip(clients, small, strict=True):
        await client.finish(*client.in_flight.values())
        assert reply.buffer == expected(SIZE // 2, 100)
        large = next(r for r in client.in_flight.values() if r is not reply)
        assert large.buffer == expected(0, LARGE)


async def test_a_client_that_leaves_is_over_only_when_what_was_away_is_back(fleecing, gate):
    clients, _ = await two_clients_away(fleecing, gate)
    server = fleecing.bench.manager.nbd
    for client in clients:
        client.close()
    await settle()
    assert server.connections
    write = asyncio.ensure_future(fleecing.write(0, bytes(512)))
    await settle()
    assert not write.done()
    gate.open()
    await until(lambda: not server.connections)
    await write


async def test_a_client_that_takes_nothing_holds_up_nobody(fleecing):
    lazy = [await fleecing.bench.enter("s") for _ in range(3)]
    for client in lazy:
        for turn in range(60):
            client.request(READ, turn % 32 * LARGE, LARGE, flags=const.CMD_FLAG_DF)
            client.request(READ, SIZE + 4096, 1)  # fails
    await until(lambda: fleecing.moved)
    for offset in range(0, SIZE - CLUSTER, LARGE):
        await fleecing.write(offset, bytes(512))
    other = await fleecing.bench.enter("s")
    await read_all(other, 5)
    for client in lazy:  # and they get all of it when they take it at last
        for reply in client.in_flight.values():
            await client.finish(reply)
            if reply.length == 1:
                assert reply.error
            else:
                assert reply.buffer == expected(reply.offset, LARGE)


async def test_a_broken_snapshot_says_so(fleecing):
    clients = [await fleecing.bench.enter("s") for _ in range(2)]
    for client in clients:
        assert await client.read(0, LARGE) == expected(0, LARGE)
    fleecing.cbw.driver.snapshot.error = OSError(28, "full")
    for client in clients:
        assert (await client.ask(READ, 0, LARGE)).error
    assert not fleecing.bench.graph.find("file").in_flight


async def test_a_client_is_hung_up_on_at_once_while_a_read_waits(fleecing, monkeypatch):
    clients = [await fleecing.bench.enter("s") for _ in range(2)]
    for client in clients:
        reply = client.request(READ, 0, LARGE, flags=const.CMD_FLAG_DF)
        await client.finish(reply)
    file = fleecing.bench.graph.find("file")
    await until(lambda: fleecing.moved and not file.in_flight)
    gate, let_go = hold(file.driver, "pread")
    monkeypatch.setattr(file.driver, "locate", lambda *_: False)
    try:
        for client in clients:
            client.request(READ, 0, LARGE, flags=const.CMD_FLAG_DF)
        await until(lambda: file.in_flight == 2)
        await gate.reached.wait()
        await fleecing.bench.delete("s", "hard")
        for client in clients:
            assert await client.hung_up()
        assert fleecing.bench.manager.nbd.connections == 2
    finally:
        gate.set()
        let_go()
    await until(lambda: not fleecing.bench.manager.nbd.connections)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_read_that_waited_for_a_flush_is_in_no_batch_that_is_over(fleecing, gone):
    one, other = [await fleecing.bench.enter("s") for _ in range(2)]
    for client in (one, other, one, other):
        await client.finish(client.request(READ, 0, LARGE, flags=const.CMD_FLAG_DF))
    await until(lambda: fleecing.moved == 3)
    snapshot = fleecing.bench.graph.find("snapshot")
    snapshot.write_gen += 1  # so there is something to flush
    gate, let_go = hold(snapshot.driver, "flush")
    flags = const.CMD_FLAG_FUA | const.CMD_FLAG_DF
    reply = one.request(READ, LARGE, LARGE, flags=flags)
    await gate.reached.wait()
    if gone:
        await fleecing.bench.delete("s", "hard")
        await settle()
    gate.set()
    let_go()
    if gone:
        await until(lambda: not fleecing.bench.manager.nbd.connections)
    else:
        await one.finish(reply)
        assert reply.buffer == expected(LARGE, LARGE)
        assert fleecing.moved == 3  # no batch takes it: one that others fill might go without it


async def test_what_is_not_in_the_page_cache_is_read_by_the_loop_for_a_while(
    fleecing, monkeypatch
):
    clients = [await fleecing.bench.enter("s") for _ in range(2)]
    tail = SIZE // 512 * 512 + 512 - LARGE  # the end of the file has fewer bytes than the disk
    replies = [client.request(READ, tail, LARGE, flags=const.CMD_FLAG_DF) for client in clients]
    for client, reply in zip(clients, replies, strict=True):
        await client.finish(reply)
        assert reply.buffer == expected(tail, LARGE)
    assert fleecing.moved == 1
    again = [
        client.request(READ, turn * LARGE, LARGE, flags=const.CMD_FLAG_DF)
        for turn in range(30)
        for client in clients
    ]
    for client in clients:
        await client.finish(*client.in_flight.values())
    assert all(reply.buffer == expected(reply.offset, LARGE) for reply in again)
    assert fleecing.moved > 1


async def test_without_io_uring_the_loop_does_it(fleecing, monkeypatch):
    monkeypatch.setattr("qmpfleece.base.workers.Workers.movers", None)
    clients = [await fleecing.bench.enter("s") for _ in range(2)]
    await asyncio.gather(*(read_all(client, i) for i, client in enumerate(clients)))
    assert not fleecing.moved


def test_only_who_reads_beside_others_shares():
    sharing = Sharing()
    assert not sharing.is_shared("a")
    assert not sharing.is_shared("a")
    assert sharing.is_shared("b")
    assert sharing.is_shared("a")
    sharing.forget("b")
    assert not sharing.is_shared("a")
    sharing.forget("a")
    assert not sharing.is_shared("b")

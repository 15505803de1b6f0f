import asyncio
import contextlib
import errno
import os

import pytest

from qmpfleece.exports.nbd import connection
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.buffers import BufferPool
from tests.tools.until import settle, until

READ, WRITE = const.CMD_READ, const.CMD_WRITE


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("length", [1, 4096, 65536, 300_000, 4 << 20])
async def test_what_is_written_is_read(served, structured, length):
    client = await served.enter(structured=structured)
    data = (bytes(range(1, 252)) * (length // 251 + 1))[:length]
    reply = await client.ask(WRITE, 0, length, data=data)
    assert not reply.error
    assert served.disk.data[:length] == data
    assert await client.read(0, length) == data


@pytest.mark.parametrize("structured", [False, True])
async def test_holes_and_data_make_up_a_read(served, structured):
    client = await served.enter(structured=structured)
    assert await client.read(0, 4 << 20) == served.data
    assert await client.read((2 << 20) - 100, 200) == served.data[(2 << 20) - 100 :][:200]
    assert (
        await client.read((2 << 20) - 300_000, 700_000)
        == served.data[(2 << 20) - 300_000 : (2 << 20) + 400_000]
    )


async def test_holes_are_not_read(served):
    client = await served.enter()
    served.disk.log.clear()
    assert await client.read(3 << 20, 1 << 20) == bytes(1 << 20)
    assert not served.disk.seen("read")


async def test_df_gets_one_chunk(served):
    client = await served.enter()
    pending = await client.ask(READ, (2 << 20) - 4096, 100_000, flags=const.CMD_FLAG_DF)
    assert pending.buffer == served.data[(2 << 20) - 4096 :][:100_000]
    assert served.disk.seen("read") == [((2 << 20) - 4096, 100_000)]


async def test_reads_of_data_stop_asking_for_holes(served):
    client = await served.enter()
    for i in range(100):
        await client.read(i * 512, 512)
    assert len(served.disk.seen("status")) == 16


async def test_reads_of_what_is_known_to_be_data_do_not_ask_for_holes(served, monkeypatch):
    known = 1 << 20
    monkeypatch.setattr(
        served.disk, "is_known_data", lambda offset, length: offset + length <= known
    )
    client = await served.enter()
    for _ in range(20):
        assert await client.read(0, known) == served.data[:known]
    assert not served.disk.seen("status")
    served.disk.log.clear()
    for _ in range(8):
        assert await client.read(2 << 20, known) == bytes(known)
    assert served.disk.seen("status")


async def test_reads_of_holes_are_noticed_again(served):
    client = await served.enter()
    for _ in range(16):
        await client.read(0, 512)
    for _ in range(20):
        await client.read(2 << 20, 1 << 20)
    assert served.disk.seen("read").count((2 << 20, 1 << 20)) == 3
    assert len(served.disk.seen("status")) == 16 + 17


async def test_requests_of_one_batch_overtake_a_slow_one(served):
    client = await served.enter()
    served.disk.stops = lambda verb, offset, _: verb == "read" and offset == 0
    slow = client.request(READ, 0, 512, flags=const.CMD_FLAG_DF)
    others = [client.request(READ, 4096 * i, 512) for i in range(1, 10)]
    await client.finish(*others)
    assert slow not in client.done
    served.disk.release()
    await client.finish(slow)
    assert slow.buffer == served.data[:512]


@pytest.mark.parametrize("length", [512, 8192, 100_000])
async def test_payloads_of_suspended_writes_stay_untouched(served, length):
    client = await served.enter()
    served.disk.stop("write")
    writes = []
    for i in range(12):
        writes.append(client.request(WRITE, i * length, length, data=bytes([100 + i]) * length))
        await until(lambda n=i: len(served.disk.waiting) > n)
    served.disk.release()
    await client.finish(*writes)
    for i in range(12):
        assert served.disk.data[i * length : (i + 1) * length] == bytes([100 + i]) * length


async def test_at_most_32_requests_are_in_flight(served):
    client = await served.enter()
    served.disk.stop("read")
    requests = [client.request(READ, 4096 * i, 512, flags=const.CMD_FLAG_DF) for i in range(90)]
    await until(lambda: len(served.disk.waiting) >= connection.MAX_IN_FLIGHT)
    await settle()
    assert len(served.disk.waiting) == connection.MAX_IN_FLIGHT
    served.disk.release()
    await client.finish(*requests)
    assert all(r.buffer == served.data[r.offset :][:512] for r in requests)


async def test_bytes_in_flight_are_bounded(served):
    client = await served.enter()
    served.disk.stop("read")
    for _ in range(30):
        client.request(READ, 0, 4 << 20, flags=const.CMD_FLAG_DF)
    most = connection.MAX_BYTES_IN_FLIGHT // (4 << 20)
    await until(lambda: len(served.disk.waiting) >= most)
    await settle()
    assert len(served.disk.waiting) == most


async def test_client_that_takes_no_replies_is_not_read_from(served):
    client = await served.enter()
    for _ in range(60):
        client.request(READ, 0, 1 << 20, flags=const.CMD_FLAG_DF)
    await client.writer.drain()
    previous = -1
    while previous != len(served.disk.seen("read")):
        previous = len(served.disk.seen("read"))
        await settle()
    assert previous < 20
    await client.finish(*client.in_flight.values())


async def test_requests_go_on_when_the_client_vanishes(served):
    client = await served.enter()
    served.disk.stop("write")
    client.request(WRITE, 0, 4096, data=b"x" * 4096)
    await until(lambda: served.disk.waiting)
    client.writer.transport.abort()
    await settle()
    assert served.manager.exports()[0].users == 1
    served.disk.release()
    await until(lambda: not served.manager.exports()[0].users)
    assert served.disk.data[:4096] == b"x" * 4096


async def test_client_that_is_thrown_out_has_left_when_its_requests_have_ended(served):
    client = await served.enter()
    served.disk.stop("write", "read")
    client.request(WRITE, 0, 4096, data=b"x" * 4096)
    client.request(READ, 8192, 512, flags=const.CMD_FLAG_DF)
    await until(lambda: len(served.disk.waiting) == 2)
    (server_side,) = served.manager.nbd._connections
    server_side.disconnect()
    await settle()
    assert served.manager.exports()[0].users == 1
    served.disk.release()
    await until(lambda: not served.manager.exports()[0].users)
    assert served.disk.data[:4096] == b"x" * 4096


async def test_reply_of_a_slow_read_is_kept_until_it_is_sent(served, monkeypatch):
    """Also when those around it were sent long ago, and their memory is given back."""
    monkeypatch.setattr(BufferPool, "_give", poison)
    client = await served.enter()
    served.disk.stops = lambda verb, offset, _length: verb == "read" and not offset
    slow = client.request(READ, 0, 512, flags=const.CMD_FLAG_DF)
    await until(lambda: served.disk.waiting)
    for _ in range(40):
        await client.ask(READ, 4096, 16384, flags=const.CMD_FLAG_DF)
    served.disk.release()
    await client.finish(slow)
    assert slow.buffer == served.data[:512]


def poison(pool, view):
    """Spoil memory that is given back."""
    view[:] = b"\xdd" * len(view)


@pytest.mark.parametrize("length", [16384, 300_000])
async def test_client_that_is_thrown_out_gets_nothing_from_memory_given_back(
    served, monkeypatch, length
):
    monkeypatch.setattr(BufferPool, "_give", poison)
    client = await served.enter()
    for _ in range((12 << 20) // length):  # more than the socket has room for
        client.request(READ, 0, length, flags=const.CMD_FLAG_DF)
    (server_side,) = served.manager.nbd._connections
    await until(lambda: server_side._writing_paused)
    got = os.read(client.writer.get_extra_info("socket").fileno(), 12 << 20)
    server_side.disconnect()  # just when there is room for what is left
    with contextlib.suppress(ConnectionError):
        while piece := await client.receive():
            got += piece
    assert not got.count(b"\xdd" * 8)


async def test_half_closed_client_gets_its_replies(served):
    client = await served.enter()
    served.disk.stop("read")
    pending = client.request(READ, 0, 512, flags=const.CMD_FLAG_DF)
    client.writer.write_eof()
    await until(lambda: served.disk.waiting)
    await settle()
    served.disk.release()
    await client.finish(pending)
    assert await client.hung_up()


async def test_reply_that_is_just_complete_reaches_a_half_closed_client(served):
    client = await served.enter()
    served.disk.stop("read")
    pending = client.request(READ, 0, 512, flags=const.CMD_FLAG_DF)
    await until(lambda: served.disk.waiting)
    (server_side,) = served.manager.nbd._connections

    def hear_of_the_end():
        """Do as a transport does whose client has ended its half."""
        if not server_side.eof_received():
            server_side._transport.close()

    served.disk.release()
    asyncio.get_running_loop().call_soon(hear_of_the_end)  # before the reply is sent
    await client.finish(pending)
    assert await client.hung_up()


async def test_disconnect_waits_for_replies_in_flight(served):
    client = await served.enter()
    served.disk.stop("write")
    pending = client.request(WRITE, 0, 512, data=b"y" * 512)
    client.request(const.CMD_DISC)
    await until(lambda: served.disk.waiting)
    served.disk.release()
    await client.finish(pending)
    assert await client.hung_up()


@pytest.mark.parametrize("structured", [False, True])
async def test_errors_of_the_disk_reach_the_client(served, structured):
    client = await served.enter(structured=structured)
    for verb, kind, code, wire, text in [
        ("write", WRITE, errno.ENOSPC, const.ENOSPC, "writing to file failed"),
        ("discard", const.CMD_TRIM, errno.EACCES, const.EINVAL, "discard failed"),
        ("flush", const.CMD_FLUSH, errno.EIO, const.EIO, "flush failed"),
        ("status", READ, errno.EACCES, const.EINVAL, "unable to check for holes: "),
        ("read", READ, errno.EIO, const.EIO, "reading from file failed"),
    ]:
        if verb == "status" and not structured:
            continue
        served.disk.errors = {verb: code}
        data = b"z" * 512 if kind == WRITE else b""
        length = 0 if kind == const.CMD_FLUSH else 512
        reply = await client.ask(kind, 0, length, data=data)
        assert reply.error == wire
        assert reply.message.startswith(text if structured else "")
        served.disk.node.write_gen += 1
    served.disk.errors = {}
    assert await client.read(0, 4096) == served.disk.data[:4096]


async def test_memory_of_replies_is_used_again_while_the_stream_goes_on(served, monkeypatch):
    taken = []
    original = served.manager.nbd.pool.take
    monkeypatch.setattr(
        served.manager.nbd.pool, "take", lambda size: taken.append(original(size)) or taken[-1]
    )
    client = await served.enter()
    in_flight = [client.request(READ, 0, 256 << 10) for _ in range(8)]
    for _ in range(150):
        await client.finish(in_flight.pop(0))
        in_flight.append(client.request(READ, 0, 256 << 10))
    await client.finish(*in_flight)
    assert len({id(buffer.view) for buffer in taken}) < 60
    await served.delete("e", "hard")
    await until(lambda: not any(buffer.users for buffer in taken))


@pytest.mark.parametrize("kind", [READ, const.CMD_BLOCK_STATUS, const.CMD_TRIM])
async def test_loop_looks_for_the_next_request_of_who_waits_for_each_small_reply(
    served, monkeypatch, kind
):
    client = await served.enter(contexts=[const.CONTEXT_BASE_ALLOCATION])
    looks = []
    monkeypatch.setattr(os, "sched_yield", lambda: looks.append(None))
    for _ in range(10_000):  # once two follow each other closely
        await client.ask(kind, 0, 512 if kind == READ else 128 << 10)
        if looks:
            return
    pytest.fail("it never looks")

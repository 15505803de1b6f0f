"""Clients and drivers that do wrong, or too much: nobody else is harmed."""

import asyncio
import errno
import struct
from typing import Any

import pytest

from qmpfleece.exports.nbd import connection
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.client import pack_request
from tests.tools.hold import hold
from tests.tools.until import settle, until

READ, WRITE, ZEROES = const.CMD_READ, const.CMD_WRITE, const.CMD_WRITE_ZEROES


async def still_serves(served):
    client = await served.enter()
    assert await client.read(0, 512) == served.disk.data[:512]
    return True


async def test_client_sends_bad_request_magic(served, caplog):
    client = await served.enter()
    client.send(b"\0\0\0\5" + bytes(24))
    assert b"invalid magic (got 0x5)" in await client.receive()
    assert await client.hung_up()
    assert await still_serves(served)
    assert "intermediate state" in caplog.text


async def test_client_sends_write_over_32_mib(served):
    client = await served.enter()
    client.send(pack_request(WRITE, 1, 0, (32 << 20) + 1), b"x" * 100_000)
    assert b"is larger than max len" in await client.receive()
    assert await client.hung_up()
    assert await still_serves(served)


async def test_client_sends_read_over_32_mib_and_goes_on(served):
    client = await served.enter()
    reply = await client.ask(READ, 0, (32 << 20) + 1)
    assert reply.error == const.EINVAL
    assert await client.read(0, 16) == served.data[:16]


REFUSED = [
    (READ, (4 << 20) - 1, 2, 0, "operation past EOF; From: 4194303, Len: 2, Size: 4194304"),
    (READ, (1 << 64) - 1, 512, 0, "operation past EOF; From: 18446744073709551615, Len: 512"),
    (ZEROES, 4 << 20, 1, 0, "operation past EOF"),
    (const.CMD_TRIM, 0, (1 << 32) - 1, 0, "operation past EOF"),
    (READ, 0, 512, 0x8000, "unsupported flags for command read (got 0x8000)"),
    (ZEROES, 0, 512, const.CMD_FLAG_DF, "unsupported flags for command write zeroes (got 0x4)"),
    (77, 0, 0, 2, "unsupported flags for command <unknown> (got 0x2)"),
    (8, 0, 0, 0, "invalid request type (8) received"),
    (const.CMD_BLOCK_STATUS, 0, 512, 0, "CMD_BLOCK_STATUS not negotiated"),
    (const.CMD_BLOCK_STATUS, 0, 0, 0, "need non-zero length"),
]


@pytest.mark.parametrize(("kind", "offset", "length", "flags", "text"), REFUSED)
async def test_client_sends_request_that_is_refused(served, kind, offset, length, flags, text):
    client = await served.enter()
    client.send(pack_request(kind, 1, offset, length, flags))
    reply = await client.receive()
    assert struct.unpack_from(">I", reply, 20)[0] == const.EINVAL
    assert text.encode() in reply
    assert await client.read(0, 16) == served.data[:16]


async def test_client_sends_write_to_read_only_export(served):
    await served.add("ro", writable=False)
    client = await served.enter("ro")
    for kind, data in ((WRITE, b"abcd"), (ZEROES, b""), (const.CMD_TRIM, b"")):
        reply = await client.ask(kind, 0, 4, data=data)
        assert (reply.error, reply.message) == (const.EINVAL, "Export is read-only")
    assert served.disk.data == served.data


async def test_client_sends_half_a_request_and_vanishes(served, caplog):
    for part in (pack_request(READ, 1, 0, 4096)[:20], pack_request(WRITE, 1, 0, 4096) + b"half"):
        client = await served.enter()
        client.send(part)
        await client.writer.drain()
        client.close()
        await until(lambda: not served.manager.exports()[0].users)
    assert "Disconnect client, due to: Unexpected end-of-file" in caplog.text
    assert "Failed to read CMD_WRITE data" in caplog.text
    assert served.disk.data == served.data


async def test_client_sends_nothing(served, caplog, monkeypatch):
    monkeypatch.setattr(connection, "HANDSHAKE_S", 0.01)
    client = await served.connect()
    assert await client.receive() == b"NBDMAGICIHAVEOPT\0\3"
    assert await client.hung_up()
    assert not caplog.records


async def test_client_sends_its_flags_and_nothing_more(served, monkeypatch):
    monkeypatch.setattr(connection, "HANDSHAKE_S", 0.01)
    client = await served.connect()
    client.send(b"\0\0\0\3")
    await client.receive()
    assert await client.hung_up()
    assert served.manager.nbd.connections == 0


async def test_client_sends_nothing_and_leaves(served, caplog):
    client = await served.connect()
    await client.receive()
    client.close()
    await until(lambda: not served.manager.nbd.connections)
    assert not caplog.records


async def test_client_sends_garbage_for_a_handshake(served, caplog):
    client = await served.connect()
    client.send(b"\0\0\0\3GET / HTTP/1.1\r\n\r\n")
    await client.hung_up()
    assert "option negotiation failed: Bad magic received" in caplog.text
    assert await still_serves(served)


async def test_client_sends_goodbye(served, caplog):
    client = await served.connect()
    await client.shake_hands("", listing=True)
    assert client.machine.exports == [("e", "")]
    await client.hung_up()
    assert not caplog.records


async def test_client_says_goodbye_and_takes_no_replies(served, monkeypatch):
    monkeypatch.setattr(connection, "FAREWELL_S", 0.01)
    client = await served.enter()
    gate, let_go = hold(served.disk, "pread")
    for cookie in range(5):  # more than a socket takes
        client.send(pack_request(READ, cookie, 0, 4 << 20))
    client.send(pack_request(const.CMD_DISC, 9, 0, 0))
    await gate.reached.wait()
    await settle()
    let_go()
    gate.set()
    await until(lambda: not served.manager.exports()[0].users)


async def test_client_says_goodbye_and_takes_its_replies_slowly(served):
    client = await served.enter()
    gate, let_go = hold(served.disk, "pread")
    for cookie in range(5):
        client.send(pack_request(READ, cookie, 0, 4 << 20, const.CMD_FLAG_DF))
    client.send(pack_request(const.CMD_DISC, 9, 0, 0))
    await gate.reached.wait()
    await settle()
    let_go()
    gate.set()
    (server,) = served.manager.nbd._connections
    size = server._transport.get_write_buffer_size
    await until(lambda: not server._requests.in_flight and size())
    server._farewell_late(size() + 1)  # it has taken something
    received = 0
    while data := await client.receive():
        received += len(data)
    assert received > 5 * (4 << 20)


async def test_client_gets_many_answers_takes_none_and_goes_wrong(served, monkeypatch, caplog):
    monkeypatch.setattr(connection, "FAREWELL_S", 0.01)
    for number in range(64):
        await served.add(f"e{number}", description="x" * 4000)
    client = await served.connect()
    await client.receive()
    listing = const.OPTION_MAGIC.to_bytes(8, "big") + const.OPT_LIST.to_bytes(4, "big") + bytes(4)
    client.send(b"\0\0\0\3" + 60 * listing + b"GET / HTTP/1.1\r\n\r\n")
    await until(lambda: not served.manager.nbd.connections)
    assert "option negotiation failed: Bad magic received" in caplog.text


async def test_client_sends_list_options_for_ever(served):
    """Its replies are bounded although it takes none of them."""
    client = await served.connect()
    client.send(b"\0\0\0\3")
    for _ in range(200_000):
        client.option(const.OPT_LIST)
    assert await still_serves(served)


@pytest.mark.parametrize(
    ("kind", "length"), [(WRITE, 1 << 20), (READ, 1 << 20), (READ, 16384)], ids=str
)
async def test_request_that_finds_no_memory_harms_nobody_else(served, monkeypatch, kind, length):
    client = await served.enter()
    refused = False

    def none_left(size):
        nonlocal refused
        refused = True
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(served.manager.nbd.pool, "take", none_left)
        data = b"x" * 100_000 if kind == WRITE else b""
        for cookie in range(1, 30):
            client.send(pack_request(kind, cookie, 0, length), data)
            if kind == WRITE:
                break
        await until(lambda: refused)
        await settle()
    reply = b""
    while b"No memory" not in reply and b"reading from file failed" not in reply:
        reply += await client.receive()
    if kind == WRITE:
        assert await client.hung_up()
        await until(lambda: not served.manager.exports()[0].users)
    assert await still_serves(served)
    await served.delete("e", "hard")


async def test_driver_with_a_bug_fails_the_request_only(served, caplog, monkeypatch):
    client = await served.enter()

    async def broken(offset, buf):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(served.disk, "pread", broken)
        reply = await client.ask(READ, 0, 512, flags=const.CMD_FLAG_DF)
    assert reply.error == const.EIO
    assert "ZeroDivisionError" in caplog.text
    assert await client.read(0, 16) == served.data[:16]


@pytest.mark.parametrize(
    ("kind", "verb", "count", "length", "most"),
    [
        (READ, "pread", 5000, 512, 512),
        (READ, "pread", 60, 256 << 10, 2),
        (const.CMD_BLOCK_STATUS, "block_status", 60, 256 << 10, 2),
        (ZEROES, "pwrite_zeroes", 60, 256 << 10, 2),
        (const.CMD_TRIM, "pdiscard", 60, 256 << 10, 2),
    ],
    ids=["many", "large", "status", "zeroes", "trim"],
)
async def test_client_asks_for_much_and_others_have_their_turn(
    served, monkeypatch, kind, verb, count, length, most
):
    client = await served.enter(contexts=[const.CONTEXT_BASE_ALLOCATION])
    loop = asyncio.get_running_loop()
    per_turn = [0]
    original = getattr(served.disk, verb)

    def counted(*arguments: Any):
        if not per_turn[-1]:
            loop.call_soon(per_turn.append, 0)
        per_turn[-1] += 1
        return original(*arguments)

    monkeypatch.setattr(served.disk, verb, counted)
    for _ in range(count):
        client.request(kind, 0, length)
    await client.finish(*client.in_flight.values())
    assert sum(per_turn) == count
    # uvloop may read once more between two callbacks
    assert max(per_turn) <= 2 * most

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.nbdproto import const, extents, transmission
from qmpfleece.nbdproto.codec import NbdProtocolError
from qmpfleece.nbdproto.replies import Pending, ReplyParser
from tests.tools.nbd_pair import receive

SIZE = 100_000
CONTENT = bytes(range(250)) * (SIZE // 250)


def data_chunk(offset, data, flags, cookie=1):
    header = bytearray(28)
    transmission.pack_data(memoryview(header), cookie, offset, len(data), flags)
    return bytes(header) + data


def pending_read(offset=0, length=SIZE, cookie=1):
    return Pending(const.CMD_READ, cookie, offset, length, memoryview(bytearray(length)))


def parse(data, *pending: Pending, structured=True, most=None):
    parser = ReplyParser({p.cookie: p for p in pending}.get, structured=structured)
    return receive(parser, data, most)


@pytest.mark.parametrize("most", [None, 1, 7, 28, 1000, 20_000])
def test_structured_read_is_put_together_from_chunks_in_any_order(most):
    request = pending_read(offset=512)
    assert request.buffer is not None
    request.buffer[:] = b"x" * SIZE
    stream = (
        data_chunk(512 + 60_000, CONTENT[60_000:], 0)
        + transmission.pack_hole(1, 512 + 30_000, 30_000, 0)
        + data_chunk(512, CONTENT[:30_000], 0)
        + transmission.pack_none(1)
    )
    assert parse(stream, request, most=most) == [request]
    assert not request.error
    assert request.buffer == CONTENT[:30_000] + bytes(30_000) + CONTENT[60_000:]


@pytest.mark.parametrize("most", [None, 1, 4096])
def test_replies_may_overtake_each_other(most):
    first, second = pending_read(cookie=1), pending_read(cookie=2, length=10)
    write = Pending(const.CMD_WRITE, 3)
    stream = (
        data_chunk(0, CONTENT[:50_000], 0, cookie=1)
        + data_chunk(0, CONTENT[:10], 1, cookie=2)
        + transmission.pack_simple(0, 3)
        + data_chunk(50_000, CONTENT[50_000:], 1, cookie=1)
    )
    assert parse(stream, first, second, write, most=most) == [second, write, first]
    assert first.buffer == CONTENT
    assert second.buffer == CONTENT[:10]


@pytest.mark.parametrize("most", [None, 1, 16, 30_000])
def test_simple_read(most):
    request, flush = pending_read(), Pending(const.CMD_FLUSH, 2)
    stream = transmission.pack_simple(0, 1) + CONTENT + transmission.pack_simple(0, 2)
    assert parse(stream, request, flush, structured=False, most=most) == [request, flush]
    assert request.buffer == CONTENT


def test_empty_reads_complete():
    one, two = pending_read(length=0), pending_read(length=0, cookie=2)
    assert parse(transmission.pack_none(1), one) == [one]
    assert parse(transmission.pack_simple(0, 2), two, structured=False) == [two]


def test_errors_come_with_the_servers_words():
    simple, chunk = Pending(const.CMD_TRIM, 1), pending_read(cookie=2)
    stream = transmission.pack_simple(22, 1) + transmission.pack_error(5, 2, "bad disk")
    assert parse(stream, simple, chunk) == [simple, chunk]
    assert (simple.error, simple.message) == (22, "")
    assert (chunk.error, chunk.message) == (5, "bad disk")


def test_error_at_an_offset_fails_the_read_that_other_chunks_complete():
    request = pending_read()
    body = struct.pack(">IH", 5, 3) + b"bad" + struct.pack(">Q", 512)
    error = struct.pack(">IHHQI", 0x668E33EF, 0, 0x8002, 1, len(body)) + body
    assert parse(error + data_chunk(0, CONTENT, 1), request) == [request]
    assert (request.error, request.message) == (5, "bad")


def test_block_status_gives_extents_by_context():
    request = Pending(const.CMD_BLOCK_STATUS, 1, 0, 1 << 20)
    many = [(512, i % 2) for i in range(60_000)]  # more than one receive buffer
    stream = extents.pack_block_status(1, 0, [(65536, 3)], 0)
    stream += extents.pack_block_status(1, 2, many, const.REPLY_FLAG_DONE)
    assert parse(stream, request) == [request]
    assert request.extents == {0: [(65536, 3)], 2: many}


def chunk(kind, body, flags=1):
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, 1, len(body)) + body


BROKEN = {
    "bad magic": bytes(20),
    "unknown cookie": transmission.pack_simple(0, 99),
    "simple read": transmission.pack_simple(0, 1),
    "data past the request": data_chunk(SIZE - 4, b"12345", 1),
    "data before the request": data_chunk(0, b"12345", 1),
    "hole past the request": transmission.pack_hole(1, SIZE, SIZE, 1),
    "empty hole": transmission.pack_hole(1, 512, 0, 1),
    "too little data": data_chunk(512, b"12345", 1),
    "no data in between": data_chunk(512, CONTENT[:-10], 0)
    + data_chunk(512 + SIZE - 5, b"12345", 1),
    "first half twice": 2 * data_chunk(512, CONTENT[: SIZE // 2], 0) + transmission.pack_none(1),
    "second half twice": 2 * data_chunk(512 + SIZE // 2, CONTENT[: SIZE // 2], 0)
    + transmission.pack_none(1),
    "overlap at the end of a gap": data_chunk(512 + 1000, CONTENT[1000:], 0)
    + data_chunk(512 + 500, CONTENT[500:1001], 0),
    "hole over data": data_chunk(512, CONTENT, 0) + transmission.pack_hole(1, 600, 10, 1),
    "data chunk without data": chunk(1, bytes(8)),
    "none without done": chunk(0, b"", 0),
    "none with content": chunk(0, b"x"),
    "short hole": chunk(2, b"x"),
    "extents for a read": chunk(5, bytes(12)),
    "short error": chunk(0x8001, b"x"),
    "error with too long a message": chunk(0x8001, b"\0\0\0\5\0\x09x"),
    "unknown chunk": chunk(77, b""),
    "huge chunk": struct.pack(">IHHQI", 0x668E33EF, 1, 5, 1, 1 << 31),
}


@pytest.mark.parametrize("stream", BROKEN.values(), ids=BROKEN.keys())
def test_server_sends_broken_reply(stream):
    with pytest.raises(NbdProtocolError):
        parse(stream, pending_read(offset=512))


@pytest.mark.parametrize("body", [b"", bytes(4), bytes(11), bytes(12)])
def test_server_sends_broken_extents(body):
    with pytest.raises(NbdProtocolError):
        parse(chunk(5, body), Pending(const.CMD_BLOCK_STATUS, 1, 0, 4096))


def test_server_sends_chunk_without_structured_replies():
    with pytest.raises(NbdProtocolError):
        parse(data_chunk(0, CONTENT, 1), pending_read(), structured=False)


def test_handshake_leftover_is_fed():
    request = pending_read()
    parser = ReplyParser({1: request}.get)
    assert parser.feed(data_chunk(0, CONTENT, 1)) == [request]
    assert request.buffer == CONTENT


@given(st.randoms(use_true_random=False), st.booleans())
def test_reads_are_whole_exactly_when_each_byte_has_come_once(dice, repeats):
    cuts = sorted({0, 200, *(dice.randrange(200) for _ in range(dice.randrange(12)))})
    pieces = list(pairwise(cuts))
    dice.shuffle(pieces)
    request = pending_read(length=200)
    stream = b"".join(data_chunk(start, CONTENT[start:end], 0) for start, end in pieces)
    if repeats:
        start = dice.randrange(200)
        end = dice.randrange(start + 1, 201)
        stream += data_chunk(start, CONTENT[start:end], 0)
        with pytest.raises(NbdProtocolError, match="twice"):
            parse(stream, request)
        return
    assert parse(stream + transmission.pack_none(1), request) == [request]
    assert request.buffer == CONTENT[:200]

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.nbdproto import const, transmission
from qmpfleece.nbdproto.buffers import BufferPool
from qmpfleece.nbdproto.client import pack_request
from qmpfleece.nbdproto.transmission import LostTrackError, RequestParser

READ = b"\x25\x60\x95\x13\0\0\0\0ABCDEFGH\0\0\0\0\0\0\2\0\0\0\x10\0"
WRITE = b"\x25\x60\x95\x13\0\1\0\1IJKLMNOP\0\0\0\0\0\0\2\0\0\0\0\4data"


def feed(parser, data, most=1 << 30):
    """Receive ``data`` and return the requests that come out, as tuples."""
    found = []
    while data:
        data = data[:most], data[most:]
        rest = parser.feed(data[0])
        data = rest + data[1]
        while (request := parser.next()) is not None:
            payload = bytes(request.payload) if request.payload is not None else None
            found.append((request.type, request.flags, request.offset, request.length, payload))
            request.release()
    return found


@pytest.mark.parametrize("split", range(1, len(READ + WRITE) + 1))
def test_requests_are_found_wherever_the_stream_is_cut(split):
    parser = RequestParser(BufferPool())
    data = READ + WRITE + READ
    found = feed(parser, data[:split]) + feed(parser, data[split:])
    read = (const.CMD_READ, 0, 512, 4096, None)
    assert found == [read, (const.CMD_WRITE, 1, 512, 4, b"data"), read]


def test_cookie_is_the_clients():
    parser = RequestParser(BufferPool())
    parser.feed(READ)
    request = parser.next()
    assert request is not None
    assert request.cookie.to_bytes(8, "big") == b"ABCDEFGH"


requests = st.lists(
    st.tuples(
        st.sampled_from([const.CMD_READ, const.CMD_WRITE, const.CMD_TRIM]),
        st.integers(0, (1 << 64) - 1),
        st.sampled_from([0, 1, 511, 4096, 65535, 65536, 70000, 300_000]),
    ),
    max_size=8,
)


@given(requests, st.sampled_from([1 << 30, 100_000, 4096, 1000]))
def test_any_stream_gives_its_requests_back(wanted, most):
    stream, expected = b"", []
    for index, (kind, offset, length) in enumerate(wanted):
        payload = None
        stream += pack_request(kind, index, offset, length)
        if kind == const.CMD_WRITE:
            payload = bytes([index + 1]) * length
            stream += payload
        expected.append((kind, 0, offset, length, payload))
    parser = RequestParser(BufferPool())
    assert feed(parser, stream, most) == expected


@pytest.mark.parametrize("length", [4096, 300_000])
def test_payload_stays_untouched_until_released(length):
    parser = RequestParser(BufferPool())
    held = []
    for index in range(40):
        data = pack_request(const.CMD_WRITE, index, 0, length) + bytes([index]) * length
        while data:
            data = parser.feed(data)
            while (request := parser.next()) is not None:
                held.append(request)
    assert len(held) == 40
    for index, request in enumerate(held):
        assert request.payload == bytes([index]) * length
        request.release()


def test_released_memory_is_used_again_and_bounded():
    pool = BufferPool(limit=1 << 20)
    parser = RequestParser(pool)
    for _ in range(5):
        feed(parser, pack_request(const.CMD_WRITE, 1, 0, 500_000) + bytes(500_000))
        assert 500_000 <= pool.kept <= 1 << 20
    parser.close()
    assert pool.kept <= 1 << 20


def test_connection_closed_amid_a_payload_gives_memory_back():
    pool = BufferPool()
    parser = RequestParser(pool)
    feed(parser, pack_request(const.CMD_WRITE, 1, 0, 500_000) + bytes(1000))
    parser.close()
    assert pool.kept >= 500_000 + transmission.RECEIVE_SIZE


def test_client_sends_bad_magic():
    parser = RequestParser(BufferPool())
    parser.feed(b"\0\0\0\5" + READ[4:])
    with pytest.raises(LostTrackError, match=r"^invalid magic \(got 0x5\)$") as caught:
        parser.next()
    assert caught.value.cookie.to_bytes(8, "big") == b"ABCDEFGH"


def test_client_sends_write_over_32_mib_and_no_memory_is_taken():
    pool = BufferPool()
    parser = RequestParser(pool)
    parser.feed(pack_request(const.CMD_WRITE, 1, 0, (32 << 20) + 1) + bytes(100))
    request = parser.next()
    assert request is not None
    assert request.payload is None


def test_reply_headers():
    # Sections "Simple reply message", "Structured reply chunk message", "Structured reply types"
    assert transmission.pack_simple(22, 1) == b"\x67\x44\x66\x98\0\0\0\x16\0\0\0\0\0\0\0\1"
    assert transmission.pack_none(1) == b"\x66\x8e\x33\xef\0\1\0\0\0\0\0\0\0\0\0\1\0\0\0\0"
    assert transmission.pack_hole(1, 512, 4096, 0) == (
        b"\x66\x8e\x33\xef\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\x0c\0\0\0\0\0\0\2\0\0\0\x10\0"
    )
    assert transmission.pack_error(5, 1, "no") == (
        b"\x66\x8e\x33\xef\0\1\x80\1\0\0\0\0\0\0\0\1\0\0\0\x08\0\0\0\5\0\2no"
    )
    buffer = bytearray(28)
    transmission.pack_data(memoryview(buffer), 1, 512, 4096, 1)
    assert buffer == b"\x66\x8e\x33\xef\0\1\0\1\0\0\0\0\0\0\0\1\0\0\x10\x08\0\0\0\0\0\0\2\0"
    transmission.pack_simple_data(memoryview(buffer), 1, 512, 4096, 1)
    assert buffer[:16] == b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\1"

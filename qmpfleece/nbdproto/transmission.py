"""The server's side of the transmission phase: requests in, reply headers out.

The parser owns the memory that is received into and offers it piece by piece::

    view = parser.get_buffer()         # receive into this
    parser.received(count)
    while (request := parser.next()) is not None: ...

Small payloads are views of the receive buffer; a payload that has not arrived whole and is
large gets memory of its own, which the rest is received into directly. A write's memory stays
untouched until its ``Request.release``; a parser whose buffer is still in use goes on in
another one.
Source: NBD protocol, "Transmission phase".
"""

import errno
from typing import Final

from qmpfleece.base.units import KIB
from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.buffers import FAST_PLACE, Buffer, BufferPool
from qmpfleece.nbdproto.codec import NbdProtocolError

#: The receive buffer of a connection, in bytes.
RECEIVE_SIZE: Final = 256 * KIB
#: A payload from this size on that is not yet all here gets memory of its own.
DIRECT_SIZE: Final = 64 * KIB
#: After such a payload, how much is received before the next header has been seen: what
#: arrives behind it is payload again, most likely, and would have to be moved.
_PEEK_SIZE: Final = 4 * KIB

SIMPLE_SIZE: Final = codec.SIMPLE_REPLY.size
CHUNK_DATA_SIZE: Final = codec.CHUNK_DATA.size

_unpack_request = codec.REQUEST.unpack_from
_HEADER: Final = codec.REQUEST.size
#: Where in the memory requests begin: so that the payload of a write comes to lie well.
_START: Final = FAST_PLACE - _HEADER
_pack_chunk = codec.CHUNK_DATA.pack_into
_CHUNK_MAGIC: Final = const.STRUCTURED_REPLY_MAGIC
_OFFSET_DATA: Final = const.REPLY_TYPE_OFFSET_DATA


class LostTrackError(NbdProtocolError):
    """The stream cannot be followed any more, as it can't be told where the next request begins.

    Args:
        cookie: What stands in the place of the cookie, for the reply.
        code: The errno for the reply.
        text: The text for the reply.
    """

    def __init__(self, cookie: int, code: int, text: str) -> None:
        super().__init__(text)
        self.cookie: Final = cookie
        self.code: Final = code


class Request:
    """One request of a client.

    Attributes:
        flags: NBD_CMD_FLAG_* bits.
        type: NBD_CMD_*.
        cookie: Goes into the reply.
        offset: In bytes, unchecked.
        length: In bytes, unchecked.
        payload: The data of a write, ``length`` bytes; None otherwise, and when the payload
            is over 32 MiB, after which the stream cannot be followed any more.
    """

    __slots__ = ("_lease", "cookie", "flags", "length", "offset", "payload", "type")

    def __init__(self, flags: int, type_: int, cookie: int, offset: int, length: int) -> None:
        self.flags = flags
        self.type = type_
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.payload: memoryview | None = None
        self._lease: Buffer | None = None

    def release(self) -> None:
        """Give the payload's memory back; to be called once the request is done."""
        if self._lease is not None:
            self.payload = None
            self._lease.release()
            self._lease = None


class RequestParser:
    """Cuts requests out of what is received, in order.

    Args:
        pool: Where receive buffers and large payloads come from.
    """

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._buffer = pool.take(RECEIVE_SIZE)
        self._view = self._buffer.view
        self._pos = self._end = _START
        self._direct: Request | None = None  # a write whose payload is received directly
        self._direct_buffer: Buffer | None = None
        self._direct_end = 0  # how much of it is there
        self._after_direct = False

    def get_buffer(self) -> memoryview:
        """Return the memory to receive into; it is never empty."""
        if self._direct is not None:
            assert self._direct_buffer is not None
            return self._direct_buffer.view[self._direct_end : self._direct.length]
        pos, end = self._pos, self._end
        if self._buffer.users > 1:  # a suspended write looks at it
            old, rest = self._buffer, self._view[pos:end]
            self._buffer = self._pool.take(RECEIVE_SIZE)
            self._view = self._buffer.view
            self._move(rest)
            old.release()
        elif pos != _START:
            self._move(self._view[pos:end])
        if self._after_direct:
            return self._view[self._end : self._end + _PEEK_SIZE]
        return self._view[self._end :]

    def _move(self, rest: memoryview) -> None:
        """Put what is not parsed yet to the beginning of the buffer."""
        self._pos, self._end = _START, _START + len(rest)
        if rest:
            self._view[_START : self._end] = rest

    def received(self, count: int) -> None:
        """Take note that ``count`` bytes were received into the buffer last offered."""
        if self._direct is not None:
            self._direct_end += count
        else:
            self._end += count

    def feed(self, data: bytes) -> bytes:
        """Take bytes that were received elsewhere; return those there is no room for."""
        room = self.get_buffer()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        self.received(count)
        return data[count:]

    def next(self) -> Request | None:
        """Return the next whole request, None when more must be received.

        The caller must ``release`` it. After a write over 32 MiB, which comes without its
        payload, the parser must not be used any more.

        Raises:
            LostTrackError: It does not start like a request, or its payload finds no memory.
        """
        if self._direct is not None:
            return self._finish_direct()
        pos = self._pos
        have = self._end - pos - _HEADER
        if have < 0:
            return None
        magic, flags, type_, cookie, offset, length = _unpack_request(self._view, pos)
        if magic != const.REQUEST_MAGIC:
            raise LostTrackError(cookie, errno.EINVAL, f"invalid magic (got {magic:#x})")
        self._after_direct = False
        request = Request(flags, type_, cookie, offset, length)
        pos += _HEADER
        if type_ == const.CMD_WRITE and length <= const.MAX_PAYLOAD:
            if have < length:
                if length >= DIRECT_SIZE:
                    self._start_direct(request, pos)
                return None
            request.payload = self._view[pos : pos + length]
            request._lease = self._buffer
            self._buffer.users += 1
            pos += length
        self._pos = pos
        return request

    @property
    def missing(self) -> str:
        """What a client that ends here has left unsaid, in QEMU's words; empty for nothing."""
        waiting = self._end - self._pos
        if self._direct is not None or waiting >= _HEADER:
            return (
                "Failed to read CMD_WRITE data: Unexpected end-of-file before all data were read"
            )
        return "Unexpected end-of-file before all bytes were read" if waiting else ""

    def close(self) -> None:
        """Give the memory back; what has been received so far is lost."""
        self._pos = self._end = _START
        self._buffer.release()
        if self._direct_buffer is not None:
            self._direct_buffer.release()
            self._direct = self._direct_buffer = None

    def _start_direct(self, request: Request, pos: int) -> None:
        try:
            buffer = self._pool.take(request.length)
        except (OSError, MemoryError) as error:
            raise LostTrackError(request.cookie, errno.ENOMEM, "No memory") from error
        here = self._end - pos
        buffer.view[:here] = self._view[pos : self._end]
        self._pos = self._end
        self._direct, self._direct_buffer, self._direct_end = request, buffer, here

    def _finish_direct(self) -> Request | None:
        request = self._direct
        assert request is not None
        assert self._direct_buffer is not None
        if self._direct_end < request.length:
            return None
        request._lease = self._direct_buffer
        request.payload = self._direct_buffer.view[: request.length]
        self._direct = self._direct_buffer = None
        self._after_direct = True
        return request


def pack_simple(error: int, cookie: int) -> bytes:
    """Return a simple reply without payload; ``error`` is the wire's number, 0 for success."""
    return codec.SIMPLE_REPLY.pack(const.SIMPLE_REPLY_MAGIC, error, cookie)


def pack_simple_data(
    reply: memoryview, cookie: int, _offset: int, _length: int, _flags: int
) -> None:
    """Put the header of a successful simple reply (16 bytes) in front of its payload."""
    codec.SIMPLE_REPLY.pack_into(reply, 0, const.SIMPLE_REPLY_MAGIC, 0, cookie)


def pack_data(reply: memoryview, cookie: int, offset: int, length: int, flags: int) -> None:
    """Put the header of a data chunk (28 bytes) in front of its payload of ``length`` bytes."""
    _pack_chunk(reply, 0, _CHUNK_MAGIC, flags, _OFFSET_DATA, cookie, length + 8, offset)


def pack_hole(cookie: int, offset: int, length: int, flags: int) -> bytes:
    """Return a chunk that says that ``length`` bytes from ``offset`` on read as zeroes."""
    return codec.CHUNK_HOLE.pack(
        const.STRUCTURED_REPLY_MAGIC,
        flags,
        const.REPLY_TYPE_OFFSET_HOLE,
        cookie,
        12,
        offset,
        length,
    )


def pack_none(cookie: int) -> bytes:
    """Return the chunk that ends a reply without content."""
    return codec.CHUNK.pack(
        const.STRUCTURED_REPLY_MAGIC, const.REPLY_FLAG_DONE, const.REPLY_TYPE_NONE, cookie, 0
    )


def pack_error(error: int, cookie: int, text: str) -> bytes:
    """Return the error chunk that ends a structured reply."""
    message = codec.encode(text)[: const.MAX_STRING]
    return (
        codec.CHUNK.pack(
            const.STRUCTURED_REPLY_MAGIC,
            const.REPLY_FLAG_DONE,
            const.REPLY_TYPE_ERROR,
            cookie,
            codec.ERROR.size + len(message),
        )
        + codec.ERROR.pack(error, len(message))
        + message
    )

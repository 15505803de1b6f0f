"""The client's side of the transmission phase: replies to requests in flight.

::

    parser = ReplyParser(in_flight.get)          # cookie -> Pending
    view = parser.get_buffer()                   # receive into this
    for pending in parser.received(count): ...   # these are complete

Read data goes from the socket straight into the caller's memory when it is large, holes are
filled with zeroes there. A request that failed is complete like any other, with ``error``
set; only a server that breaks the protocol makes the parser raise.
Source: NBD protocol, "Transmission phase", "Structured replies".
"""

from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter
from typing import Final

from qmpfleece.base.units import KIB
from qmpfleece.nbdproto import codec, const, extents
from qmpfleece.nbdproto.codec import NbdProtocolError

_RECEIVE_SIZE: Final = 256 * KIB
#: Payload from this size on is received into the caller's memory directly.
_DIRECT_SIZE: Final = 16 * KIB
#: Largest chunk without read data: 1 MiB of extents, or a message.
_MAX_BODY: Final = 2 << 20


class Pending:
    """A request in flight, and its outcome.

    Args:
        type_: NBD_CMD_*.
        cookie: Unique among the requests in flight of the connection.
        offset: In bytes.
        length: In bytes.
        buffer: For reads, ``length`` bytes to be filled; it must stay valid until complete.

    Attributes:
        error: The wire's error number (``codec.error_from_wire`` makes an errno of it), 0
            for success.
        message: The server's words for the error, may be empty.
        extents: For block status, the extents by context id, as (length, flags).
    """

    __slots__ = (
        "_end", "_gaps", "buffer", "cookie", "error", "extents", "length", "message", "offset",
        "type",
    )  # fmt: skip

    def __init__(
        self,
        type_: int,
        cookie: int,
        offset: int = 0,
        length: int = 0,
        buffer: memoryview | None = None,
    ) -> None:
        self.type = type_
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.buffer = buffer
        self.error = 0
        self.message = ""
        self.extents: dict[int, extents.Extents] = {}
        #: Where the read data ends that has come, and the (start, end) that are missing before.
        self._end = 0
        self._gaps: list[tuple[int, int]] = []

    def _claim(self, offset: int, length: int) -> memoryview:
        """Return the part of the buffer that a chunk describes."""
        start = offset - self.offset
        if self.type != const.CMD_READ or self.buffer is None:
            raise NbdProtocolError("read data for a request that is no read")
        if start < 0 or not length or start + length > self.length:
            raise NbdProtocolError("read data outside of what was asked for")
        end = start + length
        if start >= self._end:
            if start > self._end:
                self._gaps.append((self._end, start))
            self._end = end
        else:
            self._fill_gap(start, end)
        return self.buffer[start:end]

    def _fill_gap(self, start: int, end: int) -> None:
        at = bisect_right(self._gaps, start, key=itemgetter(0)) - 1
        if at < 0 or end > self._gaps[at][1]:
            raise NbdProtocolError("read data sent twice")
        rest = ((self._gaps[at][0], start), (end, self._gaps[at][1]))
        self._gaps[at : at + 1] = [gap for gap in rest if gap[0] < gap[1]]

    def _fail(self, error: int, message: str) -> None:
        if not self.error:
            self.error = error or const.EIO
            self.message = message

    def _finish(self) -> None:
        """Check that the reply was whole."""
        if self.error:
            return
        if self.type == const.CMD_READ and (self._gaps or self._end != self.length):
            raise NbdProtocolError("read reply does not cover the request")
        if self.type == const.CMD_BLOCK_STATUS and not self.extents:
            raise NbdProtocolError("block status reply without extents")


class ReplyParser:
    """Takes replies apart, simple and structured ones.

    Args:
        find: Returns the request in flight of a cookie, None when there is none.
        structured: Structured replies were agreed on.
    """

    def __init__(self, find: Callable[[int], Pending | None], *, structured: bool = True) -> None:
        self._find = find
        self._structured = structured
        self._view = memoryview(bytearray(_RECEIVE_SIZE))
        self._pos = 0
        self._end = 0
        # Read data on its way into the caller's memory:
        self._target: memoryview | None = None
        self._after: Pending | None = None  # complete when the target is full

    def get_buffer(self) -> memoryview:
        """Return the memory to receive into; it is never empty."""
        if self._target is not None and len(self._target) >= _DIRECT_SIZE:
            return self._target
        if self._pos:
            self._view[: self._end - self._pos] = self._view[self._pos : self._end]
            self._end -= self._pos
            self._pos = 0
        if self._end == len(self._view):  # a long block status reply
            wider = memoryview(bytearray(2 * len(self._view)))
            wider[: self._end] = self._view
            self._view = wider
        return self._view[self._end :]

    def received(self, count: int) -> list[Pending]:
        """Take ``count`` bytes just received and return the requests that are complete.

        They are in the order in which the server completed them, each once.

        Raises:
            NbdProtocolError: The connection cannot go on. Nothing in flight is complete.
        """
        done: list[Pending] = []
        if self._target is not None and len(self._target) >= _DIRECT_SIZE:
            self._target = self._target[count:]
            if not self._target:
                self._end_of_data(done)
        else:
            self._end += count
        while self._step(done):
            pass
        return done

    def feed(self, data: bytes) -> list[Pending]:
        """Take bytes that were received elsewhere, such as behind the handshake.

        Raises:
            NbdProtocolError: As ``received``.
        """
        done: list[Pending] = []
        while data:
            room = self.get_buffer()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            done += self.received(count)
            data = data[count:]
        return done

    def _step(self, done: list[Pending]) -> bool:
        if self._target is not None:
            return self._copy_data(done)
        have = self._end - self._pos
        if have < codec.SIMPLE_REPLY.size:
            return False
        (magic,) = codec.U32.unpack_from(self._view, self._pos)
        if magic == const.SIMPLE_REPLY_MAGIC:
            self._simple(done)
            return True
        if magic == const.STRUCTURED_REPLY_MAGIC and self._structured:
            return have >= codec.CHUNK.size and self._chunk(have, done)
        raise NbdProtocolError(f"invalid magic (got {magic:#x})")

    def _request(self, cookie: int) -> Pending:
        pending = self._find(cookie)
        if pending is None:
            raise NbdProtocolError(f"reply to unknown cookie {cookie:#x}")
        return pending

    def _simple(self, done: list[Pending]) -> None:
        _, error, cookie = codec.SIMPLE_REPLY.unpack_from(self._view, self._pos)
        pending = self._request(cookie)
        self._pos += codec.SIMPLE_REPLY.size
        if error:
            pending._fail(error, "")
        elif pending.type == const.CMD_READ:
            if self._structured:
                raise NbdProtocolError("simple reply with data after structured was agreed on")
            if pending.length:
                self._target = pending._claim(pending.offset, pending.length)
                self._after = pending
                return
        pending._finish()
        done.append(pending)

    def _chunk(self, have: int, done: list[Pending]) -> bool:
        """Take one chunk if it is here; of a data chunk, its header is enough."""
        _, flags, kind, cookie, length = codec.CHUNK.unpack_from(self._view, self._pos)
        pending = self._request(cookie)
        last = bool(flags & const.REPLY_FLAG_DONE)
        body = self._pos + codec.CHUNK.size
        if kind == const.REPLY_TYPE_OFFSET_DATA:
            if length <= 8:
                raise NbdProtocolError("data chunk without data")
            if have < codec.CHUNK_DATA.size:
                return False
            (offset,) = codec.U64.unpack_from(self._view, body)
            self._target = pending._claim(offset, length - 8)
            self._after = pending if last else None
            self._pos = body + 8
            return True
        if length > _MAX_BODY:
            raise NbdProtocolError(f"chunk of {length} bytes")
        if have < codec.CHUNK.size + length:
            return False
        _take_body(pending, kind, self._view[body : body + length], last=last)
        self._pos = body + length
        if last:
            pending._finish()
            done.append(pending)
        return True

    def _copy_data(self, done: list[Pending]) -> bool:
        target = self._target
        assert target is not None
        count = min(len(target), self._end - self._pos)
        if not count:
            return False
        target[:count] = self._view[self._pos : self._pos + count]
        self._pos += count
        self._target = target[count:]
        if count < len(target):
            return False
        self._end_of_data(done)
        return True

    def _end_of_data(self, done: list[Pending]) -> None:
        self._target = None
        if self._after is not None:
            self._after._finish()
            done.append(self._after)
            self._after = None


def _take_body(pending: Pending, kind: int, body: memoryview, *, last: bool) -> None:
    """Note what a chunk without read data says."""
    if kind == const.REPLY_TYPE_NONE:
        if body or not last:
            raise NbdProtocolError("malformed NBD_REPLY_TYPE_NONE")
    elif kind == const.REPLY_TYPE_OFFSET_HOLE:
        if len(body) != 12:
            raise NbdProtocolError("malformed NBD_REPLY_TYPE_OFFSET_HOLE")
        (offset,) = codec.U64.unpack_from(body)
        (length,) = codec.U32.unpack_from(body, 8)
        pending._claim(offset, length)[:] = bytes(length)
    elif kind == const.REPLY_TYPE_BLOCK_STATUS:
        if pending.type != const.CMD_BLOCK_STATUS:
            raise NbdProtocolError("extents for a request that is no block status")
        context, found = extents.unpack_block_status(body)
        pending.extents[context] = found
    elif kind & const.REPLY_TYPE_FLAG_ERROR:
        if len(body) < codec.ERROR.size:
            raise NbdProtocolError("malformed error chunk")
        error, size = codec.ERROR.unpack_from(body)
        start = codec.ERROR.size
        if size > len(body) - start:
            raise NbdProtocolError("error chunk with a message longer than itself")
        pending._fail(error, codec.decode(body[start : start + size]))
    else:
        raise NbdProtocolError(f"unknown chunk type {kind:#x}")

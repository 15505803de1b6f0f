"""An NBD client on asyncio: one connection to one export, any number of requests in flight.

The protocol is in ``nbdproto``; here are the socket, the futures of the requests, and the
limits. Read data goes from the socket into the caller's memory, written data from there.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final, cast

from qmpfleece.base import sockets
from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import KIB, MIB
from qmpfleece.nbdclient.uri import NbdUri
from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.client import ClientHandshake, ServerExport, pack_request
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused
from qmpfleece.nbdproto.extents import Extents
from qmpfleece.nbdproto.replies import Pending, ReplyParser

#: How long a server may take to let a client in, in seconds.
HANDSHAKE_S: Final = 20.0
#: How long a server may take to close, in seconds, before the connection is cut.
_GOODBYE_S: Final = 3.0
_HANDSHAKE_SIZE: Final = 64 * KIB
#: Payloads below this size travel in one write with their header.
_JOINED_SIZE: Final = 16 * KIB
_MAX_STATUS: Final = (1 << 32) - const.MAX_PAYLOAD


class NbdClient:
    """A connection in its transmission phase; made by ``connect``.

    Fixed once connected: everything but the requests.

    Attributes:
        uri: Where the export is.
        export: What the server said about it.
    """

    def __init__(self, uri: NbdUri, wire: "_Wire", export: ServerExport) -> None:
        self.uri: Final = uri
        self.export: Final = export
        self._wire: Final = wire
        self._max = max(min(export.max_block, const.MAX_PAYLOAD), export.min_block)

    @classmethod
    async def connect(cls, uri: NbdUri, contexts: Sequence[str] = ()) -> "NbdClient":
        """Connect to an export.

        Args:
            uri: Where it is.
            contexts: The metadata contexts that block status shall report.

        Raises:
            OSError: There is no server, or it says nothing.
            NbdRefused: It does not give the export.
            NbdProtocolError: It is no NBD server.
        """
        machine = ClientHandshake(uri.name, contexts=contexts)
        wire = await _shake_hands(uri, machine)
        assert machine.result is not None
        return cls(uri, wire, machine.result)

    @property
    def size(self) -> int:
        """The length of the export in bytes."""
        return self.export.size

    @property
    def read_only(self) -> bool:
        """Whether the server refuses writes."""
        return bool(self.export.flags & const.FLAG_READ_ONLY)

    @property
    def contexts(self) -> frozenset[str]:
        """The metadata contexts that the server has agreed to report."""
        return frozenset(self.export.contexts.values())

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Fill ``buf`` from ``offset``.

        After a cancellation the memory may still be written to until ``close`` returns.

        Raises:
            OSError: The request failed, or the connection is lost.
        """
        for start in range(0, len(buf), self._max):
            part = buf[start : start + self._max]
            await self._request(const.CMD_READ, offset + start, len(part), buffer=part)

    async def pwrite(self, offset: int, data: memoryview, *, fua: bool = False) -> None:
        """Write ``data``, which must not change before this returns.

        Raises:
            OSError: As ``pread``.
        """
        flags = const.CMD_FLAG_FUA if fua else 0
        for start in range(0, len(data), self._max):
            part = data[start : start + self._max]
            await self._request(const.CMD_WRITE, offset + start, len(part), flags, payload=part)

    async def flush(self) -> None:
        """Make all completed writes stable.

        Raises:
            OSError: As ``pread``.
        """
        await self._request(const.CMD_FLUSH, 0, 0)

    async def block_status(self, offset: int, length: int) -> dict[str, Extents]:
        """Return the extents ``(length, flags)`` of each agreed context, from ``offset`` on.

        They may end before the range does, or reach beyond it.

        Raises:
            OSError: As ``pread``.
            NbdProtocolError: The server left a context out.
        """
        length = min(length, _MAX_STATUS)
        pending = await self._request(const.CMD_BLOCK_STATUS, offset, length)
        if missing := self.export.contexts.keys() - pending.extents.keys():
            name = self.export.contexts[min(missing)]
            raise NbdProtocolError(f"block status reply without context {name}")
        return {name: pending.extents[number] for number, name in self.export.contexts.items()}

    async def close(self) -> None:
        """Say goodbye and close; requests still in flight fail. May be repeated."""
        self._wire.send(pack_request(const.CMD_DISC, 0))
        await self._wire.close()

    async def _request(
        self,
        kind: int,
        offset: int,
        length: int,
        flags: int = 0,
        *,
        buffer: memoryview | None = None,
        payload: memoryview | None = None,
    ) -> Pending:
        wire = self._wire
        await wire.writable()
        pending, future = wire.add(kind, offset, length, buffer)
        header = pack_request(kind, pending.cookie, offset, length, flags)
        if payload is None:
            wire.send(header)
        elif length < _JOINED_SIZE:
            wire.send(b"".join((header, payload)))
        else:
            wire.send(header)
            wire.send(payload)
        await future
        if pending.error:
            raise BlockError(codec.error_from_wire(pending.error), pending.message)
        return pending


async def _shake_hands(uri: NbdUri, machine: ClientHandshake) -> "_Wire":
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            wire = await _open(uri, lambda: _Wire(machine))
            try:
                await wire.entered
            except NbdRefused:
                await wire.close()
                raise
            except BaseException:
                wire.abort()
                raise
            return wire
    except TimeoutError as error:
        raise BlockError(errno.ETIMEDOUT) from error


async def _open(uri: NbdUri, factory: "Callable[[], _Wire]") -> "_Wire":
    loop = asyncio.get_running_loop()
    if uri.path:
        if not sockets.fits_unix(uri.path):  # uvloop would cut it, and connect to another
            raise BlockError(errno.ENAMETOOLONG)
        _, wire = await loop.create_unix_connection(factory, uri.path)
        return wire
    try:
        _, wire = await loop.create_connection(factory, uri.host, uri.port)
    except socket.gaierror as error:
        raise BlockError(errno.EHOSTUNREACH, error.strerror or str(error)) from error
    return wire


class _Wire(asyncio.BufferedProtocol):
    """The socket: first the handshake, then requests and replies.

    Attributes:
        entered: Done when the handshake is.
    """

    def __init__(self, machine: ClientHandshake) -> None:
        loop = asyncio.get_running_loop()
        self.entered: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._machine: ClientHandshake | None = machine
        self._parser: ReplyParser | None = None
        self._first = memoryview(bytearray(_HANDSHAKE_SIZE))
        self._in_flight: dict[int, tuple[Pending, asyncio.Future[None]]] = {}
        self._cookie = 0
        self._error: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[None] = loop.create_future()
        self._resumed: asyncio.Future[None] | None = None

    # -- requests ---------------------------------------------------------------------------

    def add(
        self, kind: int, offset: int, length: int, buffer: memoryview | None
    ) -> tuple[Pending, "asyncio.Future[None]"]:
        """Note a request that is about to be sent.

        Raises:
            Exception: The connection is lost; what it broke of.
        """
        if self._error is not None:
            raise self._error
        self._cookie += 1
        pending = Pending(kind, self._cookie, offset, length, buffer)
        future: asyncio.Future[None] = self._loop.create_future()
        self._in_flight[self._cookie] = pending, future
        return pending, future

    def send(self, data: bytes | memoryview) -> None:
        """Send bytes, unless the connection is lost already."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def writable(self) -> None:
        """Wait until what is to be sent is no longer piling up."""
        while self._resumed is not None:
            await asyncio.shield(self._resumed)

    async def close(self) -> None:
        """Close once what was sent is out; cut the connection if that takes too long."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait({self._closed}, timeout=_GOODBYE_S)
            self.abort()
        await self._closed

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    # -- as asyncio's protocol --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        # uvloop's transports are not derived from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=4 * MIB)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer memory to receive into."""
        return self._parser.get_buffer() if self._parser is not None else self._first

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received."""
        try:
            if self._parser is not None:
                self._complete(self._parser.received(nbytes))
            else:
                self._negotiate(bytes(self._first[:nbytes]))
        except NbdRefused as error:
            self._fail(error)
            self.send(codec.pack_option(const.OPT_ABORT))
            self._hang_up()
        except NbdProtocolError as error:
            self._fail(error)
            self.abort()

    def eof_received(self) -> None:
        """Let the connection close."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is in flight."""
        self._transport = None
        if self._machine is not None and not isinstance(exc, OSError):
            self._fail(NbdProtocolError("the server hung up during the handshake"))
        text = "the server closed the connection"
        self._fail(ConnectionResetError(errno.ECONNRESET, text))
        self.resume_writing()
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """Hold back further requests."""
        self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let requests go on."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    # -- received ---------------------------------------------------------------------------

    def _negotiate(self, data: bytes) -> None:
        machine = self._machine
        if machine is None:
            return  # given up
        self.send(machine.feed(data))
        if not machine.done:
            return
        self._machine = None
        if (export := machine.result) is not None:
            self._parser = ReplyParser(self._find, structured=export.structured)
            self._complete(self._parser.feed(machine.leftover))
        if not self.entered.done():
            self.entered.set_result(None)

    def _find(self, cookie: int) -> Pending | None:
        found = self._in_flight.get(cookie)
        return found[0] if found is not None else None

    def _complete(self, done: list[Pending]) -> None:
        for pending in done:
            found = self._in_flight.pop(pending.cookie, None)
            if found is None:  # answered twice in one piece
                raise NbdProtocolError(f"reply to unknown cookie {pending.cookie:#x}")
            if not found[1].done():
                found[1].set_result(None)

    def _fail(self, error: Exception) -> None:
        """Give up the connection; the first reason counts."""
        if self._error is None:
            self._error = error
        self._machine = None
        waiting = [future for _, future in self._in_flight.values()]
        self._in_flight.clear()
        for future in (self.entered, *waiting):
            if not future.done():
                future.set_exception(self._error)
        with contextlib.suppress(asyncio.InvalidStateError, asyncio.CancelledError):
            self.entered.exception()  # the one who waited for it may be gone

"""One NBD connection: bytes from the socket to requests, replies to the socket.

::

    receive -> parser -> requests, each stepped by hand -> replies, sent together
                            | suspended: resumed when what it waits for has happened

At most ``MAX_IN_FLIGHT`` requests and ``MAX_BYTES_IN_FLIGHT`` of payload are in flight;
beyond that, and while the client does not take its replies, nothing more is received.
Requests are never cancelled: a connection that is lost ends when they have ended.
"""

import asyncio
import enum
import logging
from typing import Final, Protocol, cast

from qmpfleece.base.units import KIB, MIB
from qmpfleece.base.vigil import Vigil
from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.courier import Courier, Sharing
from qmpfleece.exports.nbd.outgoing import Outgoing
from qmpfleece.exports.nbd.reachable import Reachable
from qmpfleece.exports.nbd.requests import Requests
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.buffers import BufferPool
from qmpfleece.nbdproto.handshake import ServerHandshake
from qmpfleece.nbdproto.option import Directory, Negotiated
from qmpfleece.nbdproto.transmission import LostTrackError, Request, RequestParser

log = logging.getLogger(__name__)

#: Most requests in flight: twice QEMU's bound, so that the disk is busy while replies are made.
MAX_IN_FLIGHT: Final = 32
#: No more requests are begun while those in flight have this much payload, in bytes.
MAX_BYTES_IN_FLIGHT: Final = 64 * MIB
#: Above this much unsent data a client gets no more requests begun, in bytes. Besides, uvloop
#: before 0.23 sends more than that at once, and less at the end of the loop's turn.
_HIGH_WATER: Final = 64 * KIB
#: What makes a reply so large that sending it takes longer than waking up, in bytes.
_LARGE: Final = 64 * KIB
_HANDSHAKE_BUFFER: Final = 16 * KIB
#: Most requests begun, and bytes read, zeroed, discarded or told the status of by them, in one
#: turn of the event loop; then others have their turn.
_MAX_BATCH: Final = 512
_MAX_READ: Final = 256 * KIB
#: How long a client may take for its handshake.
HANDSHAKE_S: Final = 10.0
#: For how long one that has said farewell may take nothing of its last replies.
FAREWELL_S: Final = 10.0


class Server(Directory, Protocol):
    """Who accepted the connection."""

    @property
    def pool(self) -> BufferPool:
        """Where large buffers come from."""

    @property
    def vigil(self) -> Vigil:
        """What keeps the loop awake for a client's next request."""

    @property
    def sharing(self) -> Sharing:
        """Who has read much lately."""

    def reachable(self, name: str) -> Reachable | None:
        """Return the export of this name."""

    def connection_leaves(self, connection: "Connection") -> None:
        """The client asks for nothing more, or is gone."""

    def connection_ended(self, connection: "Connection") -> None:
        """The connection is closed and nothing of it is in flight."""


class _Phase(enum.Enum):
    HANDSHAKE = enum.auto()
    TRANSMISSION = enum.auto()
    #: Nothing is received any more; what is in flight is answered, then we hang up.
    CLOSING = enum.auto()
    #: The socket is gone.
    LOST = enum.auto()


class Connection(asyncio.BufferedProtocol):
    """A client, from its handshake to the end of its last request.

    Changes only in ``_serve``: what is parsed.

    Args:
        server: Who accepted it; is told of the end.
    """

    def __init__(self, server: Server) -> None:
        self._server: Final = server
        self.loop: Final = asyncio.get_running_loop()
        self._phase = _Phase.HANDSHAKE
        self._handshake = ServerHandshake(server)
        self._received = memoryview(bytearray(_HANDSHAKE_BUFFER))
        self._timer: asyncio.TimerHandle | None = None
        self._export: Reachable | None = None
        self._client: Client | None = None
        self._parser: RequestParser | None = None
        self._transport: asyncio.Transport | None = None
        self._requests: Requests | None = None
        self._outgoing: Outgoing | None = None
        self._courier: Courier | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._serving = False
        self._wake_scheduled = False
        self._ended = False

    # -- called by the event loop -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._timer = self.loop.call_later(HANDSHAKE_S, self._handshake_late)
        transport.write(self._handshake.greeting())

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Offer the memory for the next receive."""
        if self._phase is _Phase.TRANSMISSION:
            assert self._parser is not None
            return self._parser.get_buffer()
        return self._received

    def buffer_updated(self, count: int) -> None:
        """Work on what was received."""
        if self._phase is _Phase.TRANSMISSION:
            assert self._parser is not None
            self._parser.received(count)
            self._serve()
        elif self._phase is _Phase.HANDSHAKE:
            self._negotiate(self._received[:count])

    def eof_received(self) -> bool:
        """Answer what is in flight before hanging up; True keeps the transport open."""
        if self._phase is _Phase.TRANSMISSION:
            assert self._parser is not None
            # What waits for its turn is whole; only a client that is served fully can be cut.
            if not self._reading_paused and self._parser.missing:
                log.warning("Disconnect client, due to: %s", self._parser.missing)
            self.stop_receiving()
        elif self._phase is _Phase.HANDSHAKE and self._handshake.spoke:
            self._handshake.end()
            self._note_closed()
        # What is in flight, or complete but not sent yet, comes first; then _serve hangs up.
        return self._phase is _Phase.CLOSING

    def pause_writing(self) -> None:
        """Take nothing more from a client that does not take its replies."""
        self._writing_paused = True
        self._pause_reading()

    def resume_writing(self) -> None:
        """Go on with the client's requests."""
        self._writing_paused = False
        if self._outgoing is not None:
            self._outgoing.reclaim()
        if self._phase is _Phase.TRANSMISSION or (self._courier and self._courier.undone):
            self._schedule_wake()
        else:
            self._resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, once the requests in flight have ended."""
        if exc is not None:
            log.info("NBD client lost: %s", exc)
        self._lose()

    # -- called by the server ---------------------------------------------------------------

    def disconnect(self) -> None:
        """Hang up now; requests in flight run to their end, their replies are dropped."""
        if self._transport is not None:
            self._transport.abort()
        self._lose()

    # -- the handshake ----------------------------------------------------------------------

    def _negotiate(self, data: memoryview) -> None:
        assert self._transport is not None
        answer = self._handshake.feed(data)
        if answer:
            self._transport.write(answer)
        if self._handshake.closed is not None:
            self._note_closed()
            self._phase = _Phase.CLOSING
            self._transport.close()
            self._await_farewell()
        elif self._handshake.result is not None:
            self._enter(self._handshake.result)

    def _note_closed(self) -> None:
        if self._handshake.closed:
            log.warning("option negotiation failed: %s", self._handshake.closed)

    def _enter(self, negotiated: Negotiated) -> None:
        transport = self._transport
        assert transport is not None
        export = self._server.reachable(negotiated.export.name)
        assert export is not None  # the handshake has just found it
        self._stop_timer()
        pool = self._server.pool
        self._client = Client(export, negotiated, pool)
        self._outgoing = Outgoing(self._client, transport)
        self._parser = RequestParser(pool)
        self._requests = Requests(self._client, self)
        self._courier = Courier(
            self._client, pool, transport, self._server.sharing, self._schedule_wake
        )
        self._client.courier = self._courier
        self._phase = _Phase.TRANSMISSION
        export.enter(self)
        self._export = export
        rest = self._parser.feed(self._handshake.leftover)
        assert not rest  # the handshake receives less at a time than the parser has room for
        self._serve()

    def _handshake_late(self) -> None:
        if self._handshake.spoke:
            log.info("NBD client did not finish its handshake within %g s", HANDSHAKE_S)
        self.disconnect()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- requests ---------------------------------------------------------------------------

    def _serve(self) -> None:
        """Begin all requests that have been received, as far as the bounds allow."""
        client, requests = self._client, self._requests
        outgoing, courier = self._outgoing, self._courier
        assert client is not None
        assert requests is not None
        assert outgoing is not None
        assert courier is not None
        self._serving = courier.boarding = True
        try:
            begun = self._begin(client, requests, outgoing, courier)
        finally:
            self._serving = False
            courier.go()
        outgoing.send(paused=self._writing_paused)
        busy = requests.in_flight or courier.pending
        if begun == 1 and client.read_here < _LARGE and not busy:
            self._server.vigil.prolong()  # it seems to wait for each reply
        if self._phase is _Phase.CLOSING and not busy and not courier.undone:
            assert self._transport is not None
            self._transport.close()  # once everything is sent

    def _begin(
        self, client: Client, requests: Requests, outgoing: Outgoing, courier: Courier
    ) -> int:
        """Do so, and return how many have been begun."""
        parser = self._parser
        assert parser is not None
        begun = client.read_here = client.looked_here = 0
        transmission = _Phase.TRANSMISSION
        while self._phase is transmission or courier.undone:
            if begun == _MAX_BATCH or client.read_here + client.looked_here >= _MAX_READ:
                self._pause_reading()
                self._schedule_wake()
                break
            if (
                requests.in_flight >= MAX_IN_FLIGHT
                or requests.bytes >= MAX_BYTES_IN_FLIGHT
                or self._writing_paused
                or courier.full
            ):
                self._pause_reading()
                break
            if courier.undone:
                requests.read_after_all(courier.undone.popleft())
                outgoing.send(paused=self._writing_paused)
                continue
            try:
                request = parser.next()
            except LostTrackError as error:
                refused = Request(0, const.CMD_READ, error.cookie, 0, 0)
                client.fail(refused, error.code, str(error))
                self.lose_track()
                break
            if request is None:
                self._resume_reading()
                break
            requests.begin(request)
            begun += 1
            if client.lent:  # much is complete: while it lies in the processor's cache
                outgoing.send(paused=self._writing_paused)
        return begun

    def stop_receiving(self) -> None:
        """Take no more requests; hang up once those in flight are answered."""
        self._phase = _Phase.CLOSING
        self._server.connection_leaves(self)
        self._await_farewell()
        if not self._serving:
            self._schedule_wake()

    def _await_farewell(self) -> None:
        """Hang up once the client has taken nothing for a while though all is there for it."""
        assert self._transport is not None
        self._stop_timer()
        unsent = self._transport.get_write_buffer_size()
        self._timer = self.loop.call_later(FAREWELL_S, self._farewell_late, unsent)

    def _farewell_late(self, before: int) -> None:
        assert self._transport is not None
        in_flight = self._requests is not None and self._requests.in_flight
        away = self._courier is not None and self._courier.pending
        if in_flight or away or self._transport.get_write_buffer_size() != before:
            self._await_farewell()
        else:
            self.disconnect()

    def lose_track(self) -> None:
        """Do so because it can't be told where the next request begins."""
        # QEMU's words.
        log.warning("Disconnect client, due to: Request handling failed in intermediate state")
        self.stop_receiving()

    def request_ended(self) -> None:
        """Go on with the client's requests, and send what is complete."""
        if not self._serving:
            self._schedule_wake()

    def _schedule_wake(self) -> None:
        if not self._wake_scheduled:
            self._wake_scheduled = True
            self.loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Go on after requests have ended or the client has taken replies."""
        self._wake_scheduled = False
        if self._phase is _Phase.LOST:
            self._close_courier()
            self._end_if_idle()
        else:
            self._serve()

    # -- reading on and off, the end --------------------------------------------------------

    def _pause_reading(self) -> None:
        assert self._transport is not None
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        assert self._transport is not None
        if self._reading_paused and not self._writing_paused:
            self._reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _lose(self) -> None:
        self._phase = _Phase.LOST
        self._server.connection_leaves(self)
        self._stop_timer()
        self._close_courier()
        self._end_if_idle()

    def _close_courier(self) -> None:
        """Let go of the courier's end of the socket, so that the client sees that it is over."""
        if self._courier is not None and not self._courier.pending:
            self._courier.close()

    def _end_if_idle(self) -> None:
        """When the socket is gone and nothing is in flight: give everything back, once."""
        if (
            self._ended
            or (self._requests is not None and self._requests.in_flight)
            or (self._courier is not None and self._courier.pending)
        ):
            return
        self._ended = True
        if self._parser is not None:
            self._parser.close()
        if self._outgoing is not None:
            self._outgoing.close()
        if self._export is not None:
            self._export.leave(self)
        self._server.connection_ended(self)

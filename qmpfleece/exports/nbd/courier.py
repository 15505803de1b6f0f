"""Large replies that a thread reads and sends, while the loop does something else.

One connection has one batch of them on its way at a time; until it is back nothing else is
sent on that connection, and nothing further begun::

    take, take, ... -> go -> (away) -> each reply: sent, or what is left of it -> back

Nothing in a batch waits: what could not be sent at once goes the usual way, and so does what
was not in the page cache. So neither a slow disk nor a slow client holds up the thread.

All payloads of a batch are read to the same memory, which so stays in the processor's cache:
those before are sent by then. The headers are there from the beginning. Each reply starts a
little before the one that precedes it, so a payload covers only what is sent already::

    header 3 | header 2 | header 1 | payload 1 ...
    header 3 | header 2 | payload 2 ...
    header 3 | payload 3 ...
"""

import asyncio
import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from qmpfleece.base.units import KIB, MIB
from qmpfleece.exports.nbd.client import Client
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.buffers import Buffer, BufferPool
from qmpfleece.nbdproto.transmission import Request

if TYPE_CHECKING:
    from qmpfleece.base.uring.mover import Mover
    from qmpfleece.block.places import Places

#: No more is added to a batch that has so many bytes: what a unix socket takes at once.
_BATCH: Final = 2 * MIB
#: How far before the payload of one reply that of the next one lies, in bytes: more than a
#: header, and never one of the places that ``nbdproto.buffers.FAST_PLACE`` warns of.
_STEP: Final = 64
#: Room for the headers of a batch, in bytes.
_HEADERS: Final = 8 * KIB
#: So many bytes the loop reads after something was not in the page cache.
_RETRY: Final = 4 * MIB


class Sharing:
    """Who has read much lately. The threads are worth their while only for several clients.

    For one client the loop itself does as well, and nobody has to be woken.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: object = None

    def is_shared(self, user: object) -> bool:
        """Note that ``user`` reads; return whether somebody else was the last to do so."""
        last, self._last = self._last, user
        return last is not None and last is not user

    def forget(self, user: object) -> None:
        """Note that ``user`` is gone."""
        if self._last is user:
            self._last = None


class Courier:
    """The large replies of one connection.

    Args:
        client: Whose replies they are.
        pool: Where memory comes from.
        transport: To the client.
        sharing: Of all connections of the server.
        on_back: Called when a batch is back, and what is ``undone`` is to be done.

    Attributes:
        boarding: Reads may be added, since ``go`` will be called before anything else happens.
        pending: How many replies are in the batch. While there are any nothing may be sent.
        full: Nothing may be begun, either: the batch is large enough, or away.
        undone: Reads that have come back as they were.
    """

    def __init__(
        self,
        client: Client,
        pool: BufferPool,
        transport: asyncio.Transport,
        sharing: Sharing,
        on_back: Callable[[], None],
    ) -> None:
        self.boarding = False
        self.pending = 0
        self.full = False
        self.undone: deque[Request] = deque()
        self._client: Final = client
        self._pool: Final = pool
        self._transport: Final = transport
        self._sharing: Final = sharing
        self._on_back: Final = on_back
        self._mover: Mover | None = None
        self._impossible = False
        #: The transport may close its own while a batch is away, and the number be used again.
        self._socket = -1
        self._away = False
        self._bytes = 0
        #: The memory of the batch, its address, and where the last payload begins.
        self._buffer: Buffer | None = None
        self._address = 0
        self._payload_at = 0
        #: Whether a reply of this batch found too little room.
        self._was_short = False
        #: Bytes to be read by the loop before the next try, after what was not in the page cache.
        self._cold = 0

    def take(self, request: Request) -> bool:
        """Add a read of this client to the batch; return whether that is possible."""
        if not self.boarding:  # the read had to wait before, for a flush: nobody would say go
            return False
        if not self._sharing.is_shared(self) and not self.pending:
            return False
        length = request.length
        if self._cold > 0:
            self._cold -= length
            return False
        if not self.pending and not self._get_ready(length):
            return False
        if self._add(request):
            self.pending += 1
            self._bytes += length
            self.full = self._bytes >= _BATCH
            return True
        if not self.pending:
            self._let_go_of_memory()
        return False

    def _add(self, request: Request) -> bool:
        """Put a read into the chain, if there is room and the drivers say where its data lies."""
        assert self._mover is not None
        assert self._buffer is not None
        client, length = self._client, request.length
        memory, at, header = self._buffer.view, self._payload_at - _STEP, client.header
        if at < header or at + length > len(memory):
            return False
        places = client.backend.locate(request.offset, length)
        if places is None:
            return False
        assert sum(run[2] for run in places.runs) == length
        client.pack_header(
            memory[at - header : at],
            request.cookie,
            request.offset,
            length,
            const.REPLY_FLAG_DONE,
        )
        if not self._mover.add(
            places.runs,
            self._socket,
            self._address + at - header,
            header,
            partial(self._sent, request, at, places),
        ):
            places.release()
            return False
        self._payload_at = at
        return True

    def go(self) -> None:
        """Send the batch on its way, if there is one here; it takes no more."""
        self.boarding = False
        if self.pending and not self._away:
            assert self._mover is not None
            self.full = self._away = True
            self._mover.go()

    def close(self) -> None:
        """Let go of the socket, and forget what is undone; nothing is away. Again is harmless."""
        assert not self.pending
        self._impossible = True
        self._sharing.forget(self)
        self.undone.clear()
        if self._socket >= 0:
            os.close(self._socket)
            self._socket = -1

    def _get_ready(self, length: int) -> bool:
        """Get what is needed; return whether that was possible, and everything else is sent.

        Args:
            length: Of the first read of the batch.
        """
        if self._impossible or self._client.has_replies or self._transport.get_write_buffer_size():
            return False
        if self._mover is None:
            movers = self._client.backend.graph.workers.movers
            try:
                if movers is not None:
                    self._socket = os.dup(self._transport.get_extra_info("socket").fileno())
                    self._mover = movers.one()
            except OSError:
                pass
            self._impossible = self._mover is None
        if self._buffer is None and not self._impossible:
            self._buffer = self._pool.take(_HEADERS + max(length, _BATCH))
            self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer.view))
            self._payload_at = _HEADERS
        return not self._impossible

    def _sent(self, request: Request, at: int, places: "Places", result: int) -> None:
        """Take note of what has become of the read whose payload was to lie ``at`` there."""
        client = self._client
        assert self._buffer is not None
        try:
            places.release()
            size = client.header + request.length
            if result == size:
                return
            if result > 0 or result == -errno.EAGAIN:  # what there was no room for is sent later
                self._was_short = True
                end = at + request.length
                client.out.insert(0, self._buffer.view[end - size + max(result, 0) : end])
                self._buffer.users += 1
                client.lent.append(self._buffer)
            else:
                self.undone.append(request)
        finally:
            self.pending -= 1
            if not self.pending:
                self._come_back()

    def _come_back(self) -> None:
        if self.undone and not self._was_short:
            self._cold = _RETRY
        self.full = self._away = self._was_short = False
        self._bytes = 0
        self._let_go_of_memory()
        self._on_back()

    def _let_go_of_memory(self) -> None:
        """Give it to the pool: whoever takes it next finds it in the cache."""
        if self._buffer is not None:
            self._buffer.release()
            self._buffer = None

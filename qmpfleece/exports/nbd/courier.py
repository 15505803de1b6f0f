"""Large replies that a thread reads and sends, while the loop does something else.

One connection has one batch of them on its way at a time; until it is back nothing else is
sent on that connection, and nothing further begun::

    take, take, ... -> go -> (away) -> each reply: sent, or what is left of it -> back

Nothing in a batch waits: what could not be sent at once goes the usual way, and so does what
was not in the page cache. So neither a slow disk nor a slow client holds up the thread.
"""

import asyncio
import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from qmpfleece.base.units import MIB
from qmpfleece.exports.nbd.client import Client
from qmpfleece.nbdproto.buffers import Buffer
from qmpfleece.nbdproto.transmission import Request

if TYPE_CHECKING:
    from qmpfleece.base.uring.mover import Mover
    from qmpfleece.block.places import Places

#: No more is added to a batch that has so many bytes: what a unix socket takes at once.
_BATCH: Final = 2 * MIB
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
        transport: To the client.
        sharing: Of all connections of the server.
        on_back: Called when a batch is back, and what is ``undone`` is to be done.

    Attributes:
        pending: How many replies are in the batch. While there are any nothing may be sent.
        full: Nothing may be begun, either: the batch is large enough, or away.
        undone: Reads that have come back as they were: request, reply, and whose memory it is.
    """

    def __init__(
        self,
        client: Client,
        transport: asyncio.Transport,
        sharing: Sharing,
        on_back: Callable[[], None],
    ) -> None:
        self.pending = 0
        self.full = False
        self.undone: deque[tuple[Request, memoryview, Buffer]] = deque()
        self._client: Final = client
        self._transport: Final = transport
        self._sharing: Final = sharing
        self._on_back: Final = on_back
        self._mover: Mover | None = None
        self._impossible = False
        #: The transport may close its own while a batch is away, and the number be used again.
        self._socket = -1
        self._away = False
        self._bytes = 0
        #: Whether a reply of this batch found too little room.
        self._was_short = False
        #: Bytes to be read by the loop before the next try, after what was not in the page cache.
        self._cold = 0

    def take(self, request: Request, reply: memoryview, buffer: Buffer) -> bool:
        """Add a read to the batch, if that is possible.

        Args:
            request: A read of this client.
            reply: Its reply: the header, and room for the payload.
            buffer: Has the memory; belongs to the courier when it takes the read.
        """
        if not self._sharing.is_shared(self) and not self.pending:
            return False
        client, length = self._client, request.length
        if self._cold > 0:
            self._cold -= length
            return False
        if not self.pending and not self._get_ready():
            return False
        places = client.backend.locate(request.offset, length)
        if places is None:
            return False
        assert self._mover is not None
        assert sum(run[2] for run in places.runs) == length
        if not self._mover.add(
            places.runs,
            self._socket,
            ctypes.addressof(ctypes.c_char.from_buffer(reply)),
            client.header,
            partial(self._sent, request, reply, buffer, places),
        ):
            places.release()
            return False
        self.pending += 1
        self._bytes += length
        self.full = self._bytes >= _BATCH
        return True

    def go(self) -> None:
        """Send the batch on its way, if there is one here."""
        if self.pending and not self._away:
            assert self._mover is not None
            self.full = self._away = True
            self._mover.go()

    def close(self) -> None:
        """Let go of the socket, and forget what is undone; nothing is away. Again is harmless."""
        assert not self.pending
        self._sharing.forget(self)
        while self.undone:
            self.undone.pop()[2].release()
        if self._socket >= 0:
            os.close(self._socket)
            self._socket = -1

    def _get_ready(self) -> bool:
        """Get what is needed; return whether that was possible, and everything else is sent."""
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
        return not self._impossible

    def _sent(
        self, request: Request, reply: memoryview, buffer: Buffer, places: "Places", result: int
    ) -> None:
        """Take note of what has become of a read."""
        client = self._client
        try:
            places.release()
            if result == len(reply):
                buffer.release()
            elif result > 0:
                self._was_short = True
                client.out.insert(0, reply[result:])  # the client has its beginning
                client.lent.append(buffer)
            elif result == -errno.EAGAIN:
                self._was_short = True
                client.answer(reply, buffer)
            else:
                self.undone.append((request, reply, buffer))
        finally:
            self.pending -= 1
            if not self.pending:
                self._come_back()

    def _come_back(self) -> None:
        if self.undone and not self._was_short:
            self._cold = _RETRY
        self.full = self._away = self._was_short = False
        self._bytes = 0
        self._on_back()

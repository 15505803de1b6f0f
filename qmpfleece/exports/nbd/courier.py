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
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from qmpfleece.base.units import MIB
from qmpfleece.exports.nbd.client import Client
from qmpfleece.nbdproto.buffers import Buffer
from qmpfleece.nbdproto.transmission import Request

if TYPE_CHECKING:
    from qmpfleece.base.uring.mover import Mover
    from qmpfleece.block.places import Places

#: No more is added to a batch that has so many bytes: what a unix socket takes at once.
_BATCH: Final = 2 * MIB


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


class Owner(Protocol):
    """The connection."""

    def read_here(self, request: Request, reply: memoryview, buffer: Buffer) -> None:
        """Read a payload after all; ``buffer`` has the memory of ``reply``."""

    def courier_back(self) -> None:
        """Go on: nothing is away any more."""


class Courier:
    """The large replies of one connection.

    Args:
        owner: Is told what becomes of them.
        client: Whose replies they are.
        transport: To the client.
        sharing: Of all connections of the server.

    Attributes:
        busy: A batch is being made or is away; nothing may be sent.
        full: Nothing may be begun, either: the batch is large enough, or away.
        away: The batch is on its way.
    """

    def __init__(
        self, owner: Owner, client: Client, transport: asyncio.Transport, sharing: Sharing
    ) -> None:
        self.busy = False
        self.full = False
        self.away = False
        self._owner: Final = owner
        self._client: Final = client
        self._transport: Final = transport
        self._sharing: Final = sharing
        self._mover: Mover | None = None
        self._impossible = False
        #: The transport may close its own while a batch is away, and the number be used again.
        self._socket = -1
        self._bytes = 0
        self._count = 0

    def take(self, request: Request, reply: memoryview, buffer: Buffer) -> bool:
        """Add a read to the batch, if that is possible.

        Args:
            request: A read of this client.
            reply: Its reply: the header, and room for the payload.
            buffer: Has the memory; belongs to the courier when it takes the read.
        """
        if not self._sharing.is_shared(self) and not self.busy:
            return False
        if not self.busy and not self._may_begin():
            return False
        client, length = self._client, request.length
        places = client.backend.locate(request.offset, length)
        if places is None:
            return False
        assert self._mover is not None
        if not self._mover.add(
            places.runs,
            self._socket,
            ctypes.addressof(ctypes.c_char.from_buffer(reply)),
            client.header,
            partial(self._sent, request, reply, buffer, places),
        ):
            places.release()
            return False
        self.busy = True
        self._count += 1
        self._bytes += length
        self.full = self._bytes >= _BATCH
        return True

    def go(self) -> None:
        """Send the batch on its way."""
        assert self._mover is not None
        self.full = self.away = True
        self._mover.go()

    def close(self) -> None:
        """Let go of the socket; nothing is away."""
        assert not self.busy
        self._sharing.forget(self)
        if self._socket >= 0:
            os.close(self._socket)
            self._socket = -1

    def _may_begin(self) -> bool:
        """Tell whether all that was sent so far is sent, and get what is needed."""
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
        places.release()
        client = self._client
        if result == len(reply):
            buffer.release()
        elif result == -errno.ECANCELED:
            self._owner.read_here(request, reply, buffer)
        else:
            if result > 0:
                client.out.insert(0, reply[result:])  # the client has its beginning
            else:
                client.out.append(reply)
            client.lent.append(buffer)
        self._count -= 1
        if not self._count:
            self.busy = self.full = self.away = False
            self._bytes = 0
            self._owner.courier_back()

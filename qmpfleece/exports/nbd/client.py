"""A client in the transmission phase, as commands see it: where to read, how to answer.

Replies are collected and leave together: with the batch of requests that one receive
brought, or with all others that end in the same turn of the event loop.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from qmpfleece.base.units import KIB
from qmpfleece.exports.nbd.reachable import Reachable
from qmpfleece.nbdproto import codec, const, transmission
from qmpfleece.nbdproto.buffers import FAST_PLACE, Buffer, BufferPool
from qmpfleece.nbdproto.option import Negotiated
from qmpfleece.nbdproto.transmission import CHUNK_DATA_SIZE, SIMPLE_SIZE, Request

if TYPE_CHECKING:
    from qmpfleece.exports.nbd.courier import Courier

#: Read payloads from this size on get pooled memory, in bytes.
POOLED_READ: Final = 32 * KIB
#: Bytes of the memory in which smaller replies are made one behind the other, so that all
#: that are ready are sent from where they are.
_SLAB: Final = 256 * KIB


class Client:
    """What the client has chosen, and its outgoing replies.

    Args:
        export: The export that it entered.
        negotiated: How its handshake ended.
        pool: Where large reply buffers come from.
    """

    def __init__(self, export: Reachable, negotiated: Negotiated, pool: BufferPool) -> None:
        self.export: Final = export
        self.backend: Final = export.backend
        #: Counts as the requests of whoever has the disk: of a device, if that is exported.
        self.accounting: Final = export.backend.accounting
        self.structured: Final = negotiated.structured
        #: Bytes in front of the payload of a read's reply, and what puts them there, given
        #: the memory, the cookie, and offset, length and flags of a chunk.
        self.header: Final = CHUNK_DATA_SIZE if negotiated.structured else SIMPLE_SIZE
        self.pack_header: Final[Callable[[memoryview, int, int, int, int], None]] = (
            transmission.pack_data if negotiated.structured else transmission.pack_simple_data
        )
        self.read_only: Final = bool(export.info.flags & const.FLAG_READ_ONLY)
        self.size: Final = export.info.size
        self.writethrough: Final = export.writethrough
        #: The metadata contexts that block status reports: (id, context).
        self.contexts: Final = tuple(
            (number, export.contexts[number]) for number, _ in negotiated.contexts
        )
        self._pool = pool
        #: How many reads in a row have looked for holes in vain, and how many bytes may be
        #: read before the next one looks; 0 and less for none.
        self.fruitless = 0
        self.trusted = 0
        #: Bytes that requests have read on the loop since the owner of the socket has set it.
        self.read_here = 0
        #: Bytes that they have zeroed, discarded or told the status of since then. Who looks at
        #: the metadata of a range takes as long as a read, at worst.
        self.looked_here = 0
        #: Given by the owner of the socket.
        self.courier: Courier | None = None
        #: What is to be sent besides ``take_row``. The owner of the socket takes it.
        self.out: list[bytes | bytearray | memoryview] = []
        self._slab = pool.take(_SLAB)
        self._slab_view = self._slab.view
        #: Where in it the first reply begins.
        self._start: Final = FAST_PLACE - self.header
        #: Where the replies begin that are not sent yet, and where they end.
        self._row = self.row_end = self._start
        #: Memory under ``out``, to be released once that is sent.
        self.lent: list[Buffer] = []

    def ok(self, request: Request) -> None:
        """Answer that a request without payload has succeeded."""
        self.out.append(transmission.pack_simple(0, request.cookie))

    def fail(self, request: Request, error: int, text: str) -> None:
        """Answer that a request has failed.

        Args:
            request: The request.
            error: The errno, a host's number.
            text: For clients that take structured replies.
        """
        wire = codec.error_to_wire(error)
        if self.structured and request.type != const.CMD_DISC:
            self.out.append(transmission.pack_error(wire, request.cookie, text))
        else:
            self.out.append(transmission.pack_simple(wire, request.cookie))

    def large_reply(
        self, cookie: int, offset: int, length: int, flags: int
    ) -> tuple[memoryview, Buffer]:
        """Return a large reply, or a chunk of one, that has its header but no payload yet.

        Args:
            cookie: The request's.
            offset: Of the payload, in bytes.
            length: Of the payload, in bytes.
            flags: Of the chunk.

        Returns:
            The whole, and the buffer below, which the caller releases when the read fails, and
            else hands to ``answer``.
        """
        buffer = self._pool.take(FAST_PLACE + length)
        reply = buffer.view[FAST_PLACE - self.header : FAST_PLACE + length]
        self.pack_header(reply, cookie, offset, length, flags)
        return reply, buffer

    def answer(self, reply: memoryview, buffer: Buffer) -> None:
        """Send a reply that is complete; ``buffer`` below it is released then."""
        self.out.append(reply)
        self.lent.append(buffer)

    def room(self, size: int) -> memoryview:
        """Return memory for a reply of ``size`` bytes, at most POOLED_READ and a header.

        The caller must at once say what becomes of it: add the size to ``row_end`` when the
        reply is complete, ``detach`` when that will take some time, nothing when there is none.
        """
        end = self.row_end + size
        if end > _SLAB:
            self._turn_page()
            end = self._start + size
        return self._slab_view[end - size : end]

    def detach(self, size: int) -> Buffer:
        """Set the memory of the last ``room`` apart; the caller releases the buffer."""
        row = self.take_row()
        if row is not None:
            self.out.append(row)
        self._row = self.row_end = self.row_end + size
        self._slab.users += 1
        return self._slab

    @property
    def has_replies(self) -> bool:
        """Whether something is complete and not sent yet."""
        return bool(self.out) or self._row != self.row_end

    def take_row(self) -> memoryview | None:
        """Return the replies that are complete, one behind the other; None if there are none."""
        if self._row == self.row_end:
            return None
        row = self._slab_view[self._row : self.row_end]
        self._row = self.row_end
        return row

    def _turn_page(self) -> None:
        """Take new memory for replies; the old is free again when all in it is sent."""
        slab = self._pool.take(_SLAB)  # first: there may be none
        row = self.take_row()
        if row is not None:
            self.out.append(row)
        self.lent.append(self._slab)
        self._slab = slab
        self._slab_view = self._slab.view
        self._row = self.row_end = self._start

    def close(self) -> None:
        """Give all memory back; nothing is sent any more and no request is in flight."""
        self.release_lent()
        self._slab.release()

    def release_lent(self) -> None:
        """Give back the memory of replies that will never be sent."""
        for buffer in self.lent:
            buffer.release()
        self.lent.clear()

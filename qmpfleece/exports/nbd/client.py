"""A client in the transmission phase, as commands see it: where to read, how to answer.

Replies are collected and leave together: with the batch of requests that one receive
brought, or with all others that end in the same turn of the event loop.
"""

from typing import Final

from qmpfleece.base.units import KIB
from qmpfleece.exports.nbd.reachable import Reachable
from qmpfleece.nbdproto import codec, const, transmission
from qmpfleece.nbdproto.buffers import Buffer, BufferPool
from qmpfleece.nbdproto.option import Negotiated
from qmpfleece.nbdproto.transmission import Request

#: Read payloads from this size on get pooled memory, in bytes.
POOLED_READ: Final = 32 * KIB
#: Where the payload lies in such memory: page-aligned for direct I/O, with room for the
#: header before it.
_PAYLOAD_AT: Final = 4 * KIB


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
        self.structured: Final = negotiated.structured
        self.read_only: Final = bool(export.info.flags & const.FLAG_READ_ONLY)
        self.size: Final = export.info.size
        self.writethrough: Final = export.writethrough
        #: The metadata contexts that block status reports: (id, context).
        self.contexts: Final = tuple(
            (number, export.contexts[number]) for number, _ in negotiated.contexts
        )
        self._pool = pool
        #: How many reads in a row have looked for holes in vain, and how many bytes have
        #: been read without looking.
        self.fruitless = 0
        self.unasked = 0
        #: What is to be sent. The owner of the socket takes it.
        self.out: list[bytes | bytearray | memoryview] = []
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

    def payload_buffer(self, length: int, header: int) -> tuple[memoryview, memoryview, Buffer]:
        """Return memory for a large reply.

        Args:
            length: Of the payload in bytes.
            header: Bytes to leave free in front of it.

        Returns:
            The whole reply, the payload in it, and the buffer below, which the caller
            releases when the read fails, and else puts into ``lent``.
        """
        buffer = self._pool.take(_PAYLOAD_AT + length)
        whole = buffer.view[_PAYLOAD_AT - header : _PAYLOAD_AT + length]
        return whole, whole[header:], buffer

    def release_lent(self) -> None:
        """Give back the memory of replies that will never be sent."""
        for buffer in self.lent:
            buffer.release()
        self.lent.clear()

    def scratch(self, size: int) -> Buffer:
        """Return memory that the caller releases."""
        return self._pool.take(size)

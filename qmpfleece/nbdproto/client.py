"""The client's side of the handshake, and requests.

::

    machine = ClientHandshake("name", contexts=["base:allocation"])
    while machine.result is None:
        send(machine.feed(receive()))
    rest = machine.leftover            # belongs to the transmission phase

Source: NBD protocol, "Fixed newstyle negotiation".
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused


@dataclass(slots=True)
class ServerExport:
    """What the server said about the export.

    Attributes:
        name: The name it was asked for, or its canonical name if the server told one.
        size: Length in bytes.
        flags: Transmission flags, NBD_FLAG_*.
        description: Free text.
        min_block: Requests must be multiples of it, in bytes.
        preferred_block: In bytes.
        max_block: Largest payload in bytes.
        structured: Structured replies are agreed on.
        contexts: Name by id of the metadata contexts that block status will report.
    """

    name: str
    size: int = 0
    flags: int = 0
    description: str = ""
    min_block: int = 1
    preferred_block: int = 4096
    max_block: int = const.MAX_PAYLOAD
    structured: bool = False
    contexts: dict[int, str] = field(default_factory=dict)


class _State(enum.Enum):
    GREETING = enum.auto()
    STRUCTURED = enum.auto()
    CONTEXTS = enum.auto()
    GO = enum.auto()
    EXPORT_NAME = enum.auto()
    LIST = enum.auto()
    DONE = enum.auto()


#: Longest option reply that a server may send, in bytes.
_MAX_REPLY: Final = 64 << 10
#: Longest export, in bytes: what offsets in files can be.
_MAX_SIZE: Final = (1 << 63) - 1
_LISTING_LIMIT: Final = 10_000


class ClientHandshake:
    """One handshake; ends with ``result`` set (or ``exports`` when listing).

    Args:
        export: The name of the export.
        structured: Ask for structured replies.
        contexts: Metadata contexts to ask for; needs ``structured``. Those that the server
            does not have are missing in the result.
        listing: Ask for the list of exports instead of entering one; it is in ``exports``
            once ``done``, and the goodbye is sent.
    """

    def __init__(
        self,
        export: str,
        *,
        structured: bool = True,
        contexts: Sequence[str] = (),
        listing: bool = False,
    ) -> None:
        self._structured = structured
        self._contexts = tuple(contexts)
        self._listing = listing
        self._export = ServerExport(export)
        self._sized = False
        self._state = _State.GREETING
        self._zeroes = codec.EXPORT_ZEROES
        self._data = bytearray()
        #: The exports on offer: (name, description).
        self.exports: list[tuple[str, str]] = []
        #: Set when the transmission phase has begun.
        self.result: ServerExport | None = None

    @property
    def done(self) -> bool:
        """Whether the handshake is over."""
        return self._state is _State.DONE

    @property
    def leftover(self) -> bytes:
        """What came behind the handshake."""
        return bytes(self._data)

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what was received and return what is to be sent.

        Raises:
            NbdRefused: The server does not give the export; say goodbye or hang up.
            NbdProtocolError: This is no NBD server, or one that we cannot talk to.
        """
        self._data += data
        out = bytearray()
        while self._state is not _State.DONE:
            before = len(self._data)
            out += self._step()
            if len(self._data) == before:
                break
        return bytes(out)

    def _step(self) -> bytes:
        if self._state is _State.GREETING:
            return self._greeting()
        if self._state is _State.EXPORT_NAME:
            return self._export_name()
        if len(self._data) < codec.OPTION_REPLY.size:
            return b""
        magic, option, kind, length = codec.OPTION_REPLY.unpack_from(self._data)
        if magic != const.OPTION_REPLY_MAGIC:
            raise NbdProtocolError(f"Unexpected option reply magic {magic:#x}")
        if length > _MAX_REPLY:
            raise NbdProtocolError(f"option reply of {length} bytes")
        end = codec.OPTION_REPLY.size + length
        if len(self._data) < end:
            return b""
        body = bytes(self._data[codec.OPTION_REPLY.size : end])
        del self._data[:end]
        if option != _OPTION_OF[self._state]:
            raise NbdProtocolError(f"reply to option {option} nobody asked for")
        return self._reply(option, kind, body)

    def _greeting(self) -> bytes:
        if len(self._data) < codec.GREETING.size:
            return b""
        magic, style, flags = codec.GREETING.unpack_from(self._data)
        if magic != const.NBD_MAGIC:
            raise NbdProtocolError("Server sent bad initial magic")
        if style != const.OPTION_MAGIC:
            raise NbdProtocolError("Server speaks oldstyle NBD only")
        del self._data[: codec.GREETING.size]
        if flags & const.FLAG_NO_ZEROES:
            self._zeroes = 0
        answer = codec.CLIENT_FLAGS.pack(flags & const.FLAG_C_KNOWN)
        if not flags & const.FLAG_FIXED_NEWSTYLE:
            if self._listing:
                raise NbdProtocolError("Server does not list its exports")
            return answer + self._send_export_name()
        if self._listing:
            self._state = _State.LIST
            return answer + codec.pack_option(const.OPT_LIST)
        if self._structured:
            self._state = _State.STRUCTURED
            return answer + codec.pack_option(const.OPT_STRUCTURED_REPLY)
        return answer + self._send_go()

    def _reply(self, option: int, kind: int, body: bytes) -> bytes:
        if kind & const.REP_FLAG_ERROR:
            return self._refused(NbdRefused(option, kind, codec.decode(body)))
        if kind == const.REP_ACK:
            return self._acknowledged()
        if self._state is _State.GO and kind == const.REP_INFO:
            self._info(body)
        elif self._state is _State.CONTEXTS and kind == const.REP_META_CONTEXT and len(body) > 4:
            (number,) = codec.U32.unpack_from(body)
            self._export.contexts[number] = codec.decode(body[4:])
        elif self._state is _State.LIST and kind == const.REP_SERVER and len(body) >= 4:
            end = 4 + codec.U32.unpack_from(body)[0]
            self.exports.append((codec.decode(body[4:end]), codec.decode(body[end:])))
            if len(self.exports) > _LISTING_LIMIT:
                raise NbdProtocolError("Server has too many exports")
        else:
            raise NbdProtocolError(f"Unexpected reply type {kind:#x} to option {option}")
        return b""

    def _acknowledged(self) -> bytes:
        if self._state is _State.STRUCTURED:
            self._export.structured = True
            if self._contexts:
                return self._send_contexts()
            return self._send_go()
        if self._state is _State.CONTEXTS:
            return self._send_go()
        if self._state is _State.LIST:
            self._state = _State.DONE
            return codec.pack_option(const.OPT_ABORT)
        if not self._sized:
            raise NbdProtocolError("broken server omitted NBD_INFO_EXPORT")
        return self._finish()

    def _refused(self, error: NbdRefused) -> bytes:
        if self._state is _State.STRUCTURED:
            return self._send_go()
        if self._state is _State.CONTEXTS:
            self._export.contexts.clear()
            return self._send_go()
        if self._state is _State.GO and error.reply == const.REP_ERR_UNSUP:
            return self._send_export_name()
        raise error

    def _info(self, body: bytes) -> None:
        if len(body) < 2:
            raise NbdProtocolError("NBD_REP_INFO without a type")
        (kind,) = codec.U16.unpack_from(body)
        export, rest = self._export, body[2:]
        if kind == const.INFO_EXPORT:
            if len(rest) != codec.EXPORT.size:
                raise NbdProtocolError("NBD_INFO_EXPORT of wrong length")
            export.size, export.flags = codec.EXPORT.unpack(rest)
            self._sized = True
        elif kind == const.INFO_NAME:
            export.name = codec.decode(rest)
        elif kind == const.INFO_DESCRIPTION:
            export.description = codec.decode(rest)
        elif kind == const.INFO_BLOCK_SIZE:
            if len(rest) != 12:
                raise NbdProtocolError("NBD_INFO_BLOCK_SIZE of wrong length")
            sizes = tuple(codec.U32.unpack_from(rest, at)[0] for at in (0, 4, 8))
            if not sizes[0] or sizes[0] & (sizes[0] - 1) or sizes[2] < sizes[0]:
                raise NbdProtocolError(f"Server requires impossible block sizes {sizes}")
            export.min_block, export.preferred_block, export.max_block = sizes

    def _export_name(self) -> bytes:
        if len(self._data) < codec.EXPORT.size + self._zeroes:
            return b""
        self._export.size, self._export.flags = codec.EXPORT.unpack_from(self._data)
        del self._data[: codec.EXPORT.size + self._zeroes]
        return self._finish()

    def _finish(self) -> bytes:
        if self._export.size > _MAX_SIZE:
            raise NbdProtocolError(f"Server has an export of impossible size {self._export.size}")
        self._state = _State.DONE
        self.result = self._export
        return b""

    def _send_contexts(self) -> bytes:
        self._state = _State.CONTEXTS
        queries = b"".join(codec.pack_string(context) for context in self._contexts)
        count = codec.U32.pack(len(self._contexts))
        data = codec.pack_string(self._export.name) + count + queries
        return codec.pack_option(const.OPT_SET_META_CONTEXT, data)

    def _send_go(self) -> bytes:
        self._state = _State.GO
        wanted = (const.INFO_BLOCK_SIZE, const.INFO_DESCRIPTION)
        data = codec.pack_string(self._export.name) + codec.U16.pack(len(wanted))
        return codec.pack_option(const.OPT_GO, data + b"".join(map(codec.U16.pack, wanted)))

    def _send_export_name(self) -> bytes:
        self._state = _State.EXPORT_NAME
        return codec.pack_option(const.OPT_EXPORT_NAME, codec.encode(self._export.name))


_OPTION_OF: Final = {
    _State.STRUCTURED: const.OPT_STRUCTURED_REPLY,
    _State.CONTEXTS: const.OPT_SET_META_CONTEXT,
    _State.GO: const.OPT_GO,
    _State.LIST: const.OPT_LIST,
}


def pack_request(
    type_: int, cookie: int, offset: int = 0, length: int = 0, flags: int = 0
) -> bytes:
    """Return a request's header; the payload of a write follows it."""
    return codec.REQUEST.pack(const.REQUEST_MAGIC, flags, type_, cookie, offset, length)

"""What the server's options are written against: exports, and the session that answers.

An option is a function in ``options/``, registered by its number and QEMU's name for it::

    @option(const.OPT_ABORT, "abort")
    def abort(session: Session, data: bytes) -> None: ...
"""

import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from qmpfleece.base.registry import Registry
from qmpfleece.nbdproto import codec, const

#: So much of a name an error quotes, in bytes; names this long or longer get dots.
_QUOTED_NAME: Final = 80


class ExportInfo(NamedTuple):
    """What a client may learn of an export before it is in.

    Attributes:
        name: The name on the wire.
        size: Length in bytes.
        flags: Transmission flags without NBD_FLAG_SEND_DF, which the handshake adds once
            structured replies are agreed on.
        description: Free text, None if there is none: an empty one is told, too.
        min_block: Smallest unit of a request in bytes.
        preferred_block: The unit that costs no read-modify-write, in bytes; whoever is told of a
            larger smallest unit is told that.
        max_block: Largest payload in bytes.
        contexts: Metadata contexts in the order of listing: (id in block status chunks, name).
    """

    name: str
    size: int
    flags: int
    description: str | None = None
    min_block: int = 1
    preferred_block: int = 4096
    max_block: int = const.MAX_PAYLOAD
    contexts: tuple[tuple[int, str], ...] = ((0, const.CONTEXT_BASE_ALLOCATION),)


class Directory(Protocol):
    """The exports that a server offers."""

    def list_exports(self) -> Iterable[ExportInfo]:
        """Return all exports, oldest first."""

    def find_export(self, name: str) -> ExportInfo | None:
        """Return the export of this name."""


class Negotiated(NamedTuple):
    """How the handshake ended well.

    Attributes:
        export: The chosen export.
        structured: Structured replies are agreed on.
        contexts: The metadata contexts that block status reports: (id, name).
    """

    export: ExportInfo
    structured: bool
    contexts: tuple[tuple[int, str], ...]


class Session:
    """The state that options read and change, and their way to answer.

    Args:
        directory: The exports on offer.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory: Final = directory
        #: Agreed on with NBD_OPT_STRUCTURED_REPLY.
        self.structured = False
        #: Neither side sends the 124 zeroes after NBD_OPT_EXPORT_NAME.
        self.no_zeroes = False
        #: The export of the last NBD_OPT_SET_META_CONTEXT, and what it chose there.
        self.contexts_of: ExportInfo | None = None
        self.contexts: tuple[tuple[int, str], ...] = ()
        #: Set when the client is in.
        self.result: Negotiated | None = None
        #: Why the connection must be closed; empty text: the client said goodbye.
        self.closed: str | None = None
        #: How many bytes have been answered so far.
        self.answered = 0
        self._option = 0
        self._out: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.answered += len(data)
        self._out.append(data)

    def reply(self, kind: int, data: bytes = b"") -> None:
        """Answer the current option with one reply of type ``kind`` (NBD_REP_*)."""
        self.send(codec.pack_option_reply(self._option, kind, data))

    def refuse(self, kind: int, text: str) -> None:
        """Answer the current option with an error (NBD_REP_ERR_*)."""
        self.reply(kind, codec.encode(text)[: const.MAX_STRING])

    def refuse_unknown_export(self, name: str) -> None:
        """Answer that there is no such export, quoting 80 bytes of its name."""
        raw = codec.encode(name)
        if len(raw) >= _QUOTED_NAME:
            raw = raw[:_QUOTED_NAME] + b"..."
        self.reply(const.REP_ERR_UNKNOWN, b"export '" + raw + b"' not present")

    def close(self, reason: str) -> None:
        """Give the client up; ``reason`` is for the log."""
        if self.closed is None:
            self.closed = reason

    def flags_of(self, export: ExportInfo) -> int:
        """Return the transmission flags that this client is shown."""
        return export.flags | (const.FLAG_SEND_DF if self.structured else 0)

    def enter(self, export: ExportInfo) -> None:
        """Let the client in. Contexts chosen for another export are forgotten.

        Another one may have the same name: it has come since the other is gone.
        """
        contexts = self.contexts if self.contexts_of is export else ()
        self.result = Negotiated(export, self.structured, contexts)


class Option(NamedTuple):
    """An option that the server knows.

    Attributes:
        number: NBD_OPT_*.
        name: QEMU's name for it in messages.
        run: Answers it.
        takes_data: Without it, data is refused.
    """

    number: int
    name: str
    run: Callable[[Session, bytes], None]
    takes_data: bool


#: The known options; the keys are their numbers as decimal text.
OPTIONS: Final[Registry[Option]] = Registry("NBD option")


def option(
    number: int, name: str, *, takes_data: bool = True
) -> Callable[[Callable[[Session, bytes], None]], Callable[[Session, bytes], None]]:
    """Register the decorated function as the answer to option ``number``."""

    def register(run: Callable[[Session, bytes], None]) -> Callable[[Session, bytes], None]:
        OPTIONS.add(str(number), Option(number, name, run, takes_data))
        return run

    return register


class Malformed(Exception):  # noqa: N818 - becomes NBD_REP_ERR_INVALID, nothing failed
    """The data of an option does not add up; the text is the answer."""


class Reader:
    """Takes an option's data apart.

    Args:
        data: The option's data.
        name: The option's name for messages.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._pos = 0
        self._name = name

    def number(self, shape: struct.Struct) -> int:
        """Take one integer.

        Raises:
            Malformed: The data ends before.
        """
        return int(shape.unpack(self._take(shape.size))[0])

    def export_name(self) -> str:
        """Take an export name with its length.

        Raises:
            Malformed: It is too long, cut short or has a NUL inside.
        """
        length = self.number(codec.U32)
        if length > const.MAX_STRING:
            raise Malformed(f"Invalid name length: {length}")
        return self._text(length)

    def query(self) -> str:
        """Take a metadata context query with its length; one that is too long asks for nothing.

        Raises:
            Malformed: It is cut short, or has a NUL inside and is not too long.
        """
        length = self.number(codec.U32)
        if length > const.MAX_STRING:
            self._take(length)
            return ""
        return self._text(length)

    @property
    def ended(self) -> bool:
        """Whether all data is used."""
        return self._pos == len(self._data)

    def end(self) -> None:
        """Check that all data is used.

        Raises:
            Malformed: Something is left.
        """
        if not self.ended:
            raise Malformed(f"option '{self._name}' has unexpected length")

    def _text(self, length: int) -> str:
        raw = self._take(length)
        if b"\0" in raw:
            raise Malformed(f"Unexpected embedded NUL in option {self._name}")
        return codec.decode(raw)

    def _take(self, length: int) -> bytes:
        end = self._pos + length
        if end > len(self._data):
            raise Malformed(f"Inconsistent lengths in option {self._name}")
        piece = self._data[self._pos : end]
        self._pos = end
        return piece

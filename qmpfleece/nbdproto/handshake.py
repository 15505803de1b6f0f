"""The server's side of the handshake: fed with bytes, gives bytes back.

::

    greeting ->          <- client flags
                         <- option  (any number)
    replies  ->             ...
                         <- NBD_OPT_GO or NBD_OPT_EXPORT_NAME
    transmission

It never raises for what a client sends: it answers, or says why to close. It knows nothing of
time; whoever owns the socket ends a handshake that takes too long.
Source: NBD protocol, "Fixed newstyle negotiation"; answers and texts as QEMU 7.2 gives them.
"""

from typing import Final

from qmpfleece.base.registry import import_siblings
from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.option import OPTIONS, Directory, Malformed, Session

import_siblings("qmpfleece.nbdproto.options")

_OPTIONS: Final = {known.number: known for known in OPTIONS.values()}

#: Most data that a known option is read with, in bytes; longer ones are refused unread.
MAX_OPTION_DATA: Final = 256 << 10
#: Most that one client is told in its handshake, in bytes: a list costs it a few bytes only.
MAX_ANSWERS: Final = 16 << 20


class ServerHandshake(Session):
    """One client's handshake.

    When ``result`` is set the client is in and ``leftover`` holds what it sent after; when
    ``closed`` is set the connection is to be closed once the last bytes are sent.

    Args:
        directory: The exports on offer.
    """

    def __init__(self, directory: Directory) -> None:
        super().__init__(directory)
        self._data = bytearray()
        self._flags_seen = False
        self._fixed = False
        self._skip = 0  # bytes of a refused option's data still to come
        self._refusal = (0, "")  # what is answered then

    def greeting(self) -> bytes:
        """Return what the server says first."""
        return codec.GREETING.pack(
            const.NBD_MAGIC,
            const.OPTION_MAGIC,
            const.FLAG_FIXED_NEWSTYLE | const.FLAG_NO_ZEROES,
        )

    @property
    def spoke(self) -> bool:
        """Whether the client has sent anything: a port probe has not."""
        return self._flags_seen or bool(self._data)

    def end(self) -> None:
        """Take note that the client has hung up."""
        self.close(f"{self._missing()}Unexpected end-of-file before all data were read")

    @property
    def leftover(self) -> bytes:
        """What came after the option that let the client in."""
        return bytes(self._data)

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what was received and return what is to be sent."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
            if not self._skip:
                self.refuse(*self._refusal)
        self._data += data
        while self.result is None and self.closed is None and self._step():
            if self.answered > MAX_ANSWERS:
                self.close("too many options")
        answer = b"".join(self._out)
        self._out.clear()
        return answer

    def _step(self) -> bool:
        """Work one unit off the buffer; return False when more bytes are needed."""
        if not self._flags_seen:
            return self._take_flags()
        have = len(self._data)
        if have >= codec.U64.size and codec.U64.unpack_from(self._data)[0] != const.OPTION_MAGIC:
            self.close("Bad magic received")
            return False
        if have < codec.OPTION.size:
            return False
        _, number, length = codec.OPTION.unpack_from(self._data)
        if length > const.MAX_PAYLOAD:
            self.close(f"len ({length} ) is larger than max len ({const.MAX_PAYLOAD})")
            return False
        self._option = number
        known = _OPTIONS.get(number)
        if not self._fixed and number != const.OPT_EXPORT_NAME:
            self.close(f"Unsupported option {number} ({known.name if known else '<unknown>'})")
            return False
        if known is None:
            text = f"Unsupported option {number} (<unknown>)"
            self._drop(length, const.REP_ERR_UNSUP, text)
        elif length and not known.takes_data:
            text = f"option '{known.name}' has unexpected length"
            self._drop(length, const.REP_ERR_INVALID, text)
        elif number == const.OPT_EXPORT_NAME and length > const.MAX_STRING:
            self.close("Bad length received")
        elif length > MAX_OPTION_DATA and number != const.OPT_ABORT:
            self._drop(length, const.REP_ERR_TOO_BIG, f"option '{known.name}' is too long")
        elif have < codec.OPTION.size + length and number != const.OPT_ABORT:
            return False
        else:
            body = bytes(self._data[codec.OPTION.size : codec.OPTION.size + length])
            del self._data[: codec.OPTION.size + length]
            try:
                known.run(self, body)
            except Malformed as error:
                self.refuse(const.REP_ERR_INVALID, str(error))
        return True

    def _take_flags(self) -> bool:
        if len(self._data) < codec.CLIENT_FLAGS.size:
            return False
        (flags,) = codec.CLIENT_FLAGS.unpack_from(self._data)
        del self._data[: codec.CLIENT_FLAGS.size]
        self._flags_seen = True
        self._fixed = bool(flags & const.FLAG_FIXED_NEWSTYLE)
        self.no_zeroes = bool(flags & const.FLAG_NO_ZEROES)
        unknown = flags & ~const.FLAG_C_KNOWN
        if unknown:
            self.close(f"Unknown client flags {unknown:#x} received")
        return True

    def _drop(self, length: int, kind: int, text: str) -> None:
        """Forget the option at the buffer's start, and refuse it when all its data has come."""
        have = len(self._data) - codec.OPTION.size
        self._skip = max(0, length - have)
        self._refusal = kind, text
        del self._data[: codec.OPTION.size + length]
        if not self._skip:
            self.refuse(kind, text)

    def _missing(self) -> str:
        """Return how QEMU names what the client has left unsaid; nothing for an option's data."""
        if not self._flags_seen:
            return "Failed to read flags: "
        have = len(self._data)
        if have >= codec.OPTION.size:
            (number,) = codec.U32.unpack_from(self._data, codec.U64.size)
            return "Failed to read export name: " if number == const.OPT_EXPORT_NAME else ""
        if self._skip:
            return ""
        parts = ("opts magic", codec.U64.size), ("option", codec.U64.size + codec.U32.size)
        what = next((part for part, end in parts if have < end), "option length")
        return f"Failed to read {what}: "

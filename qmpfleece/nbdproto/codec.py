"""Structures, strings and errors that both sides of the NBD wire share.

Strings are UTF-8 on the wire; bytes that are not come through as surrogate escapes, so that a
foreign name survives the way in and out. A zero is two bytes.
"""

import errno
import struct
from typing import Final

from qmpfleece.base import utf8
from qmpfleece.nbdproto import const

GREETING: Final = struct.Struct(">QQH")
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">QII")
OPTION_REPLY: Final = struct.Struct(">QIII")
EXPORT: Final = struct.Struct(">QH")
#: What follows the answer to NBD_OPT_EXPORT_NAME unless both sides agreed on no zeroes.
EXPORT_ZEROES: Final = 124

U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")

#: magic, flags, type, cookie, offset, length
REQUEST: Final = struct.Struct(">IHHQQI")
#: magic, error, cookie
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
#: magic, flags, type, cookie, length
CHUNK: Final = struct.Struct(">IHHQI")
#: A chunk header and the offset that starts NBD_REPLY_TYPE_OFFSET_DATA.
CHUNK_DATA: Final = struct.Struct(">IHHQIQ")
#: A whole chunk NBD_REPLY_TYPE_OFFSET_HOLE.
CHUNK_HOLE: Final = struct.Struct(">IHHQIQI")
#: Start of an error chunk's payload: error, length of the message.
ERROR: Final = struct.Struct(">IH")


class NbdProtocolError(Exception):
    """The peer broke the protocol; the connection cannot go on. The text is for the log."""


#: What a refusal means that the server says nothing about. Source: QEMU 7.2's client, for the
#: first two; NBD protocol, "Option reply types".
_REFUSED: Final = {
    const.REP_ERR_TLS_REQD: "TLS negotiation required",
    const.REP_ERR_UNKNOWN: "Requested export not available",
    const.REP_ERR_POLICY: "it is not allowed",
    const.REP_ERR_SHUTDOWN: "the server is shutting down",
}


class NbdRefused(Exception):  # noqa: N818 - an answer, not a failure of the wire
    """The server refused an option.

    Args:
        option: The NBD_OPT_* number that was refused.
        reply: The NBD_REP_ERR_* number.
        message: The server's own words, may be empty.
    """

    def __init__(self, option: int, reply: int, message: str) -> None:
        unsaid = _REFUSED.get(reply, f"option {option} refused with {reply:#x}")
        super().__init__(message or unsaid)
        self.option: Final = option
        self.reply: Final = reply
        self.message: Final = message


#: Host errno to the number on the wire; all others become EINVAL. Source: as QEMU 7.2 answers.
_TO_WIRE: Final = {
    errno.EPERM: const.EPERM,
    errno.EROFS: const.EPERM,
    errno.EIO: const.EIO,
    errno.ENOMEM: const.ENOMEM,
    errno.ENOSPC: const.ENOSPC,
    errno.EDQUOT: const.ENOSPC,
    errno.EFBIG: const.ENOSPC,
    errno.EOVERFLOW: const.EOVERFLOW,
    errno.ENOTSUP: const.ENOTSUP,
    errno.ESHUTDOWN: const.ESHUTDOWN,
}

_FROM_WIRE: Final = {
    const.EPERM: errno.EPERM,
    const.EIO: errno.EIO,
    const.ENOMEM: errno.ENOMEM,
    const.EINVAL: errno.EINVAL,
    const.ENOSPC: errno.ENOSPC,
    const.EOVERFLOW: errno.EOVERFLOW,
    const.ENOTSUP: errno.ENOTSUP,
    const.ESHUTDOWN: errno.ESHUTDOWN,
}


def error_to_wire(code: int) -> int:
    """Return the wire's number for a host errno; EINVAL if the protocol has none."""
    return _TO_WIRE.get(code, const.EINVAL)


def error_from_wire(error: int) -> int:
    """Return the host errno for an error on the wire; EINVAL if it is unknown."""
    return _FROM_WIRE.get(error, errno.EINVAL)


def decode(data: bytes | bytearray | memoryview) -> str:
    """Return the text of a string on the wire."""
    return utf8.unpack(bytes(data))


def encode(text: str) -> bytes:
    """Return a string as it goes on the wire."""
    return utf8.pack(text)


def pack_string(text: str) -> bytes:
    """Return a string with its 32-bit length in front."""
    data = encode(text)
    return U32.pack(len(data)) + data


def pack_option(option: int, data: bytes = b"") -> bytes:
    """Return a client's option request."""
    return OPTION.pack(const.OPTION_MAGIC, option, len(data)) + data


def pack_option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """Return one reply of the server to an option."""
    return OPTION_REPLY.pack(const.OPTION_REPLY_MAGIC, option, kind, len(data)) + data

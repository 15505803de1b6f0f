"""Extents of block status: merged, packed and taken apart.

An extent on the wire is (length in bytes, status flags of its context).
"""

import struct
from collections.abc import Iterable

from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.codec import NbdProtocolError

Extents = list[tuple[int, int]]

#: Lengths are 32 bits wide; a longer extent is cut at a multiple of the largest block.
_MAX_LENGTH = (1 << 32) - const.MAX_PAYLOAD


def merge(extents: Iterable[tuple[int, int]]) -> Extents:
    """Return the extents with neighbours of equal status joined and empty ones dropped."""
    merged: Extents = []
    last_length, last_flags = 0, -1
    for length, flags in extents:
        if not length:
            continue
        if flags == last_flags and last_length + length <= _MAX_LENGTH:
            last_length += length
            merged[-1] = (last_length, flags)
        else:
            last_length, last_flags = length, flags
            merged.append((length, flags))
    return merged


def pack_block_status(cookie: int, context: int, extents: Extents, flags: int) -> bytes:
    """Return a chunk with the extents of one context.

    Args:
        cookie: Of the request.
        context: The id that SET_META_CONTEXT gave out.
        extents: At least one, contiguous from the request's offset on.
        flags: NBD_REPLY_FLAG_DONE for the last chunk of the reply.
    """
    numbers = [number for extent in extents for number in extent]
    body = struct.pack(f">I{len(numbers)}I", context, *numbers)
    header = codec.CHUNK.pack(
        const.STRUCTURED_REPLY_MAGIC, flags, const.REPLY_TYPE_BLOCK_STATUS, cookie, len(body)
    )
    return header + body


def unpack_block_status(body: bytes | memoryview) -> tuple[int, Extents]:
    """Return the context id and the extents of a block status chunk's payload.

    Raises:
        NbdProtocolError: It is no whole number of extents, has none, or an empty one.
    """
    count, rest = divmod(len(body) - 4, 8)
    if rest or count < 1:
        raise NbdProtocolError(f"block status chunk of {len(body)} bytes")
    context, *numbers = struct.unpack(f">{1 + 2 * count}I", body)
    extents = list(zip(numbers[::2], numbers[1::2], strict=True))
    if any(not length for length, _ in extents):
        raise NbdProtocolError("block status chunk with an empty extent")
    return context, extents

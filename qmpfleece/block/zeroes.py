"""Zeroes: whether a buffer holds nothing else, and a range made to read as them.

Offsets and lengths are bytes.
"""

import errno
from typing import Final

from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import KIB, MIB, align_down, align_up
from qmpfleece.block import alignment
from qmpfleece.block.driver import ReqFlags
from qmpfleece.block.node import Node

_ZEROES: Final = bytes(64 * KIB)
_MAX_BOUNCE: Final = MIB


def is_zero(buf: memoryview) -> bool:
    """Return whether all bytes of ``buf`` are 0; compares, does not copy."""
    return all(
        _ZEROES.startswith(buf[start : start + len(_ZEROES)])
        for start in range(0, len(buf), len(_ZEROES))
    )


async def pwrite(node: Node, offset: int, length: int, flags: int) -> int:
    """Make a range read as zeroes; parts of blocks, which are serialised, by writing.

    Returns:
        Those of the flags with which all was done, perhaps others of the driver's.

    Raises:
        OSError: ENOTSUP under NO_FALLBACK: the driver has no fast way.
    """
    align = node.request_alignment
    start, end = align_up(offset, align), align_down(offset + length, align)
    if start > end:  # inside one block
        await alignment.pwrite(node, offset, _zeroes(length), flags)
        return node.driver.write_flags
    heeded = -1
    if offset < start:
        await alignment.pwrite(node, offset, _zeroes(start - offset), flags)
        heeded = node.driver.write_flags
    if start < end:
        heeded &= await _pwrite_aligned(node, start, end - start, flags)
    if end < offset + length:
        await alignment.pwrite(node, end, _zeroes(offset + length - end), flags)
        heeded &= node.driver.write_flags
    return heeded


def _zeroes(length: int) -> memoryview:
    return memoryview(_ZEROES if length <= len(_ZEROES) else bytes(length))[:length]


async def _pwrite_aligned(node: Node, offset: int, length: int, flags: int) -> int:
    driver = node.driver
    try:
        if flags & ReqFlags.NO_FALLBACK and not driver.zero_flags & ReqFlags.NO_FALLBACK:
            raise BlockError(errno.ENOTSUP)
        await driver.pwrite_zeroes(offset, length, flags & driver.zero_flags)
    except OSError as error:
        if error.errno != errno.ENOTSUP or flags & ReqFlags.NO_FALLBACK:
            raise
    else:
        return driver.zero_flags
    zeroes = memoryview(bytes(min(length, _MAX_BOUNCE)))
    for start in range(offset, offset + length, _MAX_BOUNCE):
        part = min(_MAX_BOUNCE, offset + length - start)
        await driver.pwrite(start, zeroes[:part], flags & driver.write_flags)
    return driver.write_flags

"""Holes in files: finding them, making them, writing zeroes cheaply. Blocking calls only."""

import errno
import fcntl
import os
import stat
import struct
from functools import cache
from typing import Any, Final

from qmpfleece.base.errors import BlockError
from qmpfleece.block.driver import Status

# linux/falloc.h
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10
# linux/fs.h: _IO(0x12, 119) and _IO(0x12, 127), each takes {start, length}
_BLKDISCARD: Final = 0x1277
_BLKZEROOUT: Final = 0x127F
_NOT_SUPPORTED: Final = {
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EINVAL,
    errno.ENODEV,
}

#: The status of data in a file.
DATA: Final = Status.DATA | Status.ALLOCATED | Status.OFFSET_VALID
#: Where a run ends whose end is not known.
FAR: Final = 1 << 63
_ZERO: Final = Status.ZERO | Status.ALLOCATED | Status.OFFSET_VALID


@cache
def _fallocate() -> Any:
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return function


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Change what a file occupies; see the manual page of the call.

    Raises:
        OSError: With the call's errno; ENOTSUP where the file system can't do it.
    """
    import ctypes

    while _fallocate()(fd, mode, offset, length):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise BlockError(errno.ENOTSUP if code in _NOT_SUPPORTED else code)


def discard(fd: int, offset: int, length: int) -> None:
    """Deallocate a range of a file or block device.

    Raises:
        OSError: ENOTSUP where it can't be done.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
    else:
        _device(fd, _BLKDISCARD, offset, length)


def write_zeroes(fd: int, offset: int, length: int, *, unmap: bool, fast: bool = False) -> None:
    """Write zeroes without sending them.

    Args:
        fd: The file or block device.
        offset: Bytes.
        length: Bytes.
        unmap: Whether the range may be deallocated.
        fast: Whether to fail where the kernel might write zeroes, block by block.

    Raises:
        OSError: ENOTSUP where it can't be done.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        _zero_device(fd, offset, length, unmap=unmap, fast=fast)
        return
    if unmap and offset + length <= info.st_size and _punch(fd, offset, length):
        return
    try:
        fallocate(fd, _ZERO_RANGE, offset, length)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        # tmpfs among others: drop the range, then allocate it again.
        fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
        fallocate(fd, 0, offset, length)


def extents(fd: int, offset: int, length: int, limit: int) -> list[tuple[int, int, int]]:
    """Return up to ``limit`` runs ``(start, status flags, end)`` from ``offset`` on.

    The last one may reach past the range asked for; its end is ``FAR`` if nobody knows it.
    """
    end = offset + length
    runs: list[tuple[int, int, int]] = []
    while offset < end and len(runs) < limit:
        flags, until = _run(fd, offset)
        runs.append((offset, flags, until))
        offset = until
    return runs


def _run(fd: int, offset: int) -> tuple[int, int]:
    """Return the status at ``offset`` and where it ends, for all we know."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end of the file, or past it
            return _ZERO, FAR
        return DATA, FAR
    if data > offset:
        return _ZERO, data
    try:
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError:  # the file has become shorter
        return DATA, FAR
    return DATA, hole if hole > offset else FAR


def _punch(fd: int, offset: int, length: int) -> bool:
    """Deallocate a range; return False where that can't be done."""
    try:
        fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return False
    return True


def _zero_device(fd: int, offset: int, length: int, *, unmap: bool, fast: bool) -> None:
    # For devices a hole is "zero without writing".
    if unmap and _punch(fd, offset, length):
        return
    if fast:
        raise BlockError(errno.ENOTSUP)
    _device(fd, _BLKZEROOUT, offset, length)


def _device(fd: int, request: int, offset: int, length: int) -> None:
    try:
        fcntl.ioctl(fd, request, struct.pack("QQ", offset, length))
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            raise BlockError(errno.ENOTSUP) from error
        raise

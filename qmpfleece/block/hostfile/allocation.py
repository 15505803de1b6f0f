"""Holes in files: making them, and writing zeroes cheaply. Blocking calls only."""

import errno
import fcntl
import os
import stat
import struct
from functools import cache
from typing import Any, Final

from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import SECTOR, align_up

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
        OSError: ENOTSUP where it can't be done; EINVAL for parts of a device's blocks.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
    else:
        _device(fd, _BLKDISCARD, offset, length, _NOT_SUPPORTED - {errno.EINVAL})


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
    # A file that ends within a sector need not grow for what reads as zeroes there anyway.
    if unmap and offset + length <= align_up(info.st_size, SECTOR) and _punch(fd, offset, length):
        return
    try:
        fallocate(fd, _ZERO_RANGE, offset, length)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        # tmpfs among others: drop the range, then allocate it again.
        fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
        fallocate(fd, 0, offset, length)


def _punch(fd: int, offset: int, length: int) -> bool:
    """Deallocate a range; return False where that can't be done, or not now.

    EBUSY comes of a block device whose pages somebody reads meanwhile; QEMU goes on, too.
    """
    try:
        fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
    except OSError as error:
        if error.errno not in {errno.ENOTSUP, errno.EBUSY}:
            raise
        return False
    return True


def _zero_device(fd: int, offset: int, length: int, *, unmap: bool, fast: bool) -> None:
    # For devices a hole is "zero without writing".
    if unmap and _punch(fd, offset, length):
        return
    if fast:
        raise BlockError(errno.ENOTSUP)
    _device(fd, _BLKZEROOUT, offset, length, _NOT_SUPPORTED)


def _device(fd: int, request: int, offset: int, length: int, not_supported: set[int]) -> None:
    try:
        fcntl.ioctl(fd, request, struct.pack("QQ", offset, length))
    except OSError as error:
        if error.errno in not_supported:
            raise BlockError(errno.ENOTSUP) from error
        raise

"""Creating a file for an image; system calls only, so it runs on a thread.

Source: QAPI ``BlockdevCreateOptionsFile``.
"""

import contextlib
import fcntl
import os
import struct
from typing import Final, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.base.fdsets import FdSets
from qmpfleece.base.files import pwrite_all
from qmpfleece.base.units import MIB, SECTOR
from qmpfleece.block.hostfile import locks
from qmpfleece.block.perm import Perm

#: QAPI ``PreallocMode``.
Preallocation = Literal["off", "metadata", "falloc", "full"]

#: linux/fs.h: _IOR('f', 1, long), _IOW('f', 2, long) and FS_NOCOW_FL.
_GETFLAGS: Final = 0x80086601
_SETFLAGS: Final = 0x40086602
_NOCOW: Final = 0x00800000
_FIRST_BLOCK: Final = 4096
_MAX_OFF_T: Final = (1 << 63) - 1


def create(
    fdsets: FdSets, filename: str, size: int, preallocation: Preallocation, *, nocow: bool
) -> None:
    """Make a file of ``size`` bytes that reads as zeroes; one that is there is overwritten.

    Raises:
        QmpError: It can't be made, or somebody uses it.
    """
    try:
        fd = fdsets.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise QmpError(f"Could not create '{filename}': {text}") from error
    try:
        perm, shared = Perm.WRITE | Perm.RESIZE, Perm.ALL & ~Perm.RESIZE
        locks.apply(fd, perm, shared, drop=False)
        locks.check(fd, perm, shared)
        _resize(fd, 0)
        if nocow:
            _set_nocow(fd)
        _extend(fd, size, preallocation)
    finally:
        locks.apply(fd, Perm.NONE, Perm.ALL, drop=True)  # closing a copy leaves them to its set
        fdsets.close_copy(fd)


def _resize(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise QmpError(f"Could not resize file: {error.strerror}") from error


def _extend(fd: int, size: int, preallocation: Preallocation) -> None:
    if size > _MAX_OFF_T:
        raise QmpError("Could not resize file: Invalid argument")
    if preallocation == "metadata":
        raise QmpError("Unsupported preallocation mode: metadata")
    if not size:
        return
    if preallocation == "off":
        _resize(fd, size)
        with contextlib.suppress(OSError):
            # As QEMU does: a block that is there tells the alignment that direct I/O needs.
            # A file of less than a sector becomes one.
            os.pwrite(fd, bytes(_FIRST_BLOCK if size >= _FIRST_BLOCK else SECTOR), 0)
        return
    try:
        if preallocation == "falloc":
            os.posix_fallocate(fd, 0, size)
        else:
            _write_zeroes(fd, size)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
        what = "preallocate new data" if preallocation == "falloc" else "write zeros"
        raise QmpError(f"Could not {what}: {error.strerror}") from error


def _write_zeroes(fd: int, size: int) -> None:
    zeroes = memoryview(bytes(MIB))
    for offset in range(0, size, MIB):
        pwrite_all(fd, zeroes[: size - offset], offset)
    os.fsync(fd)


def _set_nocow(fd: int) -> None:
    """Turn copy-on-write off on file systems that have it; for speed only, so it may fail."""
    with contextlib.suppress(OSError):
        flags = struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, bytes(struct.calcsize("l"))))[0]
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("l", flags | _NOCOW))

"""Reading and writing whole requests, also past the page cache. Blocking calls only."""

import mmap
import os
from typing import Final

from qmpfleece.base.files import pwrite_all
from qmpfleece.base.units import SECTOR

_PAGE: Final = 4096


def read(fd: int, offset: int, buf: memoryview) -> None:
    """Fill ``buf``; what lies past the end of the file is zero.

    Raises:
        OSError: The read failed; the content of ``buf`` is undefined.
    """
    _read(fd, offset, buf, 1)


def read_direct(fd: int, offset: int, buf: memoryview) -> None:
    """Do the same on a file opened with O_DIRECT, by way of aligned memory."""
    # Freed with the last view of it; closing it would trip over those of a traceback.
    aligned = memoryview(mmap.mmap(-1, len(buf)))
    _read(fd, offset, aligned, SECTOR)
    buf[:] = aligned


def _read(fd: int, offset: int, buf: memoryview, unit: int) -> None:
    done = 0
    while done < len(buf):
        got = os.preadv(fd, (buf[done:],), offset + done)
        done += got
        # Part of a unit is only read where the file ends.
        if not got or got % unit:
            buf[done:] = bytes(len(buf) - done)
            return


def write_direct(fd: int, buf: memoryview, offset: int, flags: int) -> None:
    """Do as ``pwrite_all`` on a file opened with O_DIRECT, by way of aligned memory."""
    aligned = memoryview(mmap.mmap(-1, len(buf) or 1))[: len(buf)]
    aligned[:] = buf
    pwrite_all(fd, aligned, offset, flags)


def direct_alignment(fd: int) -> int:
    """Return what requests must be aligned to under O_DIRECT, in bytes."""
    if _can_read(fd, 1):  # an empty file, or a file system that does not mind: unknown
        return _PAGE
    return next((size for size in (SECTOR, 1024, 2048) if _can_read(fd, size)), _PAGE)


def _can_read(fd: int, length: int) -> bool:
    with mmap.mmap(-1, _PAGE) as page, memoryview(page)[:length] as block:
        try:
            os.preadv(fd, [block], 0)
        except OSError:
            return False
    return True

"""Where a file has data, and where holes. Blocking calls only.

There are two ways to ask. SEEK_DATA and SEEK_HOLE work everywhere and take a call or two for each
run; on a worker thread each of them also passes the interpreter to and fro, at the cost of whoever
has it. FIEMAP tells many extents with one call. What it does not tell is whether there is data
in the page cache of an extent that is reserved, but not written on disk: where anything is in the
cache, the first way is asked.

Source: lseek(2); Linux, Documentation/filesystems/fiemap.rst; cachestat(2).
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from qmpfleece.base.units import MIB
from qmpfleece.block.driver import Status

#: A run of equal status: start, status flags, end.
Run = tuple[int, int, int]

#: The status of data in a file, and of a hole.
DATA: Final = Status.DATA | Status.ALLOCATED | Status.OFFSET_VALID
ZERO: Final = Status.ZERO | Status.ALLOCATED | Status.OFFSET_VALID
#: Where a run ends whose end is not known.
FAR: Final = 1 << 63

# linux/fiemap.h: _IOWR('f', 11, struct fiemap)
_FIEMAP: Final = 0xC020660B
#: struct fiemap: start, length, flags, number of extents found, room for so many, -.
_HEAD: Final = struct.Struct("=QQIIII")
#: struct fiemap_extent: offset, place on disk, length, -, flags, -.
_EXTENT: Final = struct.Struct("=QQQ16xI12x")
_UNWRITTEN: Final = 0x800
_syscall: Final = ctypes.CDLL(None).syscall
#: cachestat, since Linux 6.5; its number is the same wherever this runs.
_CACHESTAT: Final = 451
#: struct cachestat_range: offset, length.
_RANGE: Final = struct.Struct("=QQ")
#: struct cachestat: pages in the cache, and of which kind.
_CACHE: Final = struct.Struct("=Q32x")
#: Where to look at least, in bytes: what is learnt besides saves the next question.
_WINDOW: Final = 64 * MIB
#: Extents to ask for at once.
_LEAST: Final = 16
_MOST: Final = 512


def find(fd: int, offset: int, length: int, limit: int, *, mapped: bool) -> list[Run]:
    """Return up to ``limit`` runs from ``offset`` on, which follow each other without gap.

    The last one may reach past the range asked for, and its status go on behind its end, which
    is ``FAR`` if nobody knows it.

    Args:
        fd: The file or device.
        offset: Bytes.
        length: Bytes, more than 0.
        limit: More than 0.
        mapped: Whether FIEMAP can be trusted, see ``mounts.tells_extents``; never of a device,
            which has another size than its file.
    """
    end = offset + length
    if mapped:
        window, count = max(length, _WINDOW), min(max(limit, _LEAST), _MOST)
        try:
            return _cut(_told(fd, offset, window, count), end, limit)
        except OSError:
            pass  # this one can't do it after all
    return _cut(_sought(fd, offset), end, limit)


def _cut(found: Iterable[Run], end: int, limit: int) -> list[Run]:
    """Take ``limit`` runs that begin before ``end``, neighbours of equal status being one."""
    runs: list[Run] = []
    for start, flags, until in found:
        if start >= end:
            break
        if runs and runs[-1][1] == flags:
            runs[-1] = (runs[-1][0], flags, until)
        elif len(runs) == limit:
            break
        else:
            runs.append((start, flags, until))
    return runs


def _told(fd: int, offset: int, window: int, count: int) -> Iterator[Run]:
    """Yield runs from ``offset`` on by FIEMAP: ``count`` extents of ``window`` bytes at a time."""
    size = os.fstat(fd).st_size
    # No extent before this offset has data in the page cache alone. SEEK_DATA walks over every
    # reserved extent up to the next data, so one answer serves for all of those.
    clear = 0
    while offset < size:
        stop = min(offset + window, size)
        extents = _extents(fd, offset, window, count)
        reserved = [(begin, end) for begin, end, unwritten in extents if unwritten and end > clear]
        if reserved and not _is_cached(fd, reserved[0][0], reserved[-1][1]):
            clear = reserved[-1][1]
            # What has just left the cache is written, and shows now.
            extents = _extents(fd, offset, window, count)
        for begin, end, unwritten in extents:
            start, until = max(begin, offset), min(end, size)
            if start >= until:  # space that is reserved past the end of the file
                stop = size
                break
            if offset < start:
                yield offset, ZERO, start
            offset = until
            if not unwritten:
                yield start, DATA, until
                continue
            while start < until:
                flags, known = _run(fd, start) if start >= clear else (ZERO, clear)
                yield start, flags, min(known, until)
                if flags == ZERO:
                    clear = known
                start = known
        else:
            if len(extents) == count:
                continue  # there may be more in the window
        if stop == size:
            break
        if offset < stop:
            yield offset, ZERO, stop
            offset = stop
    yield offset, ZERO, FAR


def _extents(fd: int, offset: int, window: int, count: int) -> list[tuple[int, int, int]]:
    """Return extents ``(start, end, not written)`` from ``offset`` on."""
    memory = bytearray(_HEAD.size + count * _EXTENT.size)
    _HEAD.pack_into(memory, 0, offset, window, 0, 0, count, 0)
    fcntl.ioctl(fd, _FIEMAP, memory)
    found = _HEAD.unpack_from(memory)[3]
    with memoryview(memory)[_HEAD.size : _HEAD.size + found * _EXTENT.size] as told:
        return [
            (start, start + length, flags & _UNWRITTEN)
            for start, _, length, flags in _EXTENT.iter_unpack(told)
        ]


def _is_cached(fd: int, start: int, end: int) -> bool:
    """Tell whether anything of a range is in the page cache; True if the system can't tell."""
    place = ctypes.create_string_buffer(_RANGE.pack(start, end - start))
    told = ctypes.create_string_buffer(_CACHE.size)
    failed = _syscall(_CACHESTAT, fd, place, told, 0)
    return bool(failed or _CACHE.unpack(told.raw)[0])


def _sought(fd: int, offset: int) -> Iterator[Run]:
    """Yield runs from ``offset`` on by SEEK_DATA and SEEK_HOLE."""
    while offset < FAR:
        flags, until = _run(fd, offset)
        yield offset, flags, until
        offset = until


def _run(fd: int, offset: int) -> tuple[int, int]:
    """Return the status at ``offset`` and where it ends, for all we know."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end of the file, or past it
            return ZERO, FAR
        return DATA, FAR
    if data > offset:
        return ZERO, data
    try:
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError:  # the file has become shorter
        return DATA, FAR
    return DATA, hole if hole > offset else FAR

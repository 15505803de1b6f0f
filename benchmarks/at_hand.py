"""Memory that the machine has at hand as long as it measures, and files that stay in it.

A virtual machine gives free memory back to its host, and to get a page again can take a
thousand times as long as to use it, by chance for one peer and not for another. Linux gives
back whole blocks of 2 MiB (page reporting), so one page kept in each keeps the rest here.
"""

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: The distance of the pages that are kept: a quarter of a block, for blocks don't begin where
#: a mapping does, and its pages are not all in a row.
_STEP: Final = 512 * 1024
#: MADV_POPULATE_WRITE: get the memory with one call, instead of a page fault for each page.
_POPULATE_WRITE: Final = 23
#: What is asked for at once, so that the program can be interrupted.
_PIECE: Final = 64 << 20


@contextlib.contextmanager
def kept(size: int) -> Iterator[None]:
    """Keep ``size`` bytes at hand, or half of what is free, for the length of the block."""
    # A huge page goes back as a whole.
    with _claimed(size, mmap.MADV_NOHUGEPAGE) as memory:
        if memory is not None:
            for begin in range(0, len(memory), _STEP):
                memory.madvise(mmap.MADV_DONTNEED, begin + mmap.PAGESIZE, _STEP - mmap.PAGESIZE)
        yield


def fetch(size: int) -> None:
    """Have ``size`` bytes, or half of what is free, in huge pages at hand for a second or two.

    For who writes large pieces: what ``kept`` keeps is too scattered for them.
    """
    with _claimed(size, mmap.MADV_HUGEPAGE):
        pass


@contextlib.contextmanager
def cached(path: Path) -> Iterator[bool]:
    """Keep a file in the page cache for the length of the block; yield whether that is possible.

    A virtual machine's system may take back what is in no use for a second (DAMON), so that one
    read in seventy went to the disk. To lock so much memory takes a privilege.
    """
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as pages:
        first = ctypes.c_char.from_buffer(pages)
        locked = ctypes.CDLL(None).mlock(ctypes.byref(first), ctypes.c_size_t(size)) == 0
        try:
            yield locked
        finally:
            del first  # a mapping with a view can't be closed


@contextlib.contextmanager
def _claimed(size: int, huge: int) -> Iterator[mmap.mmap | None]:
    """Give ``size`` bytes of memory, or half of what is free, all of it touched; None for none.

    Args:
        size: In bytes, rounded down to whole steps.
        huge: MADV_HUGEPAGE or MADV_NOHUGEPAGE.
    """
    size = min(size, _available() // 2) // _STEP * _STEP
    if not size:
        yield None
        return
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with contextlib.suppress(OSError):  # not every kernel has huge pages
            memory.madvise(huge)
        for begin in range(0, size, _PIECE):
            _touch(memory, begin, min(_PIECE, size - begin))
        yield memory


def _touch(memory: mmap.mmap, begin: int, length: int) -> None:
    try:
        memory.madvise(_POPULATE_WRITE, begin, length)
    except OSError:  # Linux before 5.14.
        for offset in range(begin, begin + length, mmap.PAGESIZE):
            memory[offset] = 1


def _available() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE")

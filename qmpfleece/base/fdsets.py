"""Sets of descriptors that somebody has handed over, opened as ``/dev/fdset/N``.

Each open takes a copy of that descriptor of the set which was opened for the same access.

Source: QAPI ``add-fd``; what QEMU 7.2 says when it can't be done.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.files import c_string

_PREFIX: Final = "/dev/fdset/"
_LARGEST: Final = (1 << 63) - 1


class HandedOver:
    """A descriptor of a set.

    Attributes:
        number: Its number in this process; the set owns it.
        opaque: What its owner says about it.
        removed: It goes as soon as it may.
    """

    def __init__(self, number: int, opaque: str | None = None) -> None:
        self.number: Final = number
        self.opaque: Final = opaque
        self.removed = False


class FdSet:
    """A set.

    Attributes:
        members: Its descriptors, in the order of their coming.
        copies: Those that were made of them and are open.
    """

    def __init__(self) -> None:
        self.members: list[HandedOver] = []
        self.copies: set[int] = set()


class FdSets:
    """All sets.

    Attributes:
        keeps: Whether removed descriptors stay for now: QEMU keeps them while the guest stands.
    """

    def __init__(self) -> None:
        self._sets: dict[int, FdSet] = {}
        self._clients = 0
        self.keeps: Callable[[], bool] = lambda: False

    def all(self) -> list[tuple[int, FdSet]]:
        """Return the sets by their numbers, the largest first."""
        return sorted(self._sets.items(), reverse=True)

    def add(self, fd: int, wanted: int | None = None, opaque: str | None = None) -> int:
        """Put a descriptor, which the set owns from now on, into a set; return which.

        Args:
            fd: It is open.
            wanted: The set; by default a new one with the smallest free number.
            opaque: What its owner says about it.
        """
        if wanted is None:
            wanted = next(n for n in range(len(self._sets) + 1) if n not in self._sets)
        self._sets.setdefault(wanted, FdSet()).members.append(HandedOver(fd, opaque))
        return wanted

    def remove(self, number: int, fd: int | None = None) -> None:
        """Let a descriptor, or all of a set, go as soon as may be; copies stay open.

        Raises:
            QmpError: There is none.
        """
        found = self._sets.get(number)
        gone = [item for item in found.members if fd in {None, item.number}] if found else []
        if found is None or (fd is not None and not gone):
            where = f"fdset-id:{number}" + (f", fd:{fd}" if fd is not None else "")
            raise QmpError(f"File descriptor named '{where}' not found")
        for item in gone:
            item.removed = True
        self._clean(number)

    def client_came(self) -> None:
        """Count a client that may hand something over."""
        self._clients += 1

    def client_went(self) -> None:
        """Count it no more; with the last one goes what nobody has opened."""
        self._clients -= 1
        if not self._clients:
            for number in list(self._sets):
                self._clean(number)

    def open(self, filename: str, flags: int) -> int:
        """Open a file, or copy a descriptor. It waits for nobody at the other end of a FIFO.

        Raises:
            OSError: The file can't be opened.
            QmpError: There is no such descriptor.
        """
        if not filename.startswith(_PREFIX):
            return _open(c_string(filename), flags)
        digits = re.fullmatch(r"0*\d{1,19}", filename.removeprefix(_PREFIX), re.ASCII)
        if digits is None or int(digits[0][-19:]) > _LARGEST:
            raise QmpError(f"Could not parse fdset {filename}")
        fdset = self._sets.get(int(digits[0][-19:]))
        code = errno.ENOENT if fdset is None else errno.EACCES
        for item in fdset.members if fdset is not None else ():
            mode = fcntl.fcntl(item.number, fcntl.F_GETFL)
            if fdset is not None and mode & os.O_ACCMODE == flags & os.O_ACCMODE:
                copy = fcntl.fcntl(item.number, fcntl.F_DUPFD_CLOEXEC, 0)
                try:
                    fcntl.fcntl(copy, fcntl.F_SETFL, mode & ~os.O_DIRECT | flags & os.O_DIRECT)
                except OSError:
                    close(copy)
                    raise
                fdset.copies.add(copy)
                return copy
        raise QmpError(
            f"Could not dup FD for {filename} flags {flags & ~os.O_CLOEXEC:x}: {os.strerror(code)}"
        )

    def close_copy(self, fd: int) -> None:
        """Close what ``open`` has returned."""
        self.forget_copy(fd)
        close(fd)

    def forget_copy(self, fd: int) -> None:
        """Take note that what ``open`` has returned is going to be closed: it still is open.

        For those who close on a thread. Afterwards another copy may have its number.
        """
        for number, fdset in list(self._sets.items()):
            if fd in fdset.copies:
                fdset.copies.discard(fd)
                if not fdset.copies:
                    self._clean(number)

    def close(self) -> None:
        """Close all descriptors that were handed over."""
        for fdset in self._sets.values():
            for item in fdset.members:
                close(item.number)
        self._sets.clear()

    def _clean(self, number: int) -> None:
        if self.keeps():
            return
        if (fdset := self._sets.get(number)) is None:
            return
        unused = not fdset.copies and not self._clients
        for item in [item for item in fdset.members if item.removed or unused]:
            fdset.members.remove(item)  # first: closing lets others have their turn
            close(item.number)
        if not fdset.members and not fdset.copies:
            self._sets.pop(number, None)


def _open(path: bytes, flags: int) -> int:
    with contextlib.suppress(OSError):  # which opening it tells
        if stat.S_ISFIFO(os.stat(path).st_mode):
            flags |= os.O_NONBLOCK
    return os.open(path, flags, 0o644)


def close(*fds: int) -> None:
    """Close descriptors, all of them; no error is told.

    NFS and FUSE may say then (EIO, ENOSPC, EDQUOT) what has become of earlier writes, which a
    flush would have told. The descriptor is closed nevertheless.
    """
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def is_in_a_set(filename: str) -> bool:
    """Tell whether a name means a descriptor that was handed over."""
    return filename.startswith(_PREFIX)

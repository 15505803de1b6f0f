"""QEMU's lock bytes: permissions on an image, visible to other processes.

Byte 100 + n is locked by who holds permission n, byte 200 + n by who does not share it.
They are shared (read) locks of the open file description (OFD); a conflict is found by asking
whether an exclusive lock on the opposite byte could be had.

Source: QEMU's file-posix driver, observed with ``fcntl(F_OFD_GETLK)`` on files that it opened.
"""

import fcntl
import os
import struct
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.files import NO_LOCKS
from qmpfleece.block.perm import Perm, perm_names

_PERM_BASE: Final = 100
_SHARED_BASE: Final = 200
#: Plain numbers: each change of permissions tests them all.
_BITS: Final = tuple((number, 1 << number) for number in range(Perm.ALL.bit_length()))
#: struct flock: l_type, l_whence, l_start, l_len, l_pid (0 for OFD locks).
_FLOCK: Final = struct.Struct("hhqqi4x")


def apply(fd: int, perm: Perm, shared: Perm, *, drop: bool) -> None:
    """Lock the bytes of ``perm`` and of what is not ``shared``.

    Args:
        fd: The image.
        perm: Permissions held.
        shared: Permissions that others may hold.
        drop: Also unlock all other bytes.

    Raises:
        QmpError: A byte can't be locked; some may have been.
    """
    held, shares = int(perm), int(shared)
    for number, bit in _BITS:
        for base, locked in ((_PERM_BASE, held & bit), (_SHARED_BASE, not shares & bit)):
            if locked:
                _lock(fd, base + number, fcntl.F_RDLCK)
            elif drop:
                _lock(fd, base + number, fcntl.F_UNLCK)


def check(fd: int, perm: Perm, shared: Perm) -> None:
    """Check that nobody else denies ``perm`` or holds what is not ``shared``.

    Raises:
        QmpError: Somebody does.
    """
    held, shares = int(perm), int(shared)
    for number, bit in _BITS:
        if held & bit and _is_locked(fd, _SHARED_BASE + number):
            raise QmpError(f'Failed to get "{perm_names(Perm(bit))}" lock')
    for number, bit in _BITS:
        if not shares & bit and _is_locked(fd, _PERM_BASE + number):
            raise QmpError(f'Failed to get shared "{perm_names(Perm(bit))}" lock')


def _lock(fd: int, byte: int, kind: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in NO_LOCKS:
            return
        if kind == fcntl.F_RDLCK:
            raise QmpError(f"Failed to lock byte {byte}") from error


def _is_locked(fd: int, byte: int) -> bool:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        reply = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request)
    except OSError:
        return False
    return bool(_FLOCK.unpack(reply)[0] != fcntl.F_UNLCK)

"""System calls on files, carried on until they are done; for threads."""

import errno
import os
from typing import Final

from qmpfleece.base.errors import BlockError

#: What a file system answers that has no locks.
NO_LOCKS: Final = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP})


def pwrite_all(fd: int, buf: memoryview, offset: int, flags: int = 0) -> None:
    """Write all of ``buf`` to a file.

    Args:
        fd: The file.
        buf: What to write.
        offset: Bytes.
        flags: Of pwritev2(2).

    Raises:
        OSError: The write failed; ENOSPC, too, when the system takes nothing and does not say why.
    """
    done = 0
    while done < len(buf):
        put = os.pwritev(fd, (buf[done:],), offset + done, flags)
        if not put:
            raise BlockError(errno.ENOSPC)
        done += put


def c_string(text: str) -> bytes:
    """Return a text, such as the name of a file, as the system is given it.

    A zero, which would end it there, is two bytes, as where QEMU reads JSON.
    """
    return os.fsencode(text).replace(b"\0", b"\xc0\x80")

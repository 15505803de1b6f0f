"""The file that says which process the daemon is. It is locked as long as the daemon runs."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from qmpfleece.base.errors import QmpError


class PidFile:
    """A process ID in a file; made at once.

    Args:
        path: The file; an existing one is taken over unless a process holds it.

    Raises:
        QmpError: It can't be made, or is in use; QEMU's words.
    """

    def __init__(self, path: str) -> None:
        self._path: Final = Path(path).absolute()
        try:
            self._fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise QmpError(
                f"cannot create PID file: Could not create '{path}': {error.strerror}"
            ) from error
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            reason = os.strerror(errno.EAGAIN)
            raise QmpError(f"cannot create PID file: Cannot lock pid file: {reason}") from error
        os.ftruncate(self._fd, 0)
        os.write(self._fd, b"%d\n" % os.getpid())

    def remove(self) -> None:
        """Remove the file, unless somebody else already has."""
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == os.fstat(self._fd).st_ino:
                self._path.unlink()
        os.close(self._fd)

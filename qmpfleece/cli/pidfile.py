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
            if not path:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._fd = self._make()
        except OSError as error:
            raise QmpError(
                f"cannot create PID file: Could not create '{path}': {error.strerror}"
            ) from error

    def _make(self) -> int:
        """Put a locked, written file in place in one step: nobody sees it empty."""
        held = _lock_existing(self._path)
        import tempfile

        fd, name = tempfile.mkstemp(prefix=".pid-", dir=self._path.parent)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, b"%d\n" % os.getpid())
            os.rename(name, self._path)
        except OSError:
            os.close(fd)
            os.unlink(name)
            raise
        finally:
            if held is not None:
                os.close(held)
        return fd

    def remove(self) -> None:
        """Remove the file, unless somebody else already has."""
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == os.fstat(self._fd).st_ino:
                self._path.unlink()
        os.close(self._fd)


def _lock_existing(path: Path) -> int | None:
    """Return a locked descriptor of the file that is there, None if there is none."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        reason = os.strerror(errno.EAGAIN)
        raise QmpError(f"cannot create PID file: Cannot lock pid file: {reason}") from error
    return fd

"""The file that says which process the daemon is. It is locked as long as the daemon runs."""

import contextlib
import fcntl
import os
import stat
from typing import Final, NoReturn

from qmpfleece.base import fdsets
from qmpfleece.base.errors import QmpError

_FLAGS: Final = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC


class PidFile:
    """A process ID in a file; made at once.

    Args:
        path: The file; one that exists is written over in place, unless a process holds it.

    Raises:
        QmpError: It can't be made, or is in use; QEMU's words.
    """

    def __init__(self, path: str) -> None:
        self._fd: Final = _open_locked(path)
        # At once: whoever waits for the file reads it as soon as it is there.
        failure: OSError | None = None
        what = "truncate"
        try:
            os.ftruncate(self._fd, 0)
            what = "write"
            os.write(self._fd, b"%d\n" % os.getpid())
        except OSError as error:
            failure = error
        # The directory may change before it is to be removed.
        self._path: Final = os.path.realpath(path)
        if failure is not None:
            self.remove()
            _fail(f"Failed to {what} pid file: {failure.strerror}", failure)

    def remove(self) -> None:
        """Remove the file, unless somebody else already has.

        Differs: QEMU removes what has its name, be it another file, or a device.
        """
        with contextlib.suppress(OSError):
            own = os.fstat(self._fd)
            if stat.S_ISREG(own.st_mode) and os.path.samestat(os.stat(self._path), own):
                os.unlink(self._path)
        fdsets.close(self._fd)


def _open_locked(path: str) -> int:
    """Return a locked descriptor of the file, which is made if there is none.

    Raises:
        QmpError: It can't be made, or another process holds it.
    """
    while True:
        try:
            # A pipe that nobody reads is refused: there would be no end of waiting.
            fd = os.open(path, _FLAGS | os.O_NONBLOCK, 0o600)
        except OSError as error:
            _fail(f"Could not create '{path}': {error.strerror}", error)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fdsets.close(fd)
            _fail(f"Cannot lock pid file: {error.strerror}", error)
        # Until it was locked, whoever had it may have removed it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                return fd
        fdsets.close(fd)


def _fail(text: str, error: OSError) -> NoReturn:
    raise QmpError(f"cannot create PID file: {text}") from error

"""Finding out the format of a file. System calls only, so it runs on a thread."""

import errno
import os

from qmpfleece.base.errors import QmpError
from qmpfleece.base.fdsets import FdSets
from qmpfleece.block import formats


def probe(fdsets: FdSets, path: str, filename: str, *, reading: bool) -> str:
    """Return the format that a file's first bytes tell.

    Args:
        fdsets: What names may mean besides files.
        path: The file.
        filename: What the user calls it.
        reading: It is for reading, so that a folder could be opened.

    Raises:
        QmpError: It can't be opened, or is no file.
    """
    try:
        fd = fdsets.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return formats.probe(os.pread(fd, formats.PROBED, 0))
        finally:
            fdsets.close_copy(fd)
    except (OSError, ValueError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.ESPIPE or (reading and code == errno.EISDIR):
            raise QmpError(f"'file' driver requires '{filename}' to be a regular file") from error
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise QmpError(f"Could not open '{filename}': {text}") from error

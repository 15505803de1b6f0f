"""Going into the background: the parent waits until the daemon serves, or has failed."""

import os
import sys
from typing import Final

_UMASK: Final = 0o027


class Background:
    """Made in one process and returned to another, the daemon; the first one never gets it.

    Make it before there are threads or an event loop. If the daemon does not get ``ready``, the
    first process ends with status 1 once the daemon has ended: by then it has said why.

    Args:
        wanted: Without it there is one process, and nothing is done.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._pipe = -1
        if not wanted:
            return
        reading, self._pipe = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork():
            os.close(self._pipe)
            ready = os.read(reading, 1)
            os._exit(0 if ready else 1)  # nothing of this process is to be cleaned up
        os.close(reading)
        os.setsid()
        os.umask(_UMASK)

    def ready(self) -> None:
        """Let the parent end, and let go of its terminal and directory."""
        if self._pipe < 0:
            return
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        os.write(self._pipe, b"\0")
        os.close(self._pipe)
        self._pipe = -1

"""Going into the background: the parent waits until the daemon serves, or has failed."""

import os
import sys
from types import TracebackType
from typing import Final, Self


class Background:
    """A context in which the process is the daemon; the parent never enters it.

    Enter it before there are threads or an event loop.

    Args:
        wanted: Without it nothing is done.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.wanted: Final = wanted
        self._pipe = -1

    def __enter__(self) -> Self:
        if not self.wanted:
            return self
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork():
            os.close(writing)
            ready = os.read(reading, 1)
            os._exit(0 if ready else 1)  # nothing of this process is to be cleaned up
        os.close(reading)
        os.setsid()
        self._pipe = writing
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

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

"""A stream written by a thread of its own, so that only who closes it is ever held up.

A terminal takes nothing while it is stopped (Ctrl-S), nor does a pipe whose reader is busy, and
that may last.
"""

import io
import queue
import threading
from typing import Final, TextIO


class Aside(io.TextIOBase):
    """Writes to another stream, in order; all of it is there when this one is closed.

    What is written from several threads counts wrongly: it is for one.

    Args:
        stream: What is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: Final = stream
        self._texts: Final[queue.SimpleQueue[str | None]] = queue.SimpleQueue()
        self._said = 0
        self._written = 0  # counted by the thread
        self._thread: Final = threading.Thread(target=self._write_all, name="aside", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> bool:
        """Whether something has not been written yet."""
        return self._written != self._said

    def writable(self) -> bool:
        """Tell that it may be written to."""
        return True

    def isatty(self) -> bool:
        """Tell whether a terminal is written to."""
        return self._stream.isatty()

    def write(self, text: str, /) -> int:
        """Have ``text`` written."""
        self._said += 1
        self._texts.put(text)
        return len(text)

    def close(self) -> None:
        """Wait until everything is written. Again is harmless."""
        if not self.closed:
            self._texts.put(None)
            self._thread.join()
        super().close()

    def _write_all(self) -> None:
        while (text := self._texts.get()) is not None:
            self._stream.write(text)
            self._stream.flush()
            self._written += 1

"""Outputs that take nothing for now."""

import contextlib
import os
import pty
import termios
from collections.abc import Callable, Iterator

Output = tuple[str, Callable[[], object]]


@contextlib.contextmanager
def stopped_terminal() -> Iterator[Output]:
    """Yield the name of a terminal that takes nothing, and what lets it go on."""
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    try:
        yield os.ttyname(theirs), lambda: termios.tcflow(theirs, termios.TCOON)
    finally:
        os.close(theirs)
        os.close(ours)


@contextlib.contextmanager
def full_pipe() -> Iterator[Output]:
    """Do likewise with a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    try:
        yield f"/proc/{os.getpid()}/fd/{writing}", lambda: os.read(reading, 1 << 20)
    finally:
        os.close(writing)
        os.close(reading)

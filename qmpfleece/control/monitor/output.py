"""The program's own output and standard error, where qemu-io's text goes."""

import os
import select

from qmpfleece.base import utf8
from qmpfleece.base.workers import Workers

_STDOUT = 1
_STDERR = 2


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # a monitor on stdio has made it so
            select.select([], [fd], [])


async def print_out(workers: Workers, text: str) -> None:
    """Write ``text`` to the program's standard output; it is out on return.

    A reader that is slow holds up the command, and nothing else. Without one the text is lost.
    """
    await _print(workers, _STDOUT, text)


async def print_err(workers: Workers, text: str) -> None:
    """Write ``text`` to the program's standard error; else as ``print_out``."""
    await _print(workers, _STDERR, text)


async def _print(workers: Workers, fd: int, text: str) -> None:
    if not text:
        return
    try:
        await workers.queue(1).submit(_write, fd, utf8.pack(text))
    except OSError:
        return

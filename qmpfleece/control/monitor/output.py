"""The program's own output, where qemu-io's text goes."""

import os
import select

from qmpfleece.base.workers import Workers

_STDOUT = 1


def _write(data: bytes) -> None:
    while data:
        try:
            data = data[os.write(_STDOUT, data) :]
        except BlockingIOError:  # a monitor on stdio has made it so
            select.select([], [_STDOUT], [])


async def print_out(workers: Workers, text: str) -> None:
    """Write ``text`` to the program's standard output; it is out on return.

    A reader that is slow holds up the command, and nothing else. Without one the text is lost.
    """
    if not text:
        return
    try:
        await workers.queue(1).submit(_write, text.encode("utf-8", "surrogateescape"))
    except OSError:
        return

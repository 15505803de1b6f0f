"""Standard streams as programs in C have them: they are open, take any name, and fail nobody.

A program may be started without some of them (a service, ``>&-``). What is opened next would
then get their numbers, and the event loop refuses to close such a descriptor.
"""

import codecs
import io
import os
import select
import signal
import sys
from typing import Any, Final, cast

_OUTPUT: Final = "qmpfleece.output"


def begin() -> None:
    """Prepare a program: its streams, and Ctrl-C, which ends it without a word so far."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for fd in (0, 1, 2):
        _open_null(fd)
    codecs.register_error(_OUTPUT, _as_it_came)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the program runs
    sys.stdout = _stream(1)
    sys.stderr = _stream(2)


def deliver(text: str) -> None:
    """Write a result to stdout, where it is on return.

    Raises:
        OSError: Nobody can have got it.
    """
    print(text, flush=True)
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Patient) and raw.failure is not None:
        raise raw.failure


def _open_null(fd: int) -> None:
    """Open a descriptor that is closed; those below are open."""
    try:
        os.fstat(fd)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _stream(fd: int) -> io.TextIOWrapper:
    raw = _Patient(fd, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), errors=_OUTPUT, line_buffering=fd == 2 or os.isatty(fd)
    )


class _Patient(io.FileIO):
    """Takes what can't be written for written: a daemon outlives those who watch it.

    Attributes:
        failure: Why something could not be written.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write ``data``, or lose it.

        Another program may have made the terminal or the pipe one that does not wait. A result
        waits until there is room, a message does not: it may come from who serves others.
        """
        try:
            while (done := cast("int | None", super().write(data))) is None:
                if self.fileno() == 2:
                    return memoryview(data).nbytes
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes
        return done


def _as_it_came(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode names that are not in the system's encoding as they were given."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    pieces = (
        bytes([ord(character) - 0xDC00])
        if "\udc80" <= character <= "\udcff"
        else character.encode("ascii", "backslashreplace")
        for character in text
    )
    return b"".join(pieces), error.end

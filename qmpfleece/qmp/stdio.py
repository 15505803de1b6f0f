"""Standard input and output as streams, whatever they are: pipes, sockets, terminals, files.

The event loop can wait for pipes, sockets and terminals only; a file is read and written at
once, as files are always ready.

Both may be one terminal or socket. The loops' transports for output also read from there (they
want to know when the other side hangs up), and so would take what belongs to the input. So the
output has a transport of its own. Descriptors 0 and 1 stay open to the end of the program:
whatever is opened next would get their numbers, and what others write to stdout.
"""

import asyncio
import contextlib
import fcntl
import io
import os
import stat
import termios
from typing import Any, Final

from qmpfleece.base.units import KIB

_STDIN: Final = 0
_STDOUT: Final = 1
_PIECE: Final = 64 * KIB
#: Unsent bytes above which writers are held up, and below which they go on.
_HIGH_WATER: Final = 64 * KIB
_LOW_WATER: Final = 16 * KIB


def _can_wait(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


class _Settings:
    """How the descriptors are set, which they share with other programs: a shell, a terminal.

    Args:
        raw: Let a terminal hand over each key, and show nothing by itself.
    """

    def __init__(self, *, raw: bool) -> None:
        self._flags: Final = [
            (fd, fcntl.fcntl(fd, fcntl.F_GETFL)) for fd in (_STDIN, _STDOUT) if _can_wait(fd)
        ]
        self._terminal: Final = termios.tcgetattr(_STDIN) if os.isatty(_STDIN) and raw else None
        for fd, flags in self._flags:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        if self._terminal is not None:
            _set_terminal(_raw(self._terminal))

    def restore(self) -> None:
        """Set everything back."""
        if self._terminal is not None:
            _set_terminal(self._terminal)
        for fd, flags in self._flags:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _set_terminal(attributes: list[Any]) -> None:
    """Set the terminal, unless another has it: who does that in the background is stopped."""
    with contextlib.suppress(OSError):  # it controls nobody's jobs, or not ours
        if os.tcgetpgrp(_STDIN) != os.getpgrp():
            return
    with contextlib.suppress(termios.error):  # it has hung up
        termios.tcsetattr(_STDIN, termios.TCSANOW, attributes)


def _raw(attributes: list[Any]) -> list[Any]:
    """Return a terminal's attributes for a line editor; signals are still made from keys.

    Source: what QEMU's human monitor sets.
    """
    iflag, oflag, cflag, lflag, *speeds, characters = attributes
    iflag &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
    iflag &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    characters = list(characters)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag | termios.OPOST, cflag, lflag, *speeds, characters]


class _Output(asyncio.WriteTransport):
    """Writes to standard output.

    What can't be written is lost, as with QEMU: a daemon outlives those who read its output.

    Args:
        protocol: Told when to hold up writers, and of the end.
        settings: Restored at the end.
        source: Closed at the end.
    """

    def __init__(
        self,
        protocol: asyncio.StreamReaderProtocol,
        settings: _Settings,
        source: asyncio.BaseTransport | None,
    ) -> None:
        super().__init__()
        self._loop: Final = asyncio.get_running_loop()
        self._protocol: Final = protocol
        self._settings: Final = settings
        self._source: Final = source
        self._unsent = bytearray()
        self._limits = (_LOW_WATER, _HIGH_WATER)
        self._paused = False
        self._closing = False
        self._ended = False

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        if self._closing:
            return
        waits = bool(self._unsent)
        self._unsent += data
        if not waits:
            self._send()
            if self._unsent:
                self._loop.add_writer(_STDOUT, self._ready)
        self._hold_up()

    def _send(self) -> None:
        """Write as much as is taken."""
        while self._unsent:
            try:
                del self._unsent[: os.write(_STDOUT, self._unsent)]
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()

    def _ready(self) -> None:
        self._send()
        self._hold_up()
        if not self._unsent:
            self._loop.remove_writer(_STDOUT)
            if self._closing:
                self._end()

    def _hold_up(self) -> None:
        low, high = self._limits
        if not self._paused and len(self._unsent) > high:
            self._paused = True
            self._protocol.pause_writing()
        elif self._paused and len(self._unsent) <= low:
            self._paused = False
            self._protocol.resume_writing()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        if not self._unsent:
            self._end()

    def abort(self) -> None:
        self._closing = True
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(_STDOUT)
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._source is not None:
            self._source.close()
        self._settings.restore()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._limits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        high = _HIGH_WATER if high is None else high
        self._limits = (high // 4 if low is None else low, high)
        self._hold_up()


async def _open_input(reader: asyncio.StreamReader) -> asyncio.BaseTransport | None:
    """Feed a reader from standard input; a file is read at once."""
    if _can_wait(_STDIN):
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), io.FileIO(_STDIN, closefd=False)
        )
        return transport
    while data := os.read(_STDIN, _PIECE):
        reader.feed_data(data)
    reader.feed_eof()
    return None


async def open_stdio(*, raw: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return streams over standard input and output; closing the writer ends both.

    Args:
        raw: Take each key of a terminal, which is to show nothing by itself.

    Raises:
        OSError: One of them is closed, or the input can't be read.
    """
    settings = _Settings(raw=raw)
    reader = asyncio.StreamReader()
    try:
        source = await _open_input(reader)
    except BaseException:
        settings.restore()
        raise
    # Its reader stays unused; it knows when the transport is closed.
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    transport = _Output(protocol, settings, source)
    loop = asyncio.get_running_loop()
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

"""Standard input and output as streams, whatever they are: pipes, terminals, files, /dev/null.

The event loop can wait for pipes, sockets and terminals only; a file is read and written at
once, as files are always ready.
"""

import asyncio
import os
import stat
import sys
from typing import Any, Final, TextIO

from qmpfleece.base.units import KIB

_PIECE: Final = 64 * KIB


def _can_wait(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


class _FileTransport(asyncio.WriteTransport):
    """Writes to a file descriptor that is always ready, such as a regular file."""

    def __init__(self, fd: int, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._fd = fd
        self._protocol = protocol
        self._closing = False

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (0, 0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""


async def _reader(file: TextIO) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    fd = file.fileno()
    if _can_wait(fd):
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        return reader
    while data := os.read(fd, _PIECE):
        reader.feed_data(data)
    reader.feed_eof()
    return reader


async def open_stdio(
    stdin: TextIO | None = None, stdout: TextIO | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return streams over standard input and output.

    Raises:
        OSError: One of them is closed.
    """
    loop = asyncio.get_running_loop()
    stdin = stdin or sys.stdin
    stdout = stdout or sys.stdout
    reader = await _reader(stdin)
    # Its reader stays unused; it knows when the transport is closed.
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    if _can_wait(stdout.fileno()):
        transport, _ = await loop.connect_write_pipe(lambda: protocol, stdout)
    else:
        transport = _FileTransport(stdout.fileno(), protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

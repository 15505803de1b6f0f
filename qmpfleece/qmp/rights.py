"""Reading from a unix socket with the descriptors that come beside the bytes (SCM_RIGHTS).

The event loops' transports drop descriptors. So a transport writes here and does not read;
the bytes are read from a second descriptor of the same socket.
"""

import asyncio
import os
import socket
from typing import Any, Final

from qmpfleece.base import fdsets

_MOST: Final = 16


class _WriteOnly(asyncio.StreamReaderProtocol):
    """Keeps what its transport read before it could be told not to."""

    def __init__(self) -> None:
        super().__init__(asyncio.StreamReader())
        self.early = b""
        self._both_ways: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._both_ways = transport

    def read_no_more(self) -> None:
        """Leave what the client sends to others."""
        if self._both_ways is not None:
            self._both_ways.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.early += data


class RightsReader(asyncio.StreamReader):
    """Reads bytes, and takes descriptors.

    Attributes:
        received: The descriptors that came with the last bytes that had some; whoever takes
            them out owns them.
    """

    def __init__(self, sock: socket.socket, protocol: _WriteOnly) -> None:
        super().__init__()
        self._sock: Final = sock
        self._writing: Final = protocol
        self._own_loop: Final = asyncio.get_running_loop()
        self._watched = False
        self._waiter: asyncio.Future[None] | None = None
        #: The last read took all there was, so the next one has to wait.
        self._dry = False
        self.received: list[int] = []

    async def read(self, n: int = -1) -> bytes:
        """Return at most ``n`` bytes, b"" at the end."""
        if self._writing.early:
            data, self._writing.early = self._writing.early[:n], self._writing.early[n:]
            return data
        while True:
            if self._dry:
                await self._readable()
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, n, _MOST)
            except BlockingIOError:
                self._dry = True
                continue
            self._dry = len(data) < n
            if fds:
                self.drop()
                for fd in fds:
                    os.set_inheritable(fd, False)
                self.received += fds
            if not data:
                self.feed_eof()
            return data

    def drop(self) -> None:
        """Close the descriptors that nobody has taken."""
        while self.received:
            fdsets.close(self.received.pop())

    def close(self) -> None:
        """Stop reading."""
        self.drop()
        self._watch(wanted=False)
        self._sock.close()

    async def _readable(self) -> None:
        self._waiter = self._own_loop.create_future()
        self._watch(wanted=True)
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._dry = False

    def _watch(self, *, wanted: bool) -> None:
        if wanted and not self._watched:
            self._own_loop.add_reader(self._sock.fileno(), self._has_come)
        elif self._watched and not wanted:
            self._own_loop.remove_reader(self._sock.fileno())
        self._watched = wanted

    def _has_come(self) -> None:
        if self._waiter is None:  # what comes is not wanted now: don't be called again
            self._watch(wanted=False)
        elif not self._waiter.done():
            self._waiter.set_result(None)


async def open_streams(sock: socket.socket) -> tuple[RightsReader, asyncio.StreamWriter]:
    """Return streams over a connected unix socket, which they own now."""
    loop = asyncio.get_running_loop()
    second = sock.dup()
    second.setblocking(False)
    protocol = _WriteOnly()
    connecting = loop.create_task(loop.create_connection(lambda: protocol, sock=sock))
    try:
        # The task has begun then: in its next turn the loop tells the protocol of the
        # connection, may begin to read, and stops, before it has looked what there is. A read
        # of the loop would lose the descriptors of a client that does not wait for the greeting.
        await asyncio.sleep(0)
        loop.call_soon(protocol.read_no_more)
        transport, _ = await connecting
    except BaseException:
        connecting.cancel()
        second.close()
        raise
    reader = RightsReader(second, protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

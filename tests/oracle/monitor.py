"""A QMP client that passes lines through as they are, and what can go wrong with it."""

import contextlib
import errno
import json
import socket
from typing import Final

from tests.tools.dial import dial

PATIENCE_S: Final = 10.0


class UnsettledError(Exception):
    """QEMU's monitor opened twice, a race at its start: the run says nothing.

    Its set-up in the I/O thread and the main thread's accept() each announce the client; the
    second time greets again and forgets what has been said.
    """


class StoppedError(Exception):
    """The scenario cannot go on: no answer, or the daemon is gone."""


class Monitor:
    """A QMP client that passes lines through as they are.

    Args:
        address: A unix socket's path, a host and port, or a connection.
    """

    def __init__(self, address: str | tuple[str, int] | socket.socket) -> None:
        self.negotiated = False
        self._buffer = b""
        if isinstance(address, socket.socket):
            self._socket = address
        else:
            try:
                self._socket = dial(address)
            except ConnectionRefusedError:
                raise StoppedError("nobody listens for the monitor") from None
        self._socket.settimeout(PATIENCE_S)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def send_with_descriptor(self, data: bytes, fd: int) -> None:
        """Send bytes, a few, along with a descriptor."""
        socket.send_fds(self._socket, [data], [fd])

    def receive(self, *, end_is_error: bool = True) -> str:
        """Return the next line without its CR LF; empty at the end of the connection."""
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise StoppedError(f"no answer within {PATIENCE_S:.0f} s") from None
            except OSError as error:
                # QEMU leaves bytes behind "quit" unread, which resets the connection.
                if error.errno != errno.ECONNRESET:
                    raise
                data = b""
            if not data:
                if end_is_error or self._buffer:
                    raise StoppedError(f"the connection ended; left over: {self._buffer!r}")
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        if not line.endswith(b"\r"):
            return line.decode() + " (no CR)"
        return line[:-1].decode()

    def receive_value(self) -> str:
        """Return the next lines that make up one JSON value."""
        text = ""
        while True:
            text += self.receive() + "\n"
            try:
                json.loads(text)
            except ValueError:
                continue
            return text.rstrip("\n")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

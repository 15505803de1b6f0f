"""A bare NBD client: sends what it is told, well-formed or not, and writes down the answers."""

import contextlib
import socket
import struct

from tests.oracle.monitor import PATIENCE_S, StoppedError
from tests.oracle.transcript import Transcript

_IHAVEOPT = b"IHAVEOPT"
_REQUEST_MAGIC = 0x25609513
_CMD_READ = 0
_CMD_WRITE = 1
_OPT_GO = 7
_OPT_STRUCTURED_REPLY = 8
_REP_ACK = 1


class NbdClient:
    """One connection in fixed newstyle negotiation. Source: NBD protocol, doc/proto.md."""

    def __init__(self, path: str, transcript: Transcript) -> None:
        self._transcript = transcript
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(path)
        self._next_handle = 1
        #: The lengths of reads that were posted, by their handles.
        self._reads: dict[int, int] = {}
        try:
            self._note("greeting", self._take(18))
        except StoppedError:
            self.close()
            raise

    def close(self) -> None:
        """Hang up without a word."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are; that nobody takes them shows when answers are due."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def flags(self, flags: int = 3) -> "NbdClient":
        """Send the client's flags: 1 fixed newstyle, 2 no zeroes."""
        self.send(struct.pack(">I", flags))
        return self

    def go(self, export: str, *, structured: bool = True) -> None:
        """Negotiate up to the transmission phase."""
        self.flags()
        if structured:
            self.option(_OPT_STRUCTURED_REPLY)
        name = export.encode()
        self.option(_OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))

    def option(self, option: int, data: bytes = b"") -> int:
        """Send an option and take its replies; see ``option_replies``."""
        self.send(_IHAVEOPT + struct.pack(">II", option, len(data)) + data)
        return self.option_replies(option)

    def option_replies(self, option: int) -> int:
        """Take the replies to an option up to the last, and return its type: ACK or an error.

        Returns 0 when the connection has ended.
        """
        while True:
            header = self._take(20)
            if len(header) < 20:
                self._note(f"option {option}", header)
                return 0
            _, echoed, kind, length = struct.unpack(">QIII", header)
            body = self._take(length)
            text = _printable(body) if kind & (1 << 31) else body.hex()
            self._transcript.add(f"nbd: option {echoed}: reply {kind:#x} {text}")
            if kind == _REP_ACK or kind & (1 << 31):
                return int(kind)

    def request(
        self,
        command: int,
        offset: int = 0,
        length: int = 0,
        *,
        flags: int = 0,
        data: bytes = b"",
        magic: int = _REQUEST_MAGIC,
        simple_data: int = 0,
    ) -> None:
        """Send a request and write down the reply: simple, or all structured chunks.

        Args:
            command: NBD_CMD_* number.
            offset: In bytes.
            length: In bytes.
            flags: NBD_CMD_FLAG_* bits.
            data: The payload of a write.
            magic: What to send in the place of the request's magic.
            simple_data: How many bytes follow a successful simple reply.
        """
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        header = struct.pack(">IHHQQI", magic, flags, command, handle, offset, length)
        self.send(header + data)
        self._transcript.add(f"nbd: request {command} flags {flags:#x} {length}@{offset}")
        while True:
            reply = self._take(16)
            if len(reply) < 16:
                self._note("reply", reply)
                return
            if reply.startswith(b"\x67\x44\x66\x98"):
                error = struct.unpack(">I", reply[4:8])[0]
                body = self._take(simple_data if error == 0 else 0)
                self._transcript.add(f"nbd:   simple error {error} {_summary(body)}")
                return
            chunk_flags, kind = struct.unpack(">HH", reply[4:8])
            size = struct.unpack(">I", self._take(4))[0]
            body = self._take(size)
            shown = _printable(body) if kind & (1 << 15) else _summary(body)
            self._transcript.add(f"nbd:   chunk {chunk_flags} type {kind:#x} {shown}")
            if chunk_flags & 1:
                return

    def post(self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0) -> None:
        """Send a well-formed request and go on; see ``replies``. Writes carry zeroes."""
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        header = struct.pack(">IHHQQI", _REQUEST_MAGIC, flags, command, handle, offset, length)
        self.send(header + (bytes(length) if command == _CMD_WRITE else b""))
        self._transcript.add(f"nbd: posted {handle}: {command} {length}@{offset}")
        if command == _CMD_READ:
            self._reads[handle] = length

    def read(self, offset: int, length: int) -> bytes:
        """Return what a read brings, without structured replies; nothing if it fails."""
        header = struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, _CMD_READ, 0, offset, length)
        self.send(header)
        reply = self._take(16)
        return b"" if reply[4:8] != bytes(4) else self._take(length)

    def replies(self, count: int) -> None:
        """Take simple replies to posted requests; write down their order."""
        taken = [self.take_reply() for _ in range(count)]
        self._transcript.add(f"nbd: replies to {' '.join(taken)}")

    def take_reply(self) -> str:
        """Take one simple reply and return its handle, with the error if there is one."""
        header = self._take(16)
        if len(header) < 16:
            return "nothing"
        _, error, handle = struct.unpack(">IIQ", header)
        if not error:
            self._take(self._reads.get(handle, 0))
        return f"{handle}" if not error else f"{handle}: error {error}"

    def fileno(self) -> int:
        """Return the socket, for ``select``."""
        return self._socket.fileno()

    def shut_down(self) -> None:
        """Send no more; still listen."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def take_and_note(self, what: str, length: int) -> bytes:
        """Take, write down and return a number of bytes, fewer when the connection ends."""
        data = self._take(length)
        self._note(what, data)
        return data

    def take_all(self) -> None:
        """Write down everything up to the end of the connection."""
        self._note("rest", self._take(1 << 16))

    def end(self) -> None:
        """Expect the server to hang up."""
        self._note("end", self._take(1))

    def _take(self, length: int) -> bytes:
        """Return ``length`` bytes, fewer when the connection ends."""
        data = b""
        while len(data) < length:
            try:
                piece = self._socket.recv(length - len(data))
            except ConnectionResetError:
                break
            except TimeoutError:
                raise StoppedError(f"no answer of the NBD server; so far: {data!r}") from None
            if not piece:
                break
            data += piece
        return data

    def _note(self, what: str, data: bytes) -> None:
        self._transcript.add(f"nbd: {what}: {data.hex() or 'connection closed'}")


def _printable(body: bytes) -> str:
    return ascii(body.decode("latin-1"))


def _summary(body: bytes) -> str:
    """Shorten a long payload: its first 64 bytes and the runs of equal bytes after."""
    if len(body) <= 64:
        return body.hex()
    return f"{body[:64].hex()}... {len(body)} bytes, {len(set(body))} values"

"""An NBD client that sends any requests, several at once, and compares what may be compared."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.oracle.nbd import NbdClient

READ: Final = 0
WRITE: Final = 1
DF: Final = 4

_REQUEST: Final = struct.Struct(">IHHQQI")
_MAGIC: Final = 0x25609513
_SIMPLE: Final = b"\x67\x44\x66\x98"
_STRUCTURED: Final = b"\x66\x8e\x33\xef"
_DONE: Final = 1
_DATA: Final = 1
_HOLE: Final = 2
_STATUS: Final = 5
_ERROR: Final = 1 << 15


@dataclass
class Asked:
    """A request, and what has come of its reply."""

    command: int
    offset: int
    length: int
    flags: int
    cookie: int
    data: bytes = b""
    #: Of a read: (offset, data) in the order in which they came.
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def packed(self) -> bytes:
        """Return the bytes that are sent."""
        numbers = (self.flags, self.command, self.cookie, self.offset, self.length)
        return _REQUEST.pack(_MAGIC, *numbers) + self.data

    def __str__(self) -> str:
        data = f" of {len(self.data)} bytes {self.data[:1].hex()}" if self.data else ""
        return f"{self.command} flags {self.flags:#x} {self.length}@{self.offset}{data}"


class Peer(NbdClient):
    """One connection.

    Attributes:
        over: Nothing can be asked any more.
        structured: Agreed on.
        export: The name of the export that it has entered.
    """

    over = False
    structured = False
    export: str | None = None
    #: The first metadata context of which is compared what it tells, not just that it does: 0 is
    #: base:allocation, 1 qemu:allocation-depth.
    compares_from = 0

    def ask(self, requests: Sequence[Asked]) -> None:
        """Send requests together, take all replies, and write them down in the order of asking.

        The protocol lets replies come in any order, and a read be told in chunks, of data or
        holes, as the server likes; so what they say together is written down.

        Args:
            requests: With a cookie of its own each.
        """
        self.send(b"".join(request.packed() for request in requests))
        self.replies_to(requests)

    def replies_to(self, requests: Sequence[Asked]) -> None:
        """Take the replies to requests that have been sent."""
        for number, request in enumerate(requests):
            self.note(f"nbd: {number}: {request}")
        waiting = {request.cookie: request for request in requests}
        while waiting and not self.over:
            self._take_one(waiting)
        for number, request in enumerate(requests):
            missing = ["no reply"] if request.cookie in waiting else []
            self.note(f"nbd: {number}: <- {', '.join([*request.notes, *missing])}")

    def note(self, text: str) -> None:
        """Write something down."""
        self._transcript.add(text)

    def end(self) -> None:
        """Expect the server to hang up."""
        super().end()
        self.over = True

    def _take_one(self, waiting: dict[int, Asked]) -> None:
        header = self._take(16)
        request = waiting.get(int.from_bytes(header[8:16], "big"))
        if len(header) < 16 or request is None:
            self._note("strange reply" if header else "end", header)
            self.over = True
        elif header.startswith(_SIMPLE):
            del waiting[request.cookie]
            self._take_simple(request, int.from_bytes(header[4:8], "big"))
        elif header.startswith(_STRUCTURED):
            flags, kind = struct.unpack(">HH", header[4:8])
            self._take_chunk(request, kind, self._take(int.from_bytes(self._take(4), "big")))
            if flags & _DONE:
                del waiting[request.cookie]
                self._finish(request)
        else:
            self._note("strange magic", header)
            self.over = True

    def _take_simple(self, request: Asked, error: int) -> None:
        request.notes.append(f"simple error {error}" if error else "simple")
        if not error and request.command == READ and not self.structured:
            data = self._take(request.length)
            request.notes.append(_told(data))

    def _take_chunk(self, request: Asked, kind: int, body: bytes) -> None:
        if kind == _DATA:
            request.pieces.append((int.from_bytes(body[:8], "big"), body[8:]))
        elif kind == _HOLE:
            at, size = struct.unpack(">QI", body)
            request.pieces.append((at, bytes(size)))
        elif kind == _STATUS:
            context, *numbers = struct.unpack(f">{len(body) // 4}I", body)
            extents = zip(numbers[::2], numbers[1::2], strict=True)
            text = " ".join(f"{size}:{flags}" for size, flags in extents)
            told = text if context >= self.compares_from else "..."
            request.notes.append(f"context {context}: {told}")
        elif kind & _ERROR:
            error, size = struct.unpack_from(">IH", body)
            text = body[6 : 6 + size].decode("latin-1")
            request.notes.append(
                f"chunk {kind:#x} error {error} {text!a} {body[6 + size :].hex()}"
            )
            request.pieces.clear()  # how much was read before it failed is no matter
        else:
            request.notes.append(f"chunk {kind:#x} {body.hex()}")

    def _finish(self, request: Asked) -> None:
        if not request.pieces:
            return
        at = request.offset
        for offset, data in sorted(request.pieces):
            if offset != at:
                request.notes.append(f"chunk at {offset} where {at} was due")
            at = offset + len(data)
        if at != request.offset + request.length:
            request.notes.append(f"chunks end at {at}")
        if request.flags & DF and len(request.pieces) > 1:
            request.notes.append("fragments")
        request.notes.append(_told(b"".join(data for _, data in sorted(request.pieces))))


def _told(data: bytes) -> str:
    """Return what data is: its runs of equal bytes if they are few, else a hash."""
    runs: list[list[int]] = []
    at = 0
    while at < len(data) and len(runs) < 20:
        rest = data[at:]
        size = len(rest) - len(rest.lstrip(rest[:1]))
        runs.append([rest[0], size])
        at += size
    text = " ".join(f"{byte:02x}*{size}" for byte, size in runs)
    return text if at == len(data) else hashlib.sha256(data).hexdigest()

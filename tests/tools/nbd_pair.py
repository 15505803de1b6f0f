"""Our client's and our server's machines joined back to back, without a socket."""

from collections.abc import Iterable

from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.client import ClientHandshake
from qmpfleece.nbdproto.handshake import ServerHandshake
from qmpfleece.nbdproto.option import ExportInfo

FLAGS = const.FLAG_HAS_FLAGS | const.FLAG_SEND_FLUSH | const.FLAG_SEND_FUA


class Exports:
    """A directory of fixed exports."""

    def __init__(self, *exports: ExportInfo) -> None:
        self._exports = {export.name: export for export in exports}

    def list_exports(self) -> Iterable[ExportInfo]:
        return self._exports.values()

    def find_export(self, name: str) -> ExportInfo | None:
        return self._exports.get(name)


def disk(name: str = "disk", **kwargs: object) -> ExportInfo:
    return ExportInfo(name, 1 << 20, FLAGS, **kwargs)


class NbdPair:
    """A client and a server in their handshakes."""

    def __init__(self, client: ClientHandshake, *exports: ExportInfo) -> None:
        self.client = client
        self.server = ServerHandshake(Exports(*exports))
        self._to_client = self.server.greeting()
        self._to_server = b""

    def run(self, split: int | None = None) -> None:
        """Carry bytes until both are silent; every message is cut at ``split``."""
        while self._to_client or self._to_server:
            data, self._to_client = self._to_client, b""
            for piece in cut(data, split):
                self._to_server += self.client.feed(piece)
            data, self._to_server = self._to_server, b""
            for piece in cut(data, split):
                self._to_client += self.server.feed(piece)


def cut(data: bytes, at: int | None) -> list[bytes]:
    """Return ``data`` in two pieces, or in single bytes when ``at`` is None."""
    if at is None:
        return [data[i : i + 1] for i in range(len(data))]
    return [piece for piece in (data[:at], data[at:]) if piece]


def receive(parser: object, data: bytes, most: int | None = None) -> list[object]:
    """Let a client's parser receive ``data`` in pieces of at most ``most`` bytes."""
    done: list[object] = []
    while data:
        room = parser.get_buffer()
        count = min(len(room), len(data), most or len(data))
        room[:count] = data[:count]
        done += parser.received(count)
        data = data[count:]
    return done

"""The NBD server: its listeners, its exports by name and its connections.

It owns one acceptor task per listener. When the most connections are open it stops
accepting, so further clients wait in the kernel's queue, as with QEMU.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from qmpfleece.base.sockets import accept
from qmpfleece.base.units import MIB
from qmpfleece.base.vigil import Vigil
from qmpfleece.exports.nbd.connection import Connection
from qmpfleece.exports.nbd.courier import Sharing
from qmpfleece.exports.nbd.listener import Listener, open_listener
from qmpfleece.exports.nbd.reachable import Reachable
from qmpfleece.exports.options import ListenAddress
from qmpfleece.nbdproto.buffers import BufferPool
from qmpfleece.nbdproto.option import ExportInfo

log = logging.getLogger(__name__)

#: What is sent and not received yet, on a unix socket, in bytes; the system may allow less.
#: With its default, 208 KiB, both sides are woken several times for each large reply.
_SEND_BUFFER: Final = 2 * MIB


class NbdServer:
    """Serves exports to NBD clients.

    Args:
        max_connections: Most clients at a time, 0 for no limit.
    """

    def __init__(self, max_connections: int) -> None:
        self.max_connections: Final = max_connections
        self.pool: Final = BufferPool()
        self.sharing: Final = Sharing()
        self.vigil: Final = Vigil(asyncio.get_running_loop())
        self._exports: dict[str, Reachable] = {}
        #: All, and those that count for the most that may be there.
        self._connections: set[Connection] = set()
        self._guests: set[Connection] = set()
        self._listeners: dict[asyncio.Task[None], Listener] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()

    # -- exports ------------------------------------------------------------------------------

    def list_exports(self) -> Iterable[ExportInfo]:
        """Return all exports, oldest first."""
        return [reachable.info for reachable in self._exports.values()]

    def find_export(self, name: str) -> ExportInfo | None:
        """Return what is told of the export of this name."""
        reachable = self._exports.get(name)
        return reachable.info if reachable is not None else None

    def reachable(self, name: str) -> Reachable | None:
        """Return the export of this name."""
        return self._exports.get(name)

    def add(self, export: Reachable) -> None:
        """Offer an export; its name must be free."""
        assert export.info.name not in self._exports
        self._exports[export.info.name] = export

    def remove(self, export: Reachable) -> None:
        """Offer an export no more; its clients stay."""
        if self._exports.get(export.info.name) is export:
            del self._exports[export.info.name]

    # -- connections --------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets; their names tell the ports that were chosen."""
        return [listener.sock for listener in self._listeners.values()]

    async def listen(self, addresses: Sequence[ListenAddress]) -> None:
        """Accept clients at all ``addresses``.

        Raises:
            QmpError: One can't be listened on; call ``close`` then.
        """
        loop = asyncio.get_running_loop()
        for address in addresses:
            for listener in await open_listener(address):
                self._listeners[loop.create_task(self._accept(listener))] = listener

    def stop_listening(self) -> None:
        """Take no more clients; those still in the handshake stay for now."""
        for task, listener in self._listeners.items():
            task.cancel()
            listener.close()

    async def close(self) -> None:
        """Hang up on everybody; returns when the last request has ended."""
        self.stop_listening()
        if self._listeners:
            await asyncio.wait(set(self._listeners))
        self._listeners.clear()
        for connection in tuple(self._connections):
            connection.disconnect()
        await self._idle.wait()
        self.vigil.close()

    def connection_leaves(self, connection: Connection) -> None:
        """Let another client have the place of one who asks no more; again is harmless."""
        self._guests.discard(connection)
        self._room.set()

    def connection_ended(self, connection: Connection) -> None:
        """Forget a connection of which nothing is left."""
        self.connection_leaves(connection)
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    async def _until_room(self) -> None:
        while self.max_connections and len(self._guests) >= self.max_connections:
            self._room.clear()
            await self._room.wait()

    async def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._until_room()
            sock = await accept(listener.sock, "an NBD")
            try:
                await self._until_room()  # another listener may have filled it meanwhile
            except BaseException:
                sock.close()
                raise
            with contextlib.suppress(OSError):  # it works without, and others must be accepted
                _prepare(sock)
            connection = Connection(self)
            self._connections.add(connection)
            self._guests.add(connection)
            self._idle.clear()
            try:
                await loop.connect_accepted_socket(partial(_itself, connection), sock)
            except (OSError, ValueError):  # what has no streams is of no use to NBD
                self.connection_ended(connection)
                sock.close()


def _prepare(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:  # TCP finds the right size by itself
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _itself(connection: Connection) -> Connection:
    return connection

"""Monitors: where QMP clients are served. Any number of them, any number of clients on each.

The server owns one acceptor task per listening socket and one task per client, and ends them
all in ``close``. A socket file of ours is removed there, unless somebody has replaced it.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from qmpfleece.base import together
from qmpfleece.base.sockets import SocketFile, accept, peer_of
from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.qmp.session import Session, Streams
from qmpfleece.qmp.sockets import Address, UnixAddress, listen

if TYPE_CHECKING:
    from qmpfleece.qmp.human import HumanSession

log = logging.getLogger(__name__)


class Monitor:
    """A listening monitor.

    Args:
        address: What was asked for.
        sockets: They listen; the name of the first one tells the port that was chosen.
        pretty: Indent what is sent to its clients.

    Attributes:
        human: It is for people, not for programs.
        clients: The addresses of those who are there, as ``getpeername`` tells them.
    """

    def __init__(
        self, address: Address, sockets: Iterable[socket.socket], *, pretty: bool
    ) -> None:
        self.address: Final = address
        self.sockets: Final = tuple(sockets)
        self.pretty = pretty
        self.human = False
        self.clients: Final[list[Any]] = []
        self._file: SocketFile | None = None
        if isinstance(address, UnixAddress) and not address.abstract:
            self._file = SocketFile(address.path)

    def close(self) -> None:
        """Stop listening and remove the socket file."""
        for sock in self.sockets:
            sock.close()
        if self._file is not None:
            self._file.remove()


class QmpServer:
    """All monitors of the program.

    Args:
        dispatcher: Runs the commands of all clients.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher: Final = dispatcher
        self._acceptors: dict[asyncio.Task[None], Monitor] = {}
        self._sessions: set[asyncio.Task[None]] = set()

    async def listen(self, address: Address, *, pretty: bool = False) -> Monitor:
        """Serve every client that connects to ``address``.

        Raises:
            QmpError: It can't be listened on.
        """
        monitor = Monitor(address, await listen(address), pretty=pretty)
        self.accept(monitor)
        return monitor

    def accept(self, monitor: Monitor) -> None:
        """Serve the clients of a socket that listens already; the server owns it now."""
        for sock in monitor.sockets:
            task = asyncio.create_task(self._accept(monitor, sock))
            task.add_done_callback(self._ended)
            self._acceptors[task] = monitor

    async def stdio(self, *, pretty: bool = False, human: bool = False) -> None:
        """Serve standard input and output; the end of input does not end the session."""
        from qmpfleece.qmp.stdio import open_stdio

        self.serve(await open_stdio(raw=human), pretty=pretty, human=human, stays=True)

    def serve(
        self,
        connection: socket.socket | Streams,
        *,
        pretty: bool = False,
        human: bool = False,
        stays: bool = False,
        monitor: Monitor | None = None,
    ) -> None:
        """Serve a client that is connected already; the server owns the connection now.

        Args:
            connection: The client.
            pretty: Indent what is sent.
            human: It is for people.
            stays: The end of input does not end the session.
            monitor: Where the client has come from; counts it.
        """
        session = self._session(pretty=pretty, human=human, stays=stays)
        task = asyncio.create_task(session.run(connection))
        self._sessions.add(task)
        task.add_done_callback(self._ended)
        if monitor is not None and isinstance(connection, socket.socket):
            clients, peer = monitor.clients, peer_of(connection)
            if peer is not None:
                clients.append(peer)
                task.add_done_callback(lambda _: clients.remove(peer))

    def _session(self, *, pretty: bool, human: bool, stays: bool) -> "Session | HumanSession":
        if human:
            from qmpfleece.qmp.human import HumanSession

            return HumanSession(self._dispatcher, stays=stays)
        return Session(self._dispatcher, pretty=pretty, stays=stays)

    async def close(self) -> None:
        """End everything: no new clients, replies are sent out, then all are hung up."""
        await together.cancel(set(self._acceptors))
        # Not before: a pending accept must not meet a closed descriptor.
        for monitor in self._acceptors.values():
            monitor.close()
        self._acceptors.clear()
        await together.cancel(self._sessions)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._sessions.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("serving QMP has failed unexpectedly", exc_info=error)

    async def _accept(self, monitor: Monitor, listening: socket.socket) -> None:
        while True:
            sock = await accept(listening, "a QMP")
            self.serve(sock, pretty=monitor.pretty, human=monitor.human, monitor=monitor)

"""One QMP client: greeting, commands in order, replies and events in one outgoing queue.

::

    reader task: bytes -> framer -> bounded queue -> worker: dispatch -> reply --+
                                                                                v
                                  event bus -> event ------------> outgoing queue -> writer task

Built on qemu.qmp's ``AsyncProtocol``, which owns the reader and the writer; ``run`` owns the
worker. Back-pressure: the reader stops when ``MAX_REQUESTS`` commands wait, the worker when
the client does not read what it is sent; a client that lets events pile up is dropped.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from qemu.qmp.error import QMPError
from qemu.qmp.protocol import AsyncProtocol, Runstate
from qemu.qmp.util import flush

from qmpfleece.base import fdsets
from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import KIB, MIB
from qmpfleece.control.dispatch import Client, Dispatcher, error_reply
from qmpfleece.control.version import greeting
from qmpfleece.qapi.encode import CRLF, encode
from qmpfleece.qmp.framer import Framer, Malformed
from qmpfleece.qmp.rights import RightsReader, open_streams

if TYPE_CHECKING:
    from qmpfleece.qapi.events import Event

log = logging.getLogger(__name__)

#: Commands of one client that wait for their turn. Source: QEMU's behaviour.
MAX_REQUESTS: Final = 8
#: Unsent bytes above which no further command of the client is run.
HIGH_WATER: Final = MIB
#: Unsent bytes above which the client is given up: it doesn't read its events.
MAX_UNSENT: Final = 64 * MIB
#: How long a closing session waits for the client to read what was sent, in seconds.
FLUSH_TIMEOUT_S: Final = 2.0
#: What says that a message is a command: in its turn, or at once.
_COMMAND: Final = frozenset({"execute", "exec-oob"})
#: One read. Small, because a piece is cut into tokens in one go.
_READ_BYTES: Final = 16 * KIB

#: What a session talks over: a connected socket, or a pair of streams for stdio.
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Silent(logging.Logger):
    """The protocol class logs hang-ups as errors; to a server they are daily business."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name of logging
        del level
        return False


class Session(AsyncProtocol[Any]):
    """A client's session. ``await run(...)`` serves it to its end.

    Args:
        dispatcher: Runs the commands.
        pretty: Indent what is sent.
        stays: Go on sending events when the client has no more to say (stdio).
    """

    def __init__(
        self, dispatcher: Dispatcher, *, pretty: bool = False, stays: bool = False
    ) -> None:
        super().__init__()
        self.logger = _Silent(__name__)
        self._dispatcher: Final = dispatcher
        self._pretty: Final = pretty
        self._stays: Final = stays
        self._client: Final = Client()
        self._framer: Final = Framer()
        self._values: Iterator[Any] = iter(())
        self._requests: asyncio.Queue[Any] = asyncio.Queue(MAX_REQUESTS)
        self._busy = False
        self._unsent = 0
        self._room = asyncio.Event()
        self._room.set()

    async def run(self, connection: socket.socket | Streams) -> None:
        """Serve the client until it hangs up, or until this is cancelled.

        A command that runs when the client hangs up is finished first; cancelling ends it,
        and gives the client a short time to read what was sent. On return no task is left and
        the connection is closed.
        """
        try:
            # Not connect(): it asserts that the client is still there afterwards.
            async with self._session_guard("Failed to establish a session"):
                await self._do_connect(connection)
                await self._establish_session()
        except QMPError:
            return
        unsubscribe = self._dispatcher.system.bus.subscribe(self._on_event)
        handed_over = self._dispatcher.system.fdsets
        handed_over.client_came()
        reader = self._reader
        worker = asyncio.create_task(self._work())
        try:
            while self.runstate is Runstate.RUNNING:
                await self.runstate_changed()
            self._room.set()
            if self._busy:
                await asyncio.wait({worker})
        finally:
            unsubscribe()
            worker.cancel()
            closing = asyncio.create_task(self._hang_up(worker))
            while not closing.done():
                with contextlib.suppress(asyncio.CancelledError):  # it is bounded in time
                    await asyncio.wait({closing})
            self._take_over([])
            while not self._requests.empty():
                self._take_over(self._requests.get_nowait()[1])
            self._take_over([])
            if isinstance(reader, RightsReader):
                reader.close()
            handed_over.client_went()

    async def _hang_up(self, worker: "asyncio.Task[None]") -> None:
        """Wait for the worker to end, then close the connection."""
        await asyncio.wait({worker})
        try:
            await self.disconnect()
        except (OSError, EOFError):
            pass  # what a client that vanishes looks like
        except Exception:  # the edge of a session: others must be served
            log.exception("a QMP session has failed unexpectedly")
        if not worker.cancelled() and (error := worker.exception()) is not None:
            log.error("a QMP session has failed unexpectedly", exc_info=error)

    # What the protocol class leaves to us.

    async def _do_connect(self, address: Any, ssl: Any = None) -> None:
        if isinstance(address, socket.socket) and address.family == socket.AF_UNIX:
            self._set_state(Runstate.CONNECTING)
            self._reader, self._writer = await open_streams(address)
        elif isinstance(address, socket.socket):
            await super()._do_connect(address, ssl)
        else:
            self._set_state(Runstate.CONNECTING)
            self._reader, self._writer = address

    async def _establish_session(self) -> None:
        await super()._establish_session()
        self._send_value(greeting())

    async def _do_recv(self) -> Any:
        assert self._reader is not None
        for value in self._values:
            return value
        while True:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                await self._requests.join()
                if self._stays:
                    await asyncio.get_running_loop().create_future()
                await self._bh_flush_writer()
                raise EOFError
            self._values = self._framer.feed(data)
            for value in self._values:
                return value
            # What is no value suspends nobody, nor does a socket that always has some more.
            await asyncio.sleep(0)

    async def _on_message(self, msg: Any) -> None:
        if self._client.oob and isinstance(msg, dict) and msg.keys() & _COMMAND == {"exec-oob"}:
            # It is not waited for: there is nothing to run, as no command of ours supports that.
            await self._dispatcher.serve(msg, self._client, self._send_value)
            await self._room.wait()
            await asyncio.sleep(0)  # the writer's turn, and everybody else's
            return
        fds: list[int] = []
        if isinstance(self._reader, RightsReader):
            fds, self._reader.received = self._reader.received, []
        try:
            await self._requests.put((msg, fds))
        except BaseException:  # the queue is full, and the session ends
            while fds:
                fdsets.close(fds.pop())
            raise

    def _cb_inbound(self, msg: Any) -> Any:
        return msg

    def _cb_outbound(self, msg: Any) -> Any:
        return msg

    def _do_send(self, msg: bytes) -> None:
        assert self._writer is not None
        if self._writer.is_closing():  # an earlier write has found that the client is gone
            raise ConnectionResetError
        self._writer.write(msg)

    async def _bh_send_message(self) -> None:
        await super()._bh_send_message()
        assert self._writer is not None
        await self._writer.drain()

    async def _send(self, msg: bytes) -> None:
        await super()._send(msg)
        self._unsent -= len(msg)
        if self._unsent <= HIGH_WATER:
            self._room.set()

    async def _bh_flush_writer(self) -> None:
        """Give the client a short time to read what it was sent, then drop the rest."""
        writer = self._writer
        if writer is None:
            return
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._outgoing.join()
                if not writer.is_closing():  # a write may have found that the client is gone
                    await flush(writer)
        except (TimeoutError, OSError):
            writer.transport.abort()

    async def _bh_close_stream(self, error_pathway: bool = False) -> None:  # noqa: FBT001 - given
        writer = self._writer
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await super()._bh_close_stream(error_pathway)
        except TimeoutError:
            if writer is not None:
                writer.transport.abort()

    # What is ours.

    async def _work(self) -> None:
        """Run the client's commands, one after the other, until the program is to end."""
        while True:
            value, fds = await self._requests.get()
            self._busy = True
            if fds:
                self._take_over(fds)
            try:
                if isinstance(value, Malformed):
                    self._send_value(error_reply(QmpError(value.desc)))
                else:
                    await self._dispatcher.serve(value, self._client, self._send_value)
                await self._room.wait()
            finally:
                self._busy = False
                self._requests.task_done()
            if self.runstate is not Runstate.RUNNING or self._dispatcher.system.shutdown.is_set():
                return

    def _take_over(self, fds: list[int]) -> None:
        """Own descriptors in place of those that no command has taken."""
        received = self._client.received
        while received:
            fdsets.close(received.pop())
        received += fds

    def _send_value(self, value: Any) -> None:
        if self.runstate is not Runstate.RUNNING:
            return
        data = encode(value, pretty=self._pretty) + CRLF
        self._unsent += len(data)
        self._outgoing.put_nowait(data)
        if self._unsent > HIGH_WATER:
            self._room.clear()
        if self._unsent > MAX_UNSENT and self._writer is not None:
            self._writer.transport.abort()

    def _on_event(self, event: "Event", now_us: int) -> None:
        if not self._client.negotiated:
            return
        seconds, microseconds = divmod(now_us, 1_000_000)
        value: dict[str, Any] = {"event": event.event_name}
        if type(event).model_fields:
            value["data"] = event.to_wire()
        value["timestamp"] = {"seconds": seconds, "microseconds": microseconds}
        self._send_value(value)

"""What is said to the monitor of a scenario, and what is heard from it."""

import json
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from tests.oracle.monitor import PATIENCE_S, Monitor, StoppedError, UnsettledError
from tests.oracle.workspace import Workspace


class Conversation(Workspace):
    """A workspace with a monitor, which is there once it is needed."""

    def __init__(self) -> None:
        super().__init__()
        self._monitor: Monitor | None = None
        #: The events since the last command was sent.
        self._events: list[str] = []

    @abstractmethod
    def connect(self) -> Any:
        """Have a monitor, up to its greeting; send nothing."""

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Execute a command and return what it returned, None for an error.

        ``_`` in the arguments' names stands for ``-``.
        """
        self._negotiate()
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = {
                name.replace("_", "-"): value for name, value in arguments.items()
            }
        return self.raw(json.dumps(message), command=command)

    def give_descriptor(self, name: str, fd: int) -> None:
        """Hand the daemon a descriptor, which gets a name."""
        self.qmp_with_descriptor(fd, "getfd", {"fdname": name})

    def qmp_with_descriptor(self, fd: int, command: str, arguments: dict[str, Any]) -> None:
        """Execute a command that takes a descriptor."""
        self._negotiate()
        assert self._monitor is not None
        line = json.dumps({"execute": command, "arguments": arguments})
        self._monitor.send_with_descriptor(line.encode(), fd)
        self._receive(command, line)

    def raw(self, *pieces: str | bytes, replies: int = 1, command: str = "") -> Any:
        """Send bytes, in pieces, and take the replies; return what the last one returned."""
        if self._monitor is None:
            self.connect()
        assert self._monitor is not None
        for piece in pieces:
            self._monitor.send(piece.encode() if isinstance(piece, str) else piece)
        sent = self.transcript.mask(
            " ".join(p if isinstance(p, str) else ascii(p) for p in pieces)
        )
        result = None
        for count in range(replies):
            result = self._receive(command, sent if count == 0 else "")
        self._monitor.negotiated |= "qmp_capabilities" in sent and result is not None
        return result

    def until_sync(self, data: str | bytes) -> None:
        """Send any bytes, then a sound command; take all replies up to that one's.

        Bytes that leave the parser inside a value must end with 0xff, which resets it.
        """
        self._negotiate()
        assert self._monitor is not None
        piece = data.encode() if isinstance(data, str) else data
        self._monitor.send(piece + b'\n{"execute": "query-version", "id": "sync"}\n')
        shown = ascii(piece) if len(piece) < 300 else f"{piece[:60]!r}... {len(piece)} bytes"
        self.transcript.add(f"-> {shown}")
        line = ""
        while '"id": "sync"' not in line:
            line = self._monitor.receive()
            self.transcript.add(f"<- {line}", wire=True)

    def event(self, text: str, *, after: str = "") -> None:
        """Wait for an event, which may have come with the last command already.

        ``text`` is its name, or another part of its line. With ``after``, it must have come
        after the last event with that text, which is waited for as well.
        """
        assert self._monitor is not None
        while not _has_come(self._events, text, after):
            line = self._monitor.receive()
            self.transcript.add(f"<- {line}", is_event=True)
            message = json.loads(line)
            if "event" not in message:
                raise StoppedError(f"a reply came where event {text} was due")
            self._events.append(line)

    def until_told(self, query: str, wanted: Callable[[Any], bool]) -> None:
        """Ask a query, which is not written down, until its answer is the one that is wanted."""
        assert self._monitor is not None
        deadline = time.monotonic() + PATIENCE_S
        answer = None
        while answer is None or not wanted(answer):
            if time.monotonic() > deadline:
                raise StoppedError(f"no answer to {query} is the one that is wanted: {answer}")
            self._monitor.send(json.dumps({"execute": query}).encode())
            while "event" in (message := json.loads(line := self._monitor.receive())):
                self._events.append(line)
                self.transcript.add(f"<- {line}", is_event=True)
            answer = message["return"]

    def nbd_server(self, **more: Any) -> None:
        """Start the NBD server on the scenario's unix socket."""
        address = {"type": "unix", "data": {"path": self.path("nbd.sock")}}
        self.qmp("nbd-server-start", addr=address, **more)

    def half(self, data: str) -> None:
        """Send the beginning of a command."""
        assert self._monitor is not None
        self._monitor.send(data.encode())
        self.transcript.add(f"-> {data}")

    def closed_by_daemon(self) -> None:
        """Expect the monitor's connection to be closed."""
        self._drain_monitor("")

    def _negotiate(self) -> None:
        self.connect()
        assert self._monitor is not None
        if not self._monitor.negotiated:
            try:
                self.raw('{"execute": "qmp_capabilities"}')
            except StoppedError as error:
                raise UnsettledError(str(error)) from error

    def _receive(self, command: str, sent: str = "") -> Any:
        """Take everything up to the next reply; the request is noted beside the reply."""
        assert self._monitor is not None
        self._events.clear()
        while True:
            line = self._monitor.receive()
            try:
                message = json.loads(line)
            except ValueError:
                raise StoppedError(f"not JSON: {line}") from None
            if "QMP" in message and command + sent:
                raise UnsettledError("greeted twice")
            if "event" not in message:
                break
            self._events.append(line)
            self.transcript.add(f"<- {line}", is_event=True)
        shown = f"-> {sent}\n<- {line}" if sent else f"<- {line}"
        self.transcript.add(shown, command=command, wire=True)
        return message.get("return")

    def _drain_monitor(self, command: str) -> None:
        """Take everything that still comes until the connection ends."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return
        while line := monitor.receive(end_is_error=False):
            is_event = '"event": ' in line
            shown = f"-> {command}\n<- {line}" if command and not is_event else f"<- {line}"
            self.transcript.add(shown, command="" if is_event else command, is_event=is_event)
        monitor.close()


def _has_come(events: list[str], text: str, after: str) -> bool:
    """Tell whether the events hold one with a text after the last one with another."""
    for line in reversed(events):
        if after and after in line:
            return False
        if text in line:
            return not after or any(after in other for other in events)
    return False

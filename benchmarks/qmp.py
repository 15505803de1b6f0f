"""A QMP client that costs little: requests made ahead, one send and few receives each."""

import json
import socket
import time
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.model import MeasurementError

_END: Final = b"\r\n"


class Qmp:
    """A connection with capabilities negotiated; use it as a context manager.

    Args:
        path: Of the monitor's socket.
        patience_s: Seconds without a word after which any method raises TimeoutError.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patience_s)
        self._socket.connect(str(path))
        self._input = bytearray()
        self.events: list[dict[str, Any]] = []
        self._line()
        self.execute("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def _line(self) -> bytes:
        """Return the next message; both daemons end each with a line end."""
        while (end := self._input.find(_END)) < 0:
            received = self._socket.recv(1 << 20)
            if not received:
                raise MeasurementError("the monitor hung up")
            self._input += received
        line = bytes(self._input[:end])
        del self._input[: end + len(_END)]
        return line

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return what a command returned; events that come before are kept.

        Raises:
            MeasurementError: It failed.
        """
        request = {"execute": command, "arguments": arguments or {}}
        self._socket.sendall(json.dumps(request).encode())
        while "event" in (reply := json.loads(self._line())):
            self.events.append(reply)
        if "error" in reply:
            raise MeasurementError(f"{command}: {reply['error']['desc']}")
        return reply["return"]

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event; those before it are dropped."""
        while True:
            event = self.events.pop(0) if self.events else json.loads(self._line())
            if event["event"] == name:
                data: dict[str, Any] = event["data"]
                return data

    def time(self, command: str, arguments: dict[str, Any] | None = None) -> float:
        """Return how many seconds a command takes."""
        begin = time.perf_counter()
        self.execute(command, arguments)
        return time.perf_counter() - begin

    def round_trips(self, command: str, count: int) -> list[float]:
        """Return the seconds of each round trip; replies are not looked into."""
        request = json.dumps({"execute": command}).encode()
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            self._socket.sendall(request)
            reply = self._line()
            times.append(time.perf_counter() - begin)
            if not reply.startswith(b'{"return"'):
                raise MeasurementError(f"{command}: {reply[:200].decode()}")
        return times

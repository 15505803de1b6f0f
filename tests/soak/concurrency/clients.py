"""The clients of one daemon: NBD connections with many requests in flight, and a monitor."""

import asyncio
import contextlib
import json
from typing import Any, Final

from qmpfleece.nbdclient.client import NbdClient
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.extents import Extents

#: How long anything may take, in seconds; what takes longer hangs.
PATIENCE_S: Final = 30.0


class Requests(NbdClient):
    """A client that sends requests with any flags."""

    async def read(self, offset: int, length: int) -> bytearray:
        """Return what is there."""
        data = bytearray(length)
        await self._request(const.CMD_READ, offset, length, buffer=memoryview(data))
        return data

    async def write(self, offset: int, data: bytes, flags: int) -> None:
        """Write."""
        payload = memoryview(data)
        await self._request(const.CMD_WRITE, offset, len(data), flags, payload=payload)

    async def change(self, kind: int, offset: int, length: int, flags: int) -> None:
        """Write zeroes, trim or flush."""
        await self._request(kind, offset, length, flags)

    async def allocation(self, offset: int, length: int) -> Extents:
        """Return the extents of ``base:allocation``."""
        return (await self.block_status(offset, length))["base:allocation"]


class Qmp:
    """A monitor.

    Attributes:
        events: What it has said, not yet waited for.
        errors: The words of all refusals.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._replies: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._told = asyncio.Condition()
        self.events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.ended = False
        self._task = asyncio.create_task(self._receive())

    @classmethod
    async def connect(cls, path: str) -> "Qmp":
        """Connect, and negotiate."""
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
        await reader.readline()
        qmp = cls(reader, writer)
        await qmp.must("qmp_capabilities")
        return qmp

    async def _receive(self) -> None:
        while line := await self._line():
            message = json.loads(line)
            if "event" in message:
                async with self._told:
                    self.events.append(message)
                    self._told.notify_all()
            else:
                self._replies.put_nowait(message)
        self.ended = True
        self._replies.put_nowait(None)
        async with self._told:
            self._told.notify_all()

    async def _line(self) -> bytes:
        with contextlib.suppress(OSError):
            return await self._reader.readline()
        return b""

    async def ask(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a command; return its reply, an empty one if the connection has ended."""
        async with self._turn:
            if self.ended:
                return {}
            request = {"execute": command, "arguments": arguments}
            self._writer.write(json.dumps(request).encode())
            async with asyncio.timeout(PATIENCE_S):
                reply = await self._replies.get()
        if reply is not None and "error" in reply:
            self.errors.append(f"{command}: {reply['error']['desc']}")
        return reply or {}

    async def run(self, command: str, **arguments: Any) -> bool:
        """Run a command; return whether it was successful."""
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        if command.startswith("block_"):
            names = {name.replace("-", "_", 1): value for name, value in names.items()}
            names = {name.replace("node_name", "node-name"): names[name] for name in names}
        return "return" in await self.ask(command, names)

    async def must(self, command: str, **arguments: Any) -> Any:
        """Run a command that is to be successful; return its result."""
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        reply = await self.ask(command, names)
        assert "return" in reply, f"{command} {names}: {reply or 'the connection ended'}"
        return reply["return"]

    async def wait_for(self, name: str, **data: Any) -> dict[str, Any]:
        """Wait for an event with such data, and take it; empty if the connection ends."""
        async with asyncio.timeout(PATIENCE_S), self._told:
            while True:
                for event in self.events:
                    if event["event"] == name and data.items() <= event["data"].items():
                        self.events.remove(event)
                        return dict(event["data"])
                if self.ended:
                    return {}
                await self._told.wait()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._task

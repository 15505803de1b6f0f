"""An export manager over gate disks, its events, and raw clients."""

import asyncio
import contextlib
import struct
from typing import Any

import pytest

from qmpfleece.base.workers import Workers
from qmpfleece.block.graph import Graph
from qmpfleece.exports.manager import ExportManager
from qmpfleece.exports.options import NbdExportOptions, UnixSocketAddress
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.client import ClientHandshake, pack_request
from qmpfleece.nbdproto.replies import Pending, ReplyParser
from qmpfleece.qapi.bus import EventBus
from tests.tools.gate import add_disk

SIZE = 4 << 20
#: Half of it differs from page to page, the rest is a hole.
DATA = b"".join(bytes([1 + i % 255]) * 4096 for i in range(SIZE // 8192)) + bytes(SIZE // 2)


class RawClient:
    """Sends what the test wants, well-formed or not."""

    def __init__(self, reader, writer) -> None:
        self.reader = reader
        self.writer = writer
        self.machine = None
        self.in_flight = {}
        self.parser = None
        self.done = []

    def send(self, *data: bytes):
        self.writer.write(b"".join(data))

    async def receive(self):
        return await asyncio.wait_for(self.reader.read(1 << 20), 20)

    async def shake_hands(self, name, **kwargs: Any):
        self.machine = ClientHandshake(name, **kwargs)
        while not self.machine.done:
            data = await self.receive()
            assert data, "hung up"
            self.send(self.machine.feed(data))
        if self.machine.result is not None:
            structured = self.machine.result.structured
            self.parser = ReplyParser(self.in_flight.get, structured=structured)
        return self

    def request(self, kind, offset=0, length=0, *, flags=0, data=b""):
        """Send a request and return it; ``finish`` waits for its reply."""
        cookie = len(self.in_flight) + 1
        buffer = memoryview(bytearray(length)) if kind == const.CMD_READ else None
        pending = Pending(kind, cookie, offset, length, buffer)
        self.in_flight[cookie] = pending
        self.send(pack_request(kind, cookie, offset, length, flags), data)
        return pending

    async def finish(self, *wanted: Pending):
        waiting = {pending.cookie for pending in wanted} - {p.cookie for p in self.done}
        while waiting:
            data = await self.receive()
            assert data, "hung up"
            found = self.parser.feed(data)
            self.done += found
            waiting -= {pending.cookie for pending in found}
        return wanted[0] if len(wanted) == 1 else wanted

    async def ask(self, *args: Any, **kwargs: Any):
        return await self.finish(self.request(*args, **kwargs))

    async def read(self, offset, length):
        pending = await self.ask(const.CMD_READ, offset, length)
        assert not pending.error, pending.message
        return bytes(pending.buffer)

    async def hung_up(self):
        """Wait for the end of the stream; True if nothing was sent before."""
        silent = True
        try:
            while await self.receive():
                silent = False
        except ConnectionError:
            pass
        return silent

    def close(self):
        self.writer.close()

    def option(self, number, data=b"", length=None):
        size = len(data) if length is None else length
        self.send(b"IHAVEOPT", struct.pack(">II", number, size), data)


class Bench:
    """What the tests work on."""

    def __init__(self, path) -> None:
        self.path = path
        self.graph = Graph(Workers())
        self.bus = EventBus()
        self.events = []
        self.bus.subscribe(lambda event, _us: self.events.append(event.to_wire()))
        self.manager = ExportManager(self.graph, self.bus)
        self.data = DATA
        self.disk = add_disk(self.graph, "disk", self.data)
        self.clients = []

    async def start(self, **kwargs: Any):
        await self.manager.start_nbd(UnixSocketAddress(path=self.path), **kwargs)
        return self

    async def add(self, id="e", **kwargs: Any):  # noqa: A002
        wire = {"type": "nbd", "id": id, "node_name": "disk", "name": id, "writable": True}
        return await self.manager.add(NbdExportOptions(**wire | kwargs))

    async def connect(self):
        client = RawClient(*await asyncio.open_unix_connection(self.path))
        self.clients.append(client)
        return client

    async def enter(self, name="e", **kwargs: Any):
        return await (await self.connect()).shake_hands(name, **kwargs)

    def delete(self, id, mode="safe"):  # noqa: A002
        return self.manager.finish_delete(self.manager.begin_delete(id, mode))

    async def close(self):
        self.disk.release()
        for client in self.clients:
            client.close()
        await self.manager.close()
        assert not self.manager.query()
        await self.graph.close()
        for client in self.clients:
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


@pytest.fixture
async def bench(tmp_path):
    made = Bench(str(tmp_path / "s"))
    yield made
    await made.close()


@pytest.fixture
async def served(bench):
    """A bench with the server started and the writable export ``e``."""
    await bench.start()
    await bench.add()
    return bench

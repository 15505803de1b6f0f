"""The graph of the fleecing scheme over two gate disks, with a guest and a backup client."""

import asyncio
from functools import cache
from typing import Any

from qmpfleece.base.workers import Workers
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.gate import add_disk
from tests.tools.tasks import all_ended
from tests.tools.until import settle

CLUSTER = 64 * 1024


@cache
def pattern(length: int) -> bytes:
    """Bytes that differ from place to place, zero nowhere."""
    return bytes(1 + (i // 512 * 7 + i) % 255 for i in range(length))


class Fleece:
    """The scheme; ``await start()`` inserts the filter."""

    def __init__(self, data: bytes, *, temp: int | None = None) -> None:
        self.graph = Graph(Workers())
        self.before = data
        self.disk = add_disk(self.graph, "disk", data)
        self.temp = add_disk(self.graph, "temp", bytes(len(data) if temp is None else temp))
        self.tasks: list[asyncio.Task[Any]] = []

    def add_bitmap(self, name: str, granularity: int = CLUSTER) -> DirtyBitmap:
        bitmap = DirtyBitmap(self.disk.node.length, granularity, name)
        self.disk.node.bitmaps.insert(0, bitmap)
        return bitmap

    async def add(self, **options: Any) -> Node:
        wire = {key.replace("_", "-"): value for key, value in options.items()}
        return await self.graph.add(validate_blockdev(wire))

    async def start(self, **options: Any) -> None:
        given = {"file": "disk", "target": "temp", "discard": "unmap"} | options
        self.filter = await self.add(driver="copy-before-write", node_name="cbw", **given)
        self.cbw: Any = self.filter.driver
        self.access_node = await self.add(
            driver="snapshot-access", node_name="snap", file="cbw", discard="unmap"
        )
        writes = Perm.CONSISTENT_READ | Perm.WRITE
        self.guest = Backend(self.graph, perm=writes)
        self.guest.attach(self.filter)
        self.client = Backend(self.graph, perm=writes)
        self.client.attach(self.access_node)

    async def close(self) -> None:
        """Let everything end, and check that nothing is left."""
        for disk in (self.disk, self.temp):
            disk.release()
        await all_ended(self.tasks)
        await self.guest.detach()
        await self.client.detach()
        await self.graph.delete("snap")
        await self.graph.delete("cbw")
        for disk in (self.disk, self.temp):
            assert not disk.node.parents
            assert not disk.node.in_flight
            assert [b for b in disk.node.bitmaps if b.name is None] == []
        await self.graph.close()
        self.graph.workers.close()

    def run(self, request: Any) -> "asyncio.Task[Any]":
        """Start a request; it goes on while the test looks on."""
        task = asyncio.ensure_future(request)
        self.tasks.append(task)
        return task

    def write(self, offset: int, data: bytes) -> "asyncio.Task[None]":
        return self.run(self.guest.pwrite(offset, memoryview(data)))

    async def read(self, offset: int, length: int) -> bytes:
        """Read the snapshot."""
        buf = bytearray(length)
        await self.client.pread(offset, memoryview(buf))
        return bytes(buf)

    async def started(self, request: Any) -> "asyncio.Task[Any]":
        """Start a request and let it get as far as it can."""
        task = self.run(request)
        await settle()
        return task

    def counts(self) -> dict[str, int]:
        """Bytes in each bitmap: access and done on the filter, copy on the disk."""
        access, done = (b.count for b in self.filter.bitmaps)
        copy = next(b.count for b in self.disk.node.bitmaps if b.name is None)
        return {"access": access, "done": done, "copy": copy}


def dirty_clusters(bitmap: DirtyBitmap) -> list[int]:
    """Return the numbers of the clusters whose first byte is dirty."""
    return [n for n in range(bitmap.bits.length // CLUSTER) if bitmap.bits.get(n * CLUSTER)]

"""A copy engine between two gate disks."""

import asyncio
from typing import Any

from qmpfleece.base.workers import Workers
from qmpfleece.block.block_copy import BlockCopy
from qmpfleece.block.child import Child
from qmpfleece.block.copy_limits import Throttle
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm, Role
from tests.tools.gate import add_disk
from tests.tools.memory import User
from tests.tools.tasks import all_ended
from tests.tools.until import settle


class Bench:
    """An engine between two gate disks."""

    def __init__(self, data: bytes, options: dict[str, Any]) -> None:
        self.graph = Graph(Workers())
        self.data = data
        self.source = add_disk(self.graph, "source", data)
        self.target = add_disk(self.graph, "target", bytes(len(data)))
        user = User()
        self.edges = [
            Child("source", Role.DATA, user, self.source.node),
            Child("target", Role.DATA, user, self.target.node),
        ]
        for edge in self.edges:
            self.graph.attach(edge, Perm.CONSISTENT_READ | Perm.WRITE | Perm.RESIZE, Perm.ALL)
        self.engine = BlockCopy(*self.edges, **options)
        self.copied: list[int] = []
        self.engine.on_progress = self.copied.append
        self.tasks: list[asyncio.Task[None]] = []

    async def start(
        self, offset: int, length: int, workers: int = 64, throttle: Throttle | None = None
    ) -> "asyncio.Task[None]":
        copying = self.engine.copy(offset, length, workers=workers, throttle=throttle)
        task = asyncio.create_task(copying)
        self.tasks.append(task)
        await settle()
        return task

    async def close(self) -> None:
        for disk in (self.source, self.target):
            disk.release()
        await all_ended(self.tasks)
        self.engine.close()
        for edge in self.edges:
            self.graph.detach(edge)
        assert self.source.node.bitmaps == []
        await self.graph.close()
        self.graph.workers.close()

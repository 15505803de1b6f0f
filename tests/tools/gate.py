"""A disk in memory whose requests stop until the test lets them go."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

from qmpfleece.base.errors import BlockError
from qmpfleece.bitmap.bits import GranularBits
from qmpfleece.block.driver import BlockDriver, Extent, Opener, ReqFlags, Status
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.qapi.blockdev import BlockdevOptions

#: For whom the running task works, as the test chooses to say; remembered at the gate.
OWNER: ContextVar[object] = ContextVar("owner", default=None)
#: Bytes of what the disk can allocate.
BLOCK = 512


class Stopped:
    """A request at the gate. What it does to the data, it does when it is let go."""

    def __init__(self, verb: str, offset: int, length: int) -> None:
        self.verb = verb
        self.offset = offset
        self.length = length
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.owner = OWNER.get()

    def __repr__(self) -> str:
        return f"<{self.verb} {self.offset}+{self.length}>"

    def go(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def fail(self, code: int) -> None:
        if not self.future.done():
            self.future.set_exception(BlockError(code))


class GateDisk(BlockDriver[BlockdevOptions]):
    """The driver; not registered, see ``add_disk``.

    Attributes:
        data: The content.
        allocated: What has been written and not been zeroed or discarded since.
        log: Every request: verb, offset, length.
        stops: Which requests stop.
        waiting: Those that have.
        applied: What has changed the content: verb, offset, bytes.
        errors: Errno with which a verb fails.
    """

    is_protocol = True
    driver_name = "gate"
    write_flags = ReqFlags.FUA | ReqFlags.WRITE_UNCHANGED
    zero_flags = write_flags | ReqFlags.MAY_UNMAP
    clusters = 0

    def __init__(self, node: Node, options: BlockdevOptions) -> None:
        super().__init__(node, options)
        self.data = bytearray()
        self.log: list[tuple[str, int, int]] = []
        self.stops: Callable[[str, int, int], bool] = lambda *_: False
        self.waiting: list[Stopped] = []
        self.applied: list[tuple[str, int, bytes]] = []
        self.errors: dict[str, int] = {}
        self.closed = False

    def fill(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.allocated = GranularBits(len(data), BLOCK)
        for offset in range(0, len(data), BLOCK):
            if any(data[offset : offset + BLOCK]):
                self.allocated.set(offset, 1)

    def stop(self, *verbs: str) -> None:
        """Stop these verbs from now on; none at all without arguments."""
        self.stops = lambda verb, *_: verb in verbs

    def release(self) -> None:
        """Let everything go, and stop nothing more."""
        self.stop()
        for request in tuple(self.waiting):
            request.go()

    def seen(self, verb: str) -> list[tuple[int, int]]:
        return [(offset, length) for name, offset, length in self.log if name == verb]

    async def open(self, opener: Opener) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """Remember that."""
        assert not self.waiting
        self.closed = True

    async def _pass(self, verb: str, offset: int, length: int) -> None:
        self.log.append((verb, offset, length))
        if self.stops(verb, offset, length):
            request = Stopped(verb, offset, length)
            self.waiting.append(request)
            try:
                await request.future
            finally:
                self.waiting.remove(request)
        if verb in self.errors:
            raise BlockError(self.errors[verb])

    async def pread(self, offset: int, buf: memoryview) -> None:
        await self._pass("read", offset, len(buf))
        buf[:] = self.data[offset : offset + len(buf)]

    async def pwrite(self, offset: int, buf: memoryview, flags: int) -> None:
        await self._pass("write", offset, len(buf))
        if (end := offset + len(buf)) > len(self.data):  # a format on top makes its file grow
            self.data.extend(bytes(end - len(self.data)))
            self.allocated.resize(end)
        self.data[offset : offset + len(buf)] = buf
        self.allocated.set(offset, len(buf))
        self.applied.append(("write", offset, bytes(buf)))

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        await self._pass("zero", offset, length)
        self._drop("zero", offset, length)

    async def pdiscard(self, offset: int, length: int) -> None:
        await self._pass("discard", offset, length)
        self._drop("discard", offset, length)

    async def flush(self) -> None:
        await self._pass("flush", 0, 0)

    async def truncate(self, length: int) -> int:
        await self._pass("truncate", length, 0)
        self.fill(bytes(self.data[:length]).ljust(length, b"\0"))
        return length

    def _drop(self, verb: str, offset: int, length: int) -> None:
        self.data[offset : offset + length] = bytes(length)
        self.allocated.reset(offset, length)
        self.applied.append((verb, offset, bytes(length)))

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        await self._pass("status", offset, length)
        start = offset
        extents: list[Extent] = []
        end = offset + length
        while offset < end and len(extents) < limit:
            data, run = self.allocated.run(offset, end - offset)
            flags = Status.ALLOCATED | (Status.DATA if data else Status.ZERO)
            extents.append(Extent(run, flags, offset, self.node))
            offset += run
        await self._pass("answer", start, length)  # it may be out of date on its way
        return extents

    @property
    def cluster_size(self) -> int:
        return self.clusters


def add_disk(graph: Graph, name: str, data: bytes, *, read_only: bool = False) -> GateDisk:
    """Add a node that holds ``data`` to the graph."""
    given = BlockdevOptions(driver="gate", node_name=name, discard="unmap", read_only=read_only)
    node = Node(name, given, NodeOptions(given))
    disk = GateDisk(node, given)
    node.driver = disk
    node.length = len(data)
    node.monitor_owned = True
    disk.fill(data)
    graph._nodes[name] = node
    return disk

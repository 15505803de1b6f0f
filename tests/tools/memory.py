"""A disk in memory: any alignment, any abilities, holes, injected errors, a log of calls."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import SECTOR, align_up
from qmpfleece.bitmap.bits import GranularBits
from qmpfleece.block.child import Child
from qmpfleece.block.driver import BlockDriver, Extent, Opener, ReqFlags, Status
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Perm, Role
from qmpfleece.qapi.blockdev import BlockdevOptions
from tests.tools.until import settle


class MemoryDisk(BlockDriver[BlockdevOptions]):
    """The driver; not registered, see ``add_memory``.

    Attributes:
        data: The content.
        allocated: Which sectors have been written and not been zeroed or discarded since.
        calls: Every call: verb, offset, length, flags.
        errors: Errno with which a verb fails, before it has changed anything.
        pause: Awaited within each call, before it takes effect.
        write_flags: Settable, unlike those of real drivers.
        zero_flags: The same.
        fast_zeroes: Whether pwrite_zeroes does something.
        grows: Whether writes past the end make the disk longer.
    """

    is_protocol = True
    supports_backing = True
    driver_name = "memory"

    def __init__(self, node: Node, options: BlockdevOptions) -> None:
        super().__init__(node, options)
        self.data = bytearray()
        self.allocated = GranularBits(0, SECTOR)
        self.calls: list[tuple[str, int, int, int]] = []
        self.errors: dict[str, int] = {}
        self.pause: Callable[[str, int, int], Awaitable[None]] | None = None
        self.write_flags = ReqFlags.NONE  # of this one disk
        self.zero_flags = ReqFlags.NONE  # of this one disk
        self.fast_zeroes = True
        self.grows = False
        self.closed = False

    def fill(self, data: bytes, alignment: int) -> None:
        # Whole blocks can be read: what lies past the end of the node in the last one is zero.
        self.data = bytearray(data).ljust(align_up(len(data), alignment), b"\0")
        self.allocated = GranularBits(len(self.data), SECTOR)
        self.allocated.set_all()

    def seen(self, *verbs: str) -> list[tuple[str, int, int, int]]:
        """Return and forget the calls, of these verbs only if any are named."""
        calls, self.calls = self.calls, []
        return [call for call in calls if not verbs or call[0] in verbs]

    async def open(self, opener: Opener) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """Remember that."""
        assert not self.closed
        self.closed = True

    async def _enter(self, verb: str, offset: int, length: int, flags: int = 0) -> None:
        align = self.node.request_alignment
        whole = offset % align == length % align == 0
        assert whole or verb == "discard", f"unaligned {verb} of {offset}+{length}"
        self.calls.append((verb, offset, length, flags))
        if self.pause is not None:
            await self.pause(verb, offset, length)
        if verb in self.errors:
            raise BlockError(self.errors[verb])

    def _reach(self, end: int) -> None:
        if end > len(self.data):
            assert self.grows, "past the end"
            self.data.extend(bytes(end - len(self.data)))
            self.allocated.resize(len(self.data))

    async def pread(self, offset: int, buf: memoryview) -> None:
        await self._enter("read", offset, len(buf))
        assert self.grows or offset + len(buf) <= len(self.data)
        buf[:] = bytes(self.data[offset : offset + len(buf)]).ljust(len(buf), b"\0")

    async def pwrite(self, offset: int, buf: memoryview, flags: int) -> None:
        assert not flags & ~self.write_flags
        await self._enter("write", offset, len(buf), flags)
        self._reach(offset + len(buf))
        self.data[offset : offset + len(buf)] = buf
        self.allocated.set(offset, len(buf))

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        assert not flags & ~self.zero_flags
        await self._enter("zero", offset, length, flags)
        if not self.fast_zeroes:
            raise BlockError(errno.ENOTSUP)
        self._reach(offset + length)
        self._drop(offset, length)

    async def pdiscard(self, offset: int, length: int) -> None:
        await self._enter("discard", offset, length)
        self._drop(offset, length)

    async def flush(self) -> None:
        await self._enter("flush", 0, 0)

    async def truncate(self, length: int) -> int:
        await self._enter("truncate", 0, align_up(length, self.node.request_alignment))
        self.data = self.data[:length].ljust(length, b"\0")
        self.allocated.resize(length)
        return length

    def _drop(self, offset: int, length: int) -> None:
        self.data[offset : offset + length] = bytes(length)
        if length:
            self.allocated.reset(offset, length)

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        self.calls.append(("status", offset, length, 0))
        if self.pause is not None:
            await self.pause("status", offset, length)
        extents: list[Extent] = []
        end = offset + length
        while offset < end and len(extents) < limit:
            data, run = self.allocated.run(offset, end - offset)
            flags = Status.DATA | Status.ALLOCATED if data else self.hole
            extents.append(Extent(run, flags, offset, self.node))
            offset += run
        return extents

    #: The status of what is not allocated: of a disk of its own, or above a backing file.
    hole = Status.ZERO | Status.ALLOCATED


def add_memory(
    graph: Graph,
    name: str,
    data: bytes = bytes(64 * 1024),
    *,
    alignment: int = 1,
    **options: Any,
) -> MemoryDisk:
    """Add a node that holds ``data`` to the graph."""
    given = BlockdevOptions(driver="memory", node_name=name, **options)
    node = Node(name, given, NodeOptions(given))
    disk = MemoryDisk(node, given)
    node.driver = disk
    node.length = align_up(len(data), SECTOR)
    node.request_alignment = alignment
    node.tracks = alignment > 1
    node.monitor_owned = True
    disk.fill(data.ljust(node.length, b"\0"), alignment)
    graph._nodes[name] = node
    return disk


class User:
    """Holds an edge and does nothing else.

    Attributes:
        quiesced: How many drained sections hold it.
    """

    def __init__(self, name: str = "user") -> None:
        self.name = name
        self.quiesced = 0
        self.log: list[str] = []

    def describe(self) -> str:
        return self.name

    def drained_begin(self) -> None:
        self.quiesced += 1

    def drained_end(self) -> None:
        self.quiesced -= 1
        assert self.quiesced >= 0

    def busy_nodes(self) -> list[Node]:
        return []


def hold(
    graph: Graph,
    node: Node,
    perm: Perm = Perm.ALL,
    shared: Perm = Perm.ALL,
    user: User | None = None,
) -> Child:
    """Attach a user to a node; return its edge."""
    edge = Child("root", Role.PRIMARY | Role.FILTERED, user or User(), node)
    graph.attach(edge, perm, shared)
    return edge


class Barrier:
    """A ``pause`` for MemoryDisk: calls stop here until they are let go."""

    def __init__(self, *verbs: str) -> None:
        self.verbs = verbs
        self.waiting: list[tuple[str, int, int, asyncio.Future[None]]] = []

    async def __call__(self, verb: str, offset: int, length: int) -> None:
        if self.verbs and verb not in self.verbs:
            return
        entry = (verb, offset, length, asyncio.get_running_loop().create_future())
        self.waiting.append(entry)
        try:
            await entry[3]
        finally:
            self.waiting.remove(entry)

    def go(self, index: int = 0) -> None:
        """Let one call go."""
        self.waiting[index][3].set_result(None)

    def release(self) -> None:
        """Let all go, and stop no more."""
        self.verbs = ("nothing",)
        for *_, future in self.waiting:
            if not future.done():
                future.set_result(None)


class Load:
    """Tasks of a test, with their memory."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []

    async def start(self, coro: Any) -> asyncio.Task[Any]:
        """Run a request until it waits."""
        task = asyncio.ensure_future(coro)
        self.tasks.append(task)
        await settle()
        return task

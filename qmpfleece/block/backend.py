"""A user's handle on a node: what exports, devices and tools hold.

Requests enter the graph here. While the node is drained they wait here. Verbs are plain
functions: the coroutine they return is that of the next layer, so the handle costs no frame.
Whether the node is drained is seen when the verb is called, so the coroutine must be awaited,
or run to its first suspension (``eager``), before the loop goes on: not be given to a new task.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from qmpfleece.base.errors import BlockError
from qmpfleece.block import grants, pipeline, status
from qmpfleece.block.accounting import Accounting
from qmpfleece.block.child import Child
from qmpfleece.block.drain import drained
from qmpfleece.block.driver import Extent, Io
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Perm, Role
from qmpfleece.block.places import Places
from qmpfleece.block.throttle_group import Member, ThrottleGroup

T = TypeVar("T")


class Backend:
    """A handle on a node. Source: QEMU's ``BlockBackend``.

    Args:
        graph: Where the node lives.
        name: The name for messages; ``""`` for an unnamed one.
        perm: What the user needs of the node.
        shared: What it lets others do.

    Attributes:
        accounting: Counts what its user has asked for, where that user says so.
        device: The id or QOM path of the device that holds it, for messages, too.
        last: The options of the node that it has let go of last, or what stands for them.
        number: Greater than that of all handles on nodes of this graph that were made before.
    """

    __slots__ = (
        "_detour",
        "_graph",
        "_member",
        "_quiesced",
        "_root",
        "_waiters",
        "accounting",
        "device",
        "last",
        "name",
        "number",
        "perm",
        "shared",
    )

    def __init__(
        self,
        graph: Graph,
        name: str = "",
        perm: Perm = Perm.CONSISTENT_READ,
        shared: Perm = Perm.ALL,
    ) -> None:
        self._graph = graph
        self.name = name
        self.accounting = Accounting()
        self.device = ""
        self.last: NodeOptions | None = None
        self.perm = perm
        self.shared = shared
        self.number = graph.number_backend()
        self._root: Child | None = None
        self._quiesced = 0
        self._member: Member | None = None
        #: Not 0 while requests can't go straight on: it is drained, or there are I/O limits.
        self._detour = 0
        self._waiters: list[asyncio.Future[None]] = []

    # -- the node -----------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """Where its node lives."""
        return self._graph

    @property
    def node(self) -> Node | None:
        """The node, None while nothing is attached."""
        return self._root.node if self._root is not None else None

    @property
    def root(self) -> Child | None:
        """The edge to the node, None while nothing is attached."""
        return self._root

    @property
    def length(self) -> int:
        """The node's length in bytes, 0 while nothing is attached."""
        return self._root.node.length if self._root is not None else 0

    def attach(self, node: Node) -> None:
        """Take ``node``.

        Raises:
            QmpError: Permissions conflict, or the node is read-only and writing is needed.
        """
        assert self._root is None
        root = Child("root", Role.PRIMARY | Role.FILTERED, self, node, self.name)
        self._graph.attach(root, self.perm, self.shared)
        self._root = root

    async def replace(self, node: Node) -> None:
        """Go over to ``node`` between two requests; the old node closes if it is unowned.

        Requests in flight end on the old node, later ones go to the new one.

        Raises:
            QmpError: Permissions conflict, or the node is read-only and writing is needed;
                nothing has changed.
        """
        while (root := self._root) is not None:
            old = root.node
            if old is node:
                return
            async with drained(old):
                # Else it has been led elsewhere, or let go, while we waited.
                is_ours = self._root is root and root.node is old
                if is_ours:
                    self._graph.replace_node([root], node)
            if is_ours:
                await self._graph.release(old)
                return
        self.attach(node)

    def set_perm(self, perm: Perm, shared: Perm) -> None:
        """Change what the user needs and lets others do, also for nodes to come.

        Raises:
            QmpError: Permissions conflict; nothing has changed.
        """
        if (root := self._root) is not None:
            before = root.perm, root.shared
            root.perm, root.shared = perm, shared
            try:
                grants.refresh([root.node])
            except BaseException:
                root.perm, root.shared = before
                raise
        self.perm, self.shared = perm, shared

    async def detach(self) -> None:
        """Let go of the node, once the requests in flight have ended; it closes if unowned.

        Requests that arrive meanwhile fail with ENOMEDIUM.
        """
        while (root := self._root) is not None:
            node = root.node
            async with drained(node):
                # Else it has been led elsewhere, or let go, while we waited.
                is_ours = self._root is root and root.node is node
                if is_ours:
                    self.last = node.options
                    self._root = None
                    self._graph.detach(root)
            if is_ours:
                await self._graph.release(node)

    async def let_go(self) -> None:
        """Let go of the node without waiting for the requests of others.

        The caller has no request of its own in flight; so a command ends although a break
        point suspends somebody's request.
        """
        root = self._root
        if root is None:
            return
        self._root = None
        self._graph.detach(root)
        await self._graph.release(root.node)

    # -- I/O limits ---------------------------------------------------------------------------

    @property
    def throttle_group(self) -> ThrottleGroup | None:
        """Whose limits its requests keep to."""
        return self._member.group if self._member is not None else None

    def join(self, group: ThrottleGroup | None) -> None:
        """Keep to the limits of a group, None for none; requests that wait for others go."""
        if (old := self._member) is not None:
            old.group.drain_begin(old)
            old.group.leave(old)
            self._detour -= 1
        self._member = None
        if group is not None:
            self._member = group.join()
            self._member.draining = self._quiesced
            self._detour += 1

    # -- requests -----------------------------------------------------------------------------

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Fill ``buf`` from ``offset``; see ``pipeline.pread``."""
        if self._detour or self._root is None:
            return self._limited(
                lambda root: pipeline.pread(root, offset, buf), len(buf), write=False
            )
        return pipeline.pread(self._root, offset, buf)

    def locate(self, offset: int, length: int) -> Places | None:
        """Return where the data of a read lies, to be released once it was read there.

        None if it has to be read by ``pread``; see ``BlockDriver.locate``.
        """
        if self._detour or self._root is None:
            return None
        places = Places()
        found = False
        try:
            found = pipeline.locate(self._root, offset, length, places)
        finally:
            if not found:
                places.release()
        return places if found else None

    def pwrite(self, offset: int, buf: memoryview, flags: int = 0) -> Io:
        """Write ``buf`` at ``offset``; see ``pipeline.pwrite``."""
        if self._detour or self._root is None:
            return self._limited(
                lambda root: pipeline.pwrite(root, offset, buf, flags), len(buf), write=True
            )
        return pipeline.pwrite(self._root, offset, buf, flags)

    def pwrite_zeroes(self, offset: int, length: int, flags: int = 0) -> Io:
        """Make a range read as zeroes; see ``pipeline.pwrite_zeroes``."""
        if self._detour or self._root is None:
            return self._limited(
                lambda root: pipeline.pwrite_zeroes(root, offset, length, flags),
                length,
                write=True,
            )
        return pipeline.pwrite_zeroes(self._root, offset, length, flags)

    def pwrite_compressed(self, offset: int, buf: memoryview) -> Io:
        """Write whole clusters compressed; see ``pipeline.pwrite_compressed``."""
        if self._detour or self._root is None:
            return self._limited(
                lambda root: pipeline.pwrite_compressed(root, offset, buf), len(buf), write=True
            )
        return pipeline.pwrite_compressed(self._root, offset, buf)

    def pdiscard(self, offset: int, length: int) -> Io:
        """Say that a range is no longer needed; see ``pipeline.pdiscard``."""
        if self._detour or self._root is None:
            return self._limited(
                lambda root: pipeline.pdiscard(root, offset, length), length, write=True
            )
        return pipeline.pdiscard(self._root, offset, length)

    def flush(self) -> Io:
        """Make all completed writes stable."""
        if self._detour or self._root is None:
            return self._later(pipeline.flush)
        return pipeline.flush(self._root)

    def truncate(self, length: int) -> Coroutine[Any, Any, int]:
        """Change the node's size in bytes; see ``pipeline.truncate``."""
        if self._detour or self._root is None:
            return self._later(lambda root: pipeline.truncate(root, length))
        return pipeline.truncate(self._root, length)

    def block_status(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return extents as a reader sees them; see ``status.status_above``."""
        if self._detour or self._root is None:
            return self._later(lambda root: status.status_above(root.node, offset, length, limit))
        return status.status_above(self._root.node, offset, length, limit)

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell, without looking, whether all of the range is data, now that nothing is drained."""
        if self._detour or self._root is None:
            return False
        return self._root.node.driver.is_known_data(offset, length)

    def allocation_depth(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[tuple[int, int]]]:
        """Return runs ``(length, depth)``; see ``status.allocation_depth``."""
        if self._detour or self._root is None:
            return self._later(
                lambda root: status.allocation_depth(root.node, offset, length, limit)
            )
        return status.allocation_depth(self._root.node, offset, length, limit)

    async def _limited(
        self, request: Callable[[Child], Awaitable[None]], length: int, *, write: bool
    ) -> None:
        """Do a request once the node is not drained and the I/O limits allow it.

        Who drains the node meanwhile waits for it: it is let go then.
        """
        root = await self._undrained()
        node = root.node
        node.work_begin()
        try:
            if (member := self._member) is not None and member.group.limited:
                await member.group.admit(member, length, write=write)
            await request(root)
        finally:
            node.work_end()

    async def _later(self, request: Callable[[Child], Awaitable[T]]) -> T:
        return await request(await self._undrained())

    async def _undrained(self) -> Child:
        """Return the edge to the node, once that is not drained.

        Raises:
            OSError: ENOMEDIUM: there is none.
        """
        while self._quiesced:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self._root is None:
            raise BlockError(errno.ENOMEDIUM)
        return self._root

    # -- as the parent of its root edge ---------------------------------------------------

    def describe(self) -> str:
        """Return how permission messages name the user."""
        name = self.name or self.device
        return f"block device '{name}'" if name else "an unnamed block device"

    def drained_begin(self) -> None:
        """Hold back new requests."""
        self._quiesced += 1
        self._detour += 1
        if self._member is not None:  # limits do not hold while it is drained
            self._member.group.drain_begin(self._member)

    def drained_end(self) -> None:
        """Undo one ``drained_begin``; when it was the last one, let the requests go."""
        self._quiesced -= 1
        self._detour -= 1
        if self._member is not None:
            self._member.group.drain_end(self._member)
        if not self._quiesced:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def busy_nodes(self) -> list[Node]:
        """Return no node: a backend has nothing in flight that its node has not."""
        return []

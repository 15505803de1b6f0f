"""A vertex of the graph: a name, a driver, edges, bitmaps and the requests in flight.

A node has a driver rather than being one, so that no driver can override the door
(``pipeline``) through which all requests pass.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from qmpfleece.base.errors import QmpError
from qmpfleece.block.child import Child
from qmpfleece.block.perm import Perm, Role
from qmpfleece.block.reqlist import ReqList

if TYPE_CHECKING:
    from qmpfleece.bitmap.dirty import DirtyBitmap
    from qmpfleece.block.driver import BlockDriver
    from qmpfleece.qapi.blockdev import BlockdevOptions, DetectZeroes

#: Told, in the words of QAPI ``BlkdebugEvent``, what is about to happen.
Listener: TypeAlias = Callable[[str], Awaitable[None]]

#: The longest node, in bytes. Source: QEMU, BDRV_MAX_LENGTH.
MAX_LENGTH: Final = (1 << 63) - (1 << 30)

_NOTHING: Final[frozenset[str]] = frozenset()


class NodeOptions:
    """The options that every node has, resolved: given, inherited or default.

    Attributes:
        read_only: The node was opened read-only.
        auto_read_only: Whether it may be opened read-only when it can't be opened writable,
            and whether the file is held writable only while somebody writes.
        cache_direct: Bypass the host's page cache.
        cache_no_flush: Ignore flushes.
        unmap: Discards are passed to the driver.
        detect_zeroes: Whether written zeroes become zero writes.
        force_share: Share everything with others, whatever the users of the node say.
        aio: What a drive says of how files are read, for images that come in the node's place;
            its own files have been told.
        untold: Those, by their names, that a reopening left to their defaults: they are not
            inherited by what is reopened along with the node.
    """

    __slots__ = (
        "aio",
        "auto_read_only",
        "cache_direct",
        "cache_no_flush",
        "detect_zeroes",
        "force_share",
        "read_only",
        "unmap",
        "untold",
    )

    def __init__(self, given: "BlockdevOptions", parent: "NodeOptions | None" = None) -> None:
        cache = given.cache

        def pick(value: bool | None, name: str) -> bool:  # noqa: FBT001 - a value, no switch
            if value is None:
                return bool(getattr(parent, name)) if parent is not None else False
            return value

        self.read_only = pick(given.read_only, "read_only")
        self.auto_read_only = pick(given.auto_read_only, "auto_read_only")
        self.cache_direct = pick(cache.direct if cache else None, "cache_direct")
        self.cache_no_flush = pick(cache.no_flush if cache else None, "cache_no_flush")
        self.force_share = pick(given.force_share, "force_share")
        # Format drivers respect the policy themselves, so nested definitions may unmap.
        self.unmap = given.discard == "unmap" if given.discard else parent is not None
        self.detect_zeroes: DetectZeroes = given.detect_zeroes or "off"
        self.untold: frozenset[str] = _NOTHING
        self.aio: str | None = None


class Node:
    """A node of the block graph.

    Fixed at open: ``name``, ``driver``, ``given``, ``options`` (but ``read_only``, which
    falls back under auto-read-only), ``request_alignment``.
    Changes only in ``reopen``, too: ``given`` and ``options``.
    Changes only in ``graph``: ``children``, ``inherits_from``, ``parents``,
    ``monitor_owned``, ``debug``.
    Changes only in ``pipeline``: ``in_flight``, ``tracked``, ``serialising``, ``write_gen``,
    ``flushed_gen``, ``wr_highest_offset``.

    Attributes:
        name: The node name, given or ``#block###``.
        driver: What the node is.
        given: The options that it was opened with.
        said: Those of them that were said as text, by their names, as they were said.
        options: The same, resolved.
        children: Edges to the nodes that this one uses, in the order of attaching.
        parents: Edges of those who use this node.
        length: Bytes, a multiple of 512.
        request_alignment: Offsets and lengths of requests to the driver are multiples of it.
        bitmaps: Dirty bitmaps, newest first.
        readonly_bitmaps: Whether some of them must not change: so neither must the node.
        in_flight: Requests, and background work that a drain waits for.
        tracked: Writes that serialising requests wait for; kept when ``tracks`` is set.
        serialising: Requests that nothing may overlap.
        tracks: Whether requests are tracked at all: set when unaligned or serialising
            requests can occur.
        tracks_reads: How many edges want reads to be, too: those whose serialising writes move
            what lies below to this node, so that they must not meet a read on its way down.
        quiesced: How many drained sections hold the node.
        monitor_owned: Created by blockdev-add and not yet deleted.
        inherits_from: The node in whose definition this one was nested, until it, or what has
            come in between, is no child of it any more.
        listener: Who wants to be told what happens to this node and what is about to happen
            to it, in the words of QAPI ``BlkdebugEvent``; set by its driver when it opens.
        debug: The listener of the primary child, whom this node tells what it is about to
            do; None as a rule, so that telling costs nothing.
        known_filename: What ``control.describe`` calls the file name of the node, once it has
            worked that out of its options and of all below it; see ``described_anew``.
        told: What a client was told of the node last; whoever wants to tell it again compares.
        wr_highest_offset: The end of the write that has gone furthest, in bytes.
        write_threshold: After which offset the next write is to be told, 0 for none; see
            ``write_threshold``.
        on_write: Told where each write is to end; called only while ``tracks`` is set.
        blockers: Why commands must leave the node alone, newest first; see ``check_free``.
    """

    __slots__ = (
        "__weakref__",
        "_exact_filename",
        "_idle_waiters",
        "bitmaps",
        "blockers",
        "children",
        "debug",
        "driver",
        "flushed_gen",
        "given",
        "in_flight",
        "inherits_from",
        "known_filename",
        "length",
        "listener",
        "monitor_owned",
        "name",
        "on_write",
        "options",
        "parents",
        "quiesced",
        "readonly_bitmaps",
        "request_alignment",
        "said",
        "serialising",
        "told",
        "tracked",
        "tracks",
        "tracks_reads",
        "wr_highest_offset",
        "write_gen",
        "write_threshold",
    )

    driver: "BlockDriver[Any]"

    def __init__(self, name: str, given: "BlockdevOptions", options: NodeOptions) -> None:
        self.name = name
        self.given = given
        self.said: dict[str, str] = {}
        self.options = options
        self.children: dict[str, Child] = {}
        self.parents: list[Child] = []
        self.length = 0
        self.request_alignment = 1
        self.bitmaps: list[DirtyBitmap] = []
        self.readonly_bitmaps = False
        self.blockers: list[str] = []
        self.in_flight = 0
        self.listener: Listener | None = None
        self.debug: Listener | None = None
        self.tracked = ReqList()
        self.serialising = ReqList()
        self.tracks = False
        self.tracks_reads = 0
        self.quiesced = 0
        self.monitor_owned = False
        self.known_filename: str | None = None
        self.told: object = None
        self._exact_filename: str | None = None
        self.inherits_from: Node | None = None
        self.write_gen = 0
        self.flushed_gen = 0
        self.wr_highest_offset = 0
        self.write_threshold = 0
        self.on_write: Callable[[int], None] | None = None
        self._idle_waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.driver.driver_name}>"

    @property
    def read_only(self) -> bool:
        """Whether writes are impossible."""
        return self.options.read_only

    @property
    def exact_filename(self) -> str:
        """A plain file name that would open the node alike, or ``""``."""
        if self._exact_filename is None:
            self._exact_filename = self.driver.exact_filename()
        return self._exact_filename

    @property
    def has_medium(self) -> bool:
        """Whether there is anything to work on: no image here or below was given up as corrupt."""
        below = self.children.values()
        return self.driver.has_medium and all(edge.node.has_medium for edge in below)

    def described_anew(self) -> None:
        """Take note that the node shows, or may be called, something else than before.

        So do those above it, which may be called by what is below them.
        """
        seen: set[Node] = set()
        left = [self]
        while left:
            if (node := left.pop()) not in seen:
                seen.add(node)
                node.known_filename = node._exact_filename = None
                left += [edge.parent for edge in node.parents if isinstance(edge.parent, Node)]

    @property
    def primary_child(self) -> Child | None:
        """The child that this node mainly consists of, None if there is none."""
        for child in self.children.values():
            if child.role & Role.PRIMARY:
                return child
        return None

    def take_options(
        self, given: "BlockdevOptions", options: NodeOptions, said: dict[str, str]
    ) -> None:
        """Put other options in force; the caller sees to it that the driver can."""
        self.given, self.options, self.said = given, options, said
        self.driver.options = given
        self.described_anew()

    def child_moved(self) -> None:
        """Take note that an edge to a child has changed: learn whom to tell."""
        primary = self.primary_child
        self.debug = primary.node.listener if primary is not None else None
        self.described_anew()

    def users_perm(self) -> tuple[Perm, Perm]:
        """Return what all users together need, and what all of them share."""
        perm, shared = Perm.NONE, Perm.ALL
        for edge in self.parents:
            perm |= edge.perm
            shared &= edge.shared
        return perm, shared

    @property
    def device_name(self) -> str:
        """The name of a device that uses the node; "" if there is none that has one."""
        for edge in self.parents:
            if edge.device_name:
                return edge.device_name
        return ""

    def check_free(self, *, may_be_backing: bool = False) -> None:
        """Refuse a command on a node that a job works on, or an overlay builds on.

        Args:
            may_be_backing: The command is allowed on backing files.

        Raises:
            QmpError: It has a blocker.
        """
        reasons = self.blockers if may_be_backing else self.busy_with()
        if reasons:
            raise QmpError(f"Node '{self.device_name or self.name}' is busy: {reasons[0]}")

    def busy_with(self) -> list[str]:
        """Return why commands may not touch the node; none if they may."""
        return self.blockers + [
            f"node is used as backing hd of '{edge.parent.name}'"
            for edge in reversed(self.parents)
            if edge.role & Role.COW and isinstance(edge.parent, Node)
        ]

    # -- background work and draining ------------------------------------------------------

    def work_begin(self) -> None:
        """Count background work, or a request, that a drain must wait for."""
        self.in_flight += 1

    def work_end(self) -> None:
        """Undo one ``work_begin`` and wake those who wait for the node to fall idle."""
        self.in_flight -= 1
        if not self.in_flight and self._idle_waiters:
            self.wake_idle()

    def wake_idle(self) -> None:
        """Wake those who wait in ``wait_idle``."""
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight. Cancellation-safe."""
        while self.in_flight:
            waiter = asyncio.get_running_loop().create_future()
            self._idle_waiters.append(waiter)
            await waiter

    # -- as the parent of its children -----------------------------------------------------

    def describe(self) -> str:
        """Return how permission messages name the node."""
        return f"node '{self.name}'"

    def drained_begin(self) -> None:
        """Quiesce the node and whoever uses it, newest first as QEMU does."""
        self.quiesced += 1
        for edge in tuple(reversed(self.parents)):
            edge.parent.drained_begin()

    def drained_end(self) -> None:
        """Undo one ``drained_begin``."""
        self.quiesced -= 1
        for edge in tuple(reversed(self.parents)):
            edge.parent.drained_end()

    def busy_nodes(self) -> "list[Node]":
        """Return this node and those above it, topmost first."""
        above: dict[Node, None] = {}
        for edge in self.parents:
            above.update(dict.fromkeys(edge.parent.busy_nodes()))
        above[self] = None
        return list(above)

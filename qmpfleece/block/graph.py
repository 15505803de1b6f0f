"""The graph: nodes by name; opening, connecting and deleting them.

Connections change in one synchronous step each: edges are changed, the permissions of all
nodes below are computed and checked, and either all is kept or all is put back. So queries
and requests never see half a change.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.fdsets import FdSets
from qmpfleece.base.names import well_formed
from qmpfleece.base.workers import Workers
from qmpfleece.block import edges, grants
from qmpfleece.block.child import Child
from qmpfleece.block.drain import drained
from qmpfleece.block.driver import DRIVERS
from qmpfleece.block.node import MAX_LENGTH, Node, NodeOptions
from qmpfleece.block.opener import NodeOpener
from qmpfleece.block.perm import Perm, Role
from qmpfleece.block.throttle_group import ThrottleGroup
from qmpfleece.qapi.bus import EventBus

if TYPE_CHECKING:
    from qmpfleece.bitmap.dirty import DirtyBitmap
    from qmpfleece.block.backend import Backend
    from qmpfleece.qapi.blockdev import BlockdevOptions

log = logging.getLogger(__name__)

_MAX_NAME: Final = 31


class Graph:
    """All nodes of a daemon.

    Args:
        workers: The threads on which drivers run system calls.
        events: Where drivers emit events.
    """

    def __init__(self, workers: Workers, events: EventBus | None = None) -> None:
        self.workers = workers
        self.events = events or EventBus()
        #: What throttle nodes can join, by name; kept by whoever makes the groups.
        self.throttle_groups: dict[str, ThrottleGroup] = {}
        #: Descriptors that were handed over, see ``/dev/fdset``.
        self.fdsets = FdSets()
        #: What has a name besides the nodes and is looked for before them: the drives.
        self.devices: dict[str, Backend] = {}
        self._nodes: dict[str, Node] = {}
        #: Those of them whose drivers are not open yet: only what they consist of sees them.
        self._opening: set[Node] = set()
        self._names_made = 0
        self._backends_made = 0

    # -- finding ------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """Return all nodes, newest first, as QEMU lists them."""
        return [node for node in reversed(self._nodes.values()) if node not in self._opening]

    def number_backend(self) -> int:
        """Return a number for a new handle: they are told in the order of their making."""
        self._backends_made += 1
        return self._backends_made

    def get(self, node_name: str) -> Node | None:
        """Return the node of that name, None if there is none."""
        node = self._nodes.get(node_name)
        return node if node not in self._opening else None

    def find(self, node_name: str) -> Node:
        """Return the node that a reference names: a drive's, else the one of that name.

        Raises:
            QmpError: There is none, or the drive has none.
        """
        return self.look_up(node_name, node_name)

    def look_up(self, device: str | None, node_name: str | None) -> Node:
        """Return the node of the drive called ``device``, else the one called ``node_name``.

        Raises:
            QmpError: There is neither, or the drive has none.
        """
        backend = self.devices.get(device or "")
        node = backend.node if backend is not None else self.get(node_name or "")
        if node is None and backend is not None:
            raise QmpError(f"Device '{device}' has no medium")
        if node is None:
            raise QmpError(
                f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'"
            )
        return node

    def find_bitmap(self, node_name: str, name: str) -> tuple[Node, "DirtyBitmap"]:
        """Return a bitmap and its node, named as ``find`` takes it.

        Raises:
            QmpError: There is no such node or bitmap.
        """
        from qmpfleece.bitmap.dirty import find_bitmap  # a start needs no bitmaps

        try:
            node = self.find(node_name)
        except QmpError as error:
            raise QmpError(f"Node '{node_name}' not found") from error
        return node, find_bitmap(node.bitmaps, name)

    # -- opening ------------------------------------------------------------------------------

    async def add(self, given: "BlockdevOptions") -> Node:
        """Open a node and keep it until it is deleted. Source: QAPI ``blockdev-add``.

        Raises:
            QmpError: It can't be opened; nothing of it is left.
        """
        if given.node_name is None:
            raise QmpError("'node-name' must be specified for the root node")
        node = await self.open(given)
        node.monitor_owned = True
        return node

    async def open(
        self,
        given: "BlockdevOptions",
        parent: NodeOptions | None = None,
        *,
        probed: bool = False,
    ) -> Node:
        """Open a node and everything nested in its definition.

        The caller attaches it to something, or calls ``release``.

        Args:
            given: The definition.
            parent: What a nested definition inherits from.
            probed: The driver was chosen by what the image looks like.

        Raises:
            QmpError: It can't be opened; nothing of it is left.
        """
        return await self.open_nested(given, parent, {}, probed=probed)

    async def open_nested(
        self,
        given: "BlockdevOptions",
        parent: NodeOptions | None,
        above: "dict[str, Node]",
        *,
        probed: bool = False,
    ) -> Node:
        """Do as ``open`` for a node below others that are being opened, by their names."""
        options = NodeOptions(given, parent)
        if (driver := DRIVERS.get(given.driver)) is None:
            raise QmpError(f"Unknown driver '{given.driver}'")
        opener = NodeOpener(self, options, above, probed=probed)
        # As in QEMU, what is below is opened and looked at before the node itself is named.
        below = getattr(given, "file", None)
        try:
            if isinstance(below, str):
                self._look_at(opener.find(below))
            elif below is not None:
                opener.opened["file"] = nested = await self.open_nested(below, options, above)
                self._look_at(nested)
            check_options(given, options)
            node = Node(self._make_name(given.node_name), given, options)
        except BaseException:
            await opener.undo()
            raise
        node.driver = driver(node, given)
        opener.node = node
        opener.above = {**above, node.name: node}
        self._nodes[node.name] = node
        self._opening.add(node)
        try:
            await self._open_driver(node, opener)
        except BaseException:
            self._forget(node)
            await self._drop_children(node)
            raise
        finally:
            self._opening.discard(node)
            await opener.undo()
        return node

    def _look_at(self, node: Node) -> None:
        """Have a user of a node for a moment: a filter that has one may want to be alone below.

        Raises:
            QmpError: Permissions conflict; nothing has changed.
        """
        edge = Child("root", Role.PRIMARY | Role.FILTERED, _Onlooker(), node)
        self.attach(edge, Perm.NONE, Perm.ALL)
        self.detach(edge)

    async def _open_driver(self, node: Node, opener: NodeOpener) -> None:
        await node.driver.open(opener)
        # Read-modify-write must not meet other writes.
        node.tracks = node.request_alignment > 1
        try:
            _check_length(node)
            grants.refresh([node])
        except BaseException:
            await _close_driver(node)
            raise

    def _make_name(self, node_name: str | None) -> str:
        if node_name is None:
            from random import randrange

            # QEMU appends two random digits so that nobody relies on the number.
            name = f"#block{self._names_made}{randrange(100):02d}"  # noqa: S311
            self._names_made += 1
            return name
        if not well_formed(node_name):
            raise QmpError(f"Invalid node-name: '{node_name}'")
        if node_name in self.devices:
            raise QmpError(f"node-name={node_name} is conflicting with a device id")
        if node_name in self._nodes:
            raise QmpError(f"Duplicate nodes with node-name='{node_name}'")
        if len(node_name) > _MAX_NAME:
            raise QmpError("Node name too long")
        return node_name

    @contextlib.contextmanager
    def names_unused(self) -> Iterator[None]:
        """Let the names that are made meanwhile be made again: their nodes are passing.

        To be entered where nobody else opens nodes.
        """
        before = self._names_made
        try:
            yield
        finally:
            self._names_made = before

    def use_up_names(self, number: int) -> None:
        """Count names of nodes that QEMU makes and drops where we make none."""
        self._names_made += number

    # -- deleting -----------------------------------------------------------------------------

    async def delete(self, node_name: str) -> None:
        """Close a node that nobody uses. Source: QAPI ``blockdev-del``.

        Raises:
            QmpError: There is none of that name, or it is in use.
        """
        if (node := self.get(node_name)) is None:
            raise QmpError(f"Failed to find node with node-name='{node_name}'")
        if any(edge.name == "root" for edge in node.parents):  # of backends, not of jobs
            raise QmpError(f"Node {node_name} is in use")
        node.check_free()
        if not node.monitor_owned:
            raise QmpError(f"Node {node_name} is not owned by the monitor")
        if node.parents:
            raise QmpError(f"Block device {node_name} is in use")
        node.monitor_owned = False
        await self.release(node)

    async def release(self, node: Node) -> None:
        """Close ``node`` if nobody holds it any more, and so on downwards.

        As in QEMU nobody is told what a driver could not write then: it is logged.
        """
        if node.monitor_owned or node.parents or self._nodes.get(node.name) is not node:
            return
        if node in self._opening:  # whoever opens it undoes that; nested in it was a user of it
            return
        self._forget(node)
        try:
            async with drained(node):
                await _close_driver(node)
        finally:
            await self._drop_children(node)

    async def close(self) -> None:
        """Close all nodes, users before the nodes that they use. Backends are detached."""
        for node in self.nodes():
            node.monitor_owned = False
        while self._nodes:
            top = [node for node in self.nodes() if not node.parents]
            assert top, "a node is still in use"
            for node in top:
                await self.release(node)

    def _forget(self, node: Node) -> None:
        if self._nodes.get(node.name) is node:
            del self._nodes[node.name]

    async def _drop_children(self, node: Node) -> None:
        for child in tuple(node.children.values()):
            self.detach(child)
            await self.release(child.node)

    # -- connecting ---------------------------------------------------------------------------

    def attach(self, child: Child, perm: Perm, shared: Perm) -> None:
        """Connect a root edge, which a backend or job holds.

        Raises:
            QmpError: Permissions conflict; nothing has changed.
        """
        child.perm, child.shared = perm, shared
        edges.link(child)
        try:
            grants.refresh([child.node])
        except BaseException:
            edges.unlink(child)
            raise

    def attach_child(self, node: Node, name: str, role: Role, below: Node) -> Child:
        """Connect ``node`` to ``below``.

        Raises:
            QmpError: Permissions conflict, or it would close a circle; nothing has changed.
        """
        edges.check_no_cycle(node, name, below)
        child = Child(name, role, node, below)
        node.children[name] = child
        edges.link(child)
        try:
            grants.refresh([node])
        except BaseException:
            del node.children[name]
            edges.unlink(child)
            raise
        return child

    def detach(self, child: Child) -> None:
        """Disconnect an edge. The node stays; see ``release``."""
        if isinstance(child.parent, Node):
            del child.parent.children[child.name]
        edges.unlink(child)
        if isinstance(child.parent, Node):
            edges.forget_inheritance(child.parent, child.node)
        self._loosen(child.node)

    def replace_node(self, users: Iterable[Child], node: Node) -> None:
        """Lead the edges of ``users`` to ``node`` instead, as one change.

        The nodes that they lead to now are drained by the caller.

        Raises:
            QmpError: Permissions conflict; nothing has changed.
        """
        moved = [(edge, edge.node) for edge in users]
        places = {old: list(old.parents) for _, old in moved}
        for edge, _ in moved:
            edges.move(edge, node)
        try:
            grants.refresh([node, *(old for _, old in moved)])
        except BaseException:
            for edge, old in moved:
                edges.move(edge, old)
            for old, parents in places.items():
                old.parents[:] = parents
            raise

    def _loosen(self, node: Node) -> None:
        """Apply permissions after a user has gone. Never fails.

        Less can always be granted; a driver that can't give something back keeps it.
        """
        try:
            grants.refresh([node])
        except QmpError as error:
            log.warning("node '%s' keeps permissions: %s", node.name, error.desc)


class _Onlooker:
    """A user that needs nothing."""

    def describe(self) -> str:
        return "an unnamed block device"

    def drained_begin(self) -> None:
        pass

    def drained_end(self) -> None:
        pass

    def busy_nodes(self) -> list[Node]:
        return []


def check_options(
    given: "BlockdevOptions", options: NodeOptions, *, reopened: bool = False
) -> None:
    """Check the options that every node has against each other.

    Raises:
        QmpError: They contradict each other.
    """
    if not reopened and options.force_share and not options.read_only:
        raise QmpError("force-share=on can only be used with read-only images")
    if options.detect_zeroes == "unmap" and not options.unmap:
        raise QmpError(
            "setting detect-zeroes to unmap is not allowed without setting discard operation"
            " to unmap"
        )


async def _close_driver(node: Node) -> None:
    try:
        await node.driver.close()
    except OSError as error:
        log.warning("node '%s' was not closed properly: %s", node.name, error.strerror)
    except Exception:  # the edge of a node: a bug of ours must not keep others from being closed
        log.exception("node '%s' was not closed properly", node.name)


def _check_length(node: Node) -> None:
    if node.length > MAX_LENGTH:
        raise QmpError("Could not refresh total sector count: File too large")

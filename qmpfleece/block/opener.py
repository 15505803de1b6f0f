"""What a driver has to do with the graph while its node is opened.

Nodes that are opened for it on the way are closed again if they have not been attached.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qmpfleece.block.child import Child
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Role
from qmpfleece.block.throttle_group import ThrottleGroup

if TYPE_CHECKING:
    from qmpfleece.block.graph import Graph
    from qmpfleece.qapi.blockdev import BlockdevOptions


class NodeOpener:
    """What a driver may do while its node is opened; see ``driver.Opener``.

    Args:
        graph: Where.
        options: Those of the node, for nodes below to inherit.
        above: The nodes that are being opened and will be above it, by their names.
        probed: The driver was chosen by what the image looks like.
    """

    def __init__(
        self,
        graph: "Graph",
        options: NodeOptions,
        above: dict[str, Node],
        *,
        probed: bool,
    ) -> None:
        self.probed = probed
        self.workers = graph.workers
        self.fdsets = graph.fdsets
        self.events = graph.events
        self.throttle_groups: Mapping[str, ThrottleGroup] = graph.throttle_groups
        self.above = above
        self.opened: dict[str, Node] = {}
        self.node: Node
        self._graph = graph
        self._options = options

    async def open_node(self, name: str, ref: "str | BlockdevOptions") -> Node:
        """Open or find what is to be a child."""
        if isinstance(ref, str):
            return self.find(ref)
        if name not in self.opened:
            self.opened[name] = await self._graph.open_nested(ref, self._options, self.above)
        return self.opened[name]

    async def open_child(self, name: str, ref: "str | BlockdevOptions", role: Role) -> Child:
        """Open or find a child, and attach it."""
        below = await self.open_node(name, ref)
        child = self._graph.attach_child(self.node, name, role, below)
        if not isinstance(ref, str):
            below.inherits_from = self.node
        return child

    def find(self, node_name: str) -> Node:
        """Return the node of that name; it may be one that is just being opened."""
        return self.above.get(node_name) or self._graph.find(node_name)

    async def undo(self) -> None:
        """Close what was opened but is not attached."""
        for node in reversed(self.opened.values()):
            await self._graph.release(node)

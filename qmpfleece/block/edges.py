"""Edges of the graph: entering them at their nodes, leading them elsewhere, leaving.

Only that: permissions are left to the callers, who compute those of all nodes below when they
have changed all edges that belong together.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from qmpfleece.base.errors import QmpError
from qmpfleece.block import grants
from qmpfleece.block.child import Child
from qmpfleece.block.node import Node

#: Where children are about to lead, by the node that has them and their names; None: nowhere.
Moves: TypeAlias = Mapping[Node, dict[str, Node | None]]
NO_MOVES: Final[Moves] = {}


def move(edge: Child, node: Node) -> None:
    """Lead an edge to ``node``; permissions are left to the caller."""
    # In this order: where both are drained, the parent must not wake in between.
    old = edge.node
    edge.node = node
    link(edge)
    _leave(old, edge)


def link(child: Child) -> None:
    """Enter an edge at its node; permissions are left to the caller."""
    child.node.parents.append(child)
    child.node.tracks_reads += child.tracks_reads
    if isinstance(child.parent, Node):
        child.parent.child_moved()
    for _ in range(child.node.quiesced):
        child.parent.drained_begin()


def unlink(child: Child) -> None:
    """Undo ``link``."""
    _leave(child.node, child)


def _leave(node: Node, child: Child) -> None:
    node.parents.remove(child)
    node.tracks_reads -= child.tracks_reads
    if isinstance(child.parent, Node):
        child.parent.child_moved()
    for _ in range(node.quiesced):
        child.parent.drained_end()


def track_reads(child: Child, *, on: bool) -> None:
    """Have reads of the node tracked because of this edge, wherever it leads, or no longer."""
    child.node.tracks_reads += on - child.tracks_reads
    child.tracks_reads = on


def forget_inheritance(parent: Node, below: Node) -> None:
    """Let nothing from a former child on follow the node whose child it was."""
    children = {edge.node for edge in parent.children.values()}
    for node in grants.reachable([below]):
        if node.inherits_from is parent and node not in children:
            node.inherits_from = None


def check_no_cycle(node: Node, name: str, below: Node, moves: Moves = NO_MOVES) -> None:
    """Refuse a child from which the node itself can be reached, once others have moved.

    Raises:
        QmpError: It is one.
    """
    seen: set[Node] = set()
    left = [below]
    while left:
        if (found := left.pop()) is node:
            raise QmpError(
                f"Making '{below.name}' a {name} child of '{node.name}' would create a cycle"
            )
        if found not in seen:
            seen.add(found)
            to: dict[str, Node | None] = {edge.name: edge.node for edge in found.children.values()}
            left += filter(None, (to | moves.get(found, {})).values())

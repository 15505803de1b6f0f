"""Edges of the graph: entering them at their nodes, leading them elsewhere, leaving.

Only that: permissions are left to the callers, who compute those of all nodes below when they
have changed all edges that belong together.
"""

from qmpfleece.base.errors import QmpError
from qmpfleece.block import grants
from qmpfleece.block.child import Child
from qmpfleece.block.node import Node


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
    if isinstance(child.parent, Node):
        child.parent.find_listener()
    for _ in range(child.node.quiesced):
        child.parent.drained_begin()


def unlink(child: Child) -> None:
    """Undo ``link``."""
    _leave(child.node, child)


def _leave(node: Node, child: Child) -> None:
    node.parents.remove(child)
    if isinstance(child.parent, Node):
        child.parent.find_listener()
    for _ in range(node.quiesced):
        child.parent.drained_end()


def check_no_cycle(node: Node, name: str, below: Node) -> None:
    """Refuse a child from which the node itself can be reached.

    Raises:
        QmpError: It is one.
    """
    if node in grants.reachable([below]):
        raise QmpError(
            f"Making '{below.name}' a {name} child of '{node.name}' would create a cycle"
        )

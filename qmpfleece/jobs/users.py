"""Whom a node that is put above another one takes its users from."""

from qmpfleece.block.block_copy import reaches
from qmpfleece.block.child import Child
from qmpfleece.block.node import Node
from qmpfleece.jobs.job import Job


def movable(below: Node, above: Node) -> list[Child]:
    """Return the users of ``below`` that can be led to ``above``.

    Not what is used by ``above`` itself, however indirectly, nor jobs: they keep their nodes.
    """
    return [edge for edge in below.parents if _moves(edge, above)]


def _moves(edge: Child, above: Node) -> bool:
    user = edge.parent
    if isinstance(user, Node):
        return not reaches(above, user)
    return not isinstance(user, Job)

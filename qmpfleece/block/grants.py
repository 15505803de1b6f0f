"""Granting: the permissions of all edges below some nodes are computed, checked and applied.

What ``perm`` says of one edge and ``driver.child_perms`` of one node, for a whole graph: in one
synchronous step, all or nothing.
"""

from collections.abc import Container, Iterable
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.block.child import Child
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm, perm_names

_ANY_WRITE: Final = Perm.WRITE | Perm.WRITE_UNCHANGED


def refresh(nodes: Iterable[Node], were_writable: Container[Node] = ()) -> None:
    """Compute and apply the permissions of ``nodes`` and of all below them.

    Args:
        nodes: Where to begin.
        were_writable: Nodes that may just be becoming read-only.

    Raises:
        QmpError: They conflict, or a driver can't grant them; nothing has changed.
    """
    before: list[tuple[Child, Perm, Perm]] = []
    checked: list[Node] = []
    try:
        for node in reachable(nodes):
            perm, shared = node.users_perm()
            _check_users(node, perm, was_writable=node in were_writable)
            checked.append(node)
            node.driver.check_perm(perm, shared)
            for child in node.children.values():
                needed, held = _needed(node, child, perm, shared), (child.perm, child.shared)
                if needed != held:
                    before.append((child, *held))
                    child.perm, child.shared = needed
    except BaseException:
        for child, perm, shared in reversed(before):
            child.perm, child.shared = perm, shared
        for node in reversed(checked):
            node.driver.abort_perm()
        raise
    for node in checked:
        node.driver.set_perm()


def _needed(node: Node, child: Child, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
    if child.node.options.force_share:
        needed, _ = node.driver.child_perms(child.name, child.role, perm, Perm.ALL)
        return needed, Perm.ALL
    return node.driver.child_perms(child.name, child.role, perm, shared)


def _check_users(node: Node, perm: Perm, *, was_writable: bool) -> None:
    newest_first = node.parents[::-1]  # of several conflicts QEMU tells that of the newest
    for first in newest_first:
        for second in newest_first:
            if first is second:
                continue
            if denied := second.perm & ~first.shared:
                raise QmpError(
                    f"Permission conflict on node '{node.name}': permissions "
                    f"'{perm_names(denied)}' are both required by {_user(second)} and "
                    f"unshared by {_user(first)}."
                )
    if perm & _ANY_WRITE and node.read_only:
        if was_writable:
            raise QmpError(f"Read-only block node '{node.name}' cannot support read-write users")
        raise QmpError("Block node is read-only")
    odd = node.length % node.request_alignment
    if odd and perm & _ANY_WRITE and not perm & Perm.RESIZE:
        # A write of the last bytes writes the whole block, and so past the end.
        raise QmpError(
            "Cannot get 'write' permission without 'resize': Image size is not a multiple"
            " of request alignment"
        )


def _user(edge: Child) -> str:
    return f"{edge.parent.describe()} (uses node '{edge.node.name}' as '{edge.name}' child)"


def reachable(nodes: Iterable[Node]) -> list[Node]:
    """Return ``nodes`` and all below them, every node after all its users."""
    order: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in order:
            for child in node.children.values():
                visit(child.node)
            order[node] = None

    for node in nodes:
        visit(node)
    return list(reversed(order))

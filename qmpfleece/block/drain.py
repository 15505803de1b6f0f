"""Quiescing: hold back new requests and wait for those in flight.

Requests enter the graph through backends and jobs. They are asked to start nothing new; the
requests that are already inside, also those that nodes make to their children, run to their
end.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Protocol, TypeGuard

from qmpfleece.block.child import Parent
from qmpfleece.block.node import Node


class HoldsBack(Protocol):
    """A driver that holds requests back although they could be served."""

    def drain_begin(self) -> None:
        """Let all go, and hold none back until ``drain_end``."""
        ...

    def drain_end(self) -> None:
        """Undo one ``drain_begin``."""
        ...


async def wait_drained(nodes: Iterable[Node]) -> None:
    """Wait until nothing is in flight on ``nodes`` and above them. They are quiesced."""
    while True:
        busy: dict[Node, None] = {}
        for node in nodes:
            busy.update(dict.fromkeys(node.busy_nodes()))
        waiting = [node for node in busy if node.in_flight]
        if not waiting:
            return
        for node in waiting:
            await node.wait_idle()


@asynccontextmanager
async def drained(*nodes: Node) -> AsyncIterator[None]:
    """Hold ``nodes`` drained: no request is in flight on them and none starts.

    The edges above the nodes must not change inside, except by ``graph``, which carries the
    quiescence over.
    """
    holding = _holding_back(nodes)
    for node in nodes:
        node.drained_begin()
    try:
        for driver in holding:
            driver.drain_begin()
        await wait_drained(nodes)
        yield
    finally:
        for driver in holding:
            driver.drain_end()
        for node in reversed(nodes):
            node.drained_end()


def users_of(nodes: Iterable[Node]) -> list[Parent]:
    """Return who uses the nodes directly, other nodes left out: of each node the newest first.

    In the order of the making of nodes this is how QEMU's ``bdrv_drain_all`` tells them.
    """
    return [
        edge.parent
        for node in nodes
        for edge in reversed(node.parents)
        if not isinstance(edge.parent, Node)
    ]


@asynccontextmanager
async def all_drained(graph: Iterable[Node]) -> AsyncIterator[None]:
    """Hold all nodes of a graph drained, users being told as ``users_of`` has them."""
    nodes = list(graph)
    users = users_of(nodes)
    for user in users:
        user.drained_begin()
    try:
        async with drained(*nodes):
            yield
    finally:
        for user in users:
            user.drained_end()


def _holding_back(nodes: Iterable[Node]) -> list[HoldsBack]:
    """Return who may hold back what a drain waits for: above the nodes, or on the way down."""
    found: dict[Node, None] = {}
    left = [above for node in nodes for above in node.busy_nodes()]
    while left:
        node = left.pop()
        if node not in found:
            found[node] = None
            left += [child.node for child in node.children.values()]
    return [node.driver for node in found if _holds_back(node.driver)]


def _holds_back(driver: object) -> TypeGuard[HoldsBack]:
    return hasattr(driver, "drain_begin")  # to ask the protocol takes tens of microseconds

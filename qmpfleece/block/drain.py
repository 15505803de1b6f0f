"""Quiescing: hold back new requests and wait for those in flight.

Requests enter the graph through backends and jobs. They are asked to start nothing new; the
requests that are already inside, also those that nodes make to their children, run to their
end.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from qmpfleece.block.node import Node


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
    for node in nodes:
        node.drained_begin()
    try:
        await wait_drained(nodes)
        yield
    finally:
        for node in nodes:
            node.drained_end()

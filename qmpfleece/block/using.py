"""Holding a node for a while, as a tool does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm

if TYPE_CHECKING:
    from qmpfleece.qapi.blockdev import BlockdevOptions


@asynccontextmanager
async def using(graph: Graph, ref: "str | BlockdevOptions", perm: Perm) -> AsyncIterator[Backend]:
    """Find or open a node and hold it with these permissions; others share everything.

    Raises:
        QmpError: There is no such node, it can't be opened, or permissions conflict.
    """
    node = graph.find(ref) if isinstance(ref, str) else await graph.open(ref)
    backend = Backend(graph, perm=perm)
    try:
        backend.attach(node)
        yield backend
    finally:
        await backend.detach()
        await graph.release(node)

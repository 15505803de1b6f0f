"""x-debug-query-block-graph: everything that holds a node, and what it asks of it.

Source: QAPI ``XDbgBlockGraph``; QEMU numbers things as it meets them, and tells the last first.
"""

from typing import Final, Literal

from qmpfleece.block.backend import Backend
from qmpfleece.block.child import Child
from qmpfleece.block.perm import Perm
from qmpfleece.control.command import command
from qmpfleece.control.system import System
from qmpfleece.jobs.block_job import BlockJob
from qmpfleece.qapi.model import Int64, Model

#: QAPI ``BlockPermission``.
BlockPermission = Literal["consistent-read", "write", "write-unchanged", "resize"]
_WIRE: Final[tuple[tuple[Perm, BlockPermission], ...]] = (
    (Perm.RESIZE, "resize"),
    (Perm.WRITE_UNCHANGED, "write-unchanged"),
    (Perm.WRITE, "write"),
    (Perm.CONSISTENT_READ, "consistent-read"),
)


class XDbgBlockGraphNode(Model):
    """QAPI ``XDbgBlockGraphNode``: a vertex."""

    id: Int64
    type: Literal["block-backend", "block-job", "block-driver"]
    name: str


class XDbgBlockGraphEdge(Model):
    """QAPI ``XDbgBlockGraphEdge``: who holds whom; both are ids."""

    parent: Int64
    child: Int64
    name: str
    perm: list[BlockPermission]
    shared_perm: list[BlockPermission]


class XDbgBlockGraph(Model):
    """QAPI ``XDbgBlockGraph``."""

    nodes: list[XDbgBlockGraphNode]
    edges: list[XDbgBlockGraphEdge]


class _Drawing:
    """The graph as far as it has been walked."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self.nodes: list[XDbgBlockGraphNode] = []
        self.edges: list[XDbgBlockGraphEdge] = []

    def _number(self, thing: object) -> int:
        return self._numbers.setdefault(thing, len(self._numbers) + 1)

    def add(
        self,
        thing: object,
        kind: Literal["block-backend", "block-job", "block-driver"],
        name: str,
        edges: list[Child],
    ) -> None:
        """Add a vertex and the edges that it holds."""
        number = self._number(thing)
        self.nodes.insert(0, XDbgBlockGraphNode(id=number, type=kind, name=name))
        for edge in edges:
            drawn = XDbgBlockGraphEdge(
                parent=number,
                child=self._number(edge.node),
                name=edge.name,
                perm=_names(edge.perm),
                shared_perm=_names(edge.shared),
            )
            self.edges.insert(0, drawn)


def _names(perm: Perm) -> list[BlockPermission]:
    return [name for bit, name in _WIRE if perm & bit]


@command("x-debug-query-block-graph", exclusive=False)
async def query_block_graph(system: System) -> XDbgBlockGraph:
    """Draw the graph."""
    drawing = _Drawing()
    backends: list[Backend] = [
        *system.drives.all(),
        *(item.backend for item in system.devices.all() if item.backend is not None),
        *(export.backend for export in system.exports.exports()),
    ]
    for backend in sorted(dict.fromkeys(backends), key=lambda item: item.number):
        name = backend.name or backend.device
        root = [backend.root] if backend.root is not None else []
        drawing.add(backend, "block-backend", name, root)
    for job in system.jobs.jobs():
        if isinstance(job, BlockJob):
            drawing.add(job, "block-job", job.id, job.edges[::-1])
    for node in reversed(system.graph.nodes()):
        drawing.add(node, "block-driver", node.name, [*node.children.values()][::-1])
    return XDbgBlockGraph(nodes=drawing.nodes, edges=drawing.edges)

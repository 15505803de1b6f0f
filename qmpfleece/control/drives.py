"""Named backends: what ``-drive`` makes, and what QMP calls a device where it takes a node too.

Source: QEMU's monitor-owned ``BlockBackend``; ``qemu-storage-daemon`` has none.
"""

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node


class Drives:
    """The named backends, in the order of their making, by which the graph finds nodes, too.

    They stay until they are removed; whoever made the program closes them.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._backends = graph.devices

    def get(self, name: str) -> Backend | None:
        """Return the backend of that name."""
        return self._backends.get(name)

    def all(self) -> list[Backend]:
        """Return all of them, the oldest first."""
        return list(self._backends.values())

    def add(self, backend: Backend) -> None:
        """Make a backend known under its name.

        Raises:
            QmpError: A backend or a node has that name.
        """
        name = backend.name
        if name in self._backends:
            raise QmpError(f"Device with id '{name}' already exists")
        if self._graph.get(name) is not None:
            raise QmpError(f"Device name '{name}' conflicts with an existing node name")
        self._backends[name] = backend

    def forget(self, name: str) -> None:
        """Take a backend's name away; the backend itself stays as it is."""
        del self._backends[name]

    def of(self, node: Node) -> Backend | None:
        """Return the first backend that a node is attached to."""
        return next((item for item in self._backends.values() if item.node is node), None)

    async def close(self) -> None:
        """Let go of all nodes."""
        for backend in reversed(self.all()):
            await backend.detach()
        self._backends.clear()

"""Named backends: what ``-drive`` makes, and what QMP calls a device where it takes a node too.

Source: QEMU's monitor-owned ``BlockBackend``; ``qemu-storage-daemon`` has none.
"""

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node


class Drives:
    """The named backends, in the order of their making.

    They stay until they are removed; whoever made the program closes them.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._backends: dict[str, Backend] = {}

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
        self._graph.device_names.add(name)

    def forget(self, name: str) -> None:
        """Take a backend's name away; the backend itself stays as it is."""
        del self._backends[name]
        self._graph.device_names.discard(name)

    def find_node(self, name: str) -> Node:
        """Return the node of the backend of that name, else the node of that name.

        Raises:
            QmpError: There is neither, or nothing is attached to the backend.
        """
        return self.look_up(name, name)

    def look_up(self, device: str | None, node_name: str | None) -> Node:
        """Return the node of the backend called ``device``, else the one called ``node_name``.

        Raises:
            QmpError: There is neither, or nothing is attached to the backend.
        """
        backend = self._backends.get(device or "")
        if backend is not None:
            if backend.node is None:
                raise QmpError(f"Device '{backend.name}' has no medium")
            return backend.node
        node = self._graph.get(node_name or "")
        if node is None:
            raise QmpError(
                f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'"
            )
        return node

    def of(self, node: Node) -> Backend | None:
        """Return the first backend that a node is attached to."""
        return next((item for item in self._backends.values() if item.node is node), None)

    async def close(self) -> None:
        """Let go of all nodes."""
        for backend in reversed(self.all()):
            await backend.detach()
        self._backends.clear()

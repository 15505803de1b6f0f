"""A child edge: who uses a node, as what, needing and sharing which permissions."""

from typing import TYPE_CHECKING, Protocol

from qmpfleece.block.perm import Perm, Role

if TYPE_CHECKING:
    from qmpfleece.block.node import Node


class Parent(Protocol):
    """Who holds a child edge: a node, a backend, a job."""

    def describe(self) -> str:
        """Return the user as permission messages name it, e.g. ``node 'x'``."""
        ...

    def drained_begin(self) -> None:
        """Start no new request on the child until ``drained_end``."""
        ...

    def drained_end(self) -> None:
        """Undo one ``drained_begin``."""
        ...

    def busy_nodes(self) -> "list[Node]":
        """Return the nodes whose requests can still reach the child."""
        ...


class Child:
    """An edge of the graph.

    Changes only in ``graph``: ``node``, ``perm``, ``shared``; the last two of a root edge in
    ``backend``, too. Changes only in ``edges``: ``tracks_reads``. The rest is fixed.

    Attributes:
        name: What the parent calls it: ``file``, ``target``, ``root``...
        role: What it is for.
        parent: Who holds it.
        device_name: How users call the device that the parent is, "" if it is none.
        node: Whom it leads to.
        perm: What the parent needs of ``node``.
        shared: What the parent lets others do.
        may_write: Whether ``perm`` allows writes; plain booleans for the data path, where
            testing a flag costs more than the rest of the check.
        tracks_reads: Whether reads of ``node`` are tracked because of this edge, wherever it
            leads; see ``Node.tracks_reads``.
        may_resize: The same for writing past the end.
    """

    __slots__ = (
        "_perm",
        "device_name",
        "may_resize",
        "may_write",
        "name",
        "node",
        "parent",
        "role",
        "shared",
        "tracks_reads",
    )

    def __init__(
        self, name: str, role: Role, parent: Parent, node: "Node", device_name: str = ""
    ) -> None:
        self.name = name
        self.role = role
        self.parent = parent
        self.device_name = device_name
        self.node = node
        self.perm = Perm.NONE
        self.shared = Perm.ALL
        self.tracks_reads = False

    @property
    def perm(self) -> Perm:
        """What the parent needs of the node."""
        return self._perm

    @perm.setter
    def perm(self, perm: Perm) -> None:
        self._perm = perm
        self.may_write = bool(perm & (Perm.WRITE | Perm.WRITE_UNCHANGED))
        self.may_resize = bool(perm & Perm.RESIZE)

    def __repr__(self) -> str:
        return f"<Child {self.name} of {self.parent.describe()} -> {self.node.name}>"

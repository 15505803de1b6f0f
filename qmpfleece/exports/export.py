"""A block export: a node made available to outsiders. The base of all kinds.

A kind is one file in ``kinds/`` with its options model and its class::

    class NbdExport(Export[NbdExportOptions], name="nbd"): ...

Life of an export: added -> shutting down (no new users; a hard removal throws out those that
are there) -> deleted, once the last user has gone, with BLOCK_EXPORT_DELETED.
"""

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

from qmpfleece.base.errors import QmpError
from qmpfleece.base.registry import Registry
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm

if TYPE_CHECKING:
    from qmpfleece.exports.nbd.server import NbdServer
    from qmpfleece.exports.options import BlockExportOptions

O = TypeVar("O", bound="BlockExportOptions")  # noqa: E741 - the customary name of the parameter

#: Every kind of export by its name in ``BlockExportType``.
KINDS: Final[Registry[type["Export[Any]"]]] = Registry("export kind")


class Host(Protocol):
    """Who keeps the exports. Implemented by ``manager``."""

    @property
    def graph(self) -> Graph:
        """Where the nodes are."""

    @property
    def nbd(self) -> "NbdServer":
        """The running NBD server.

        Raises:
            QmpError: It is not running.
        """

    def is_iothread(self, name: str) -> bool:
        """Tell whether there is an I/O thread of that name; all use one event loop here."""

    def export_unused(self, export: "Export[Any]") -> None:
        """The last user of an export that is shutting down has gone: delete it."""


class Export(Generic[O]):
    """One export.

    Subclasses check their own options and become reachable in ``start``, and undo that in
    ``stop``; users of theirs call ``enter`` and ``leave``.

    Args:
        host: Who keeps the exports.
        options: What block-export-add was given.
        backend: The handle of a device, which the export uses as its own: what it serves is
            what the device has. None for a handle on the node that the options name.

    Attributes:
        id: Unique among the exports.
        backend: The handle on the node.
        drive: The drive whose name was given for the node, None: it was the node's own.
        borrowed: Whether it is a device's.
        shutting_down: Takes no new users any more.
        users: How many clients are connected.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, *, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name:
            cls.kind = name
            KINDS.add(name, cls)

    def __init__(self, host: Host, options: O, backend: Backend | None = None) -> None:
        self.host: Final = host
        self.options: Final = options
        self.id: Final = options.id
        self.writable: Final = bool(options.writable)
        self.shutting_down = False
        self.users = 0
        self.drive: Backend | None = None
        self._unused = asyncio.Event()
        perm = Perm.CONSISTENT_READ | (Perm.WRITE if self.writable else Perm.NONE)
        self.borrowed: Final = backend is not None
        self.backend: Final = backend or Backend(host.graph, perm=perm)

    @property
    def node_name(self) -> str:
        """The node that is exported, at the moment."""
        node = self.backend.node
        return node.name if node is not None else ""

    async def open(self) -> None:
        """Attach the node and become reachable.

        Raises:
            QmpError: It can't be exported; nothing has changed.
        """
        node = self.backend.node or self.host.graph.get(self.options.node_name)
        if node is None:
            name = self.options.node_name
            raise QmpError(f"Cannot find device='' nor node-name='{name}'")
        read_only = self.borrowed and not self.backend.perm & Perm.WRITE
        if self.writable and (read_only or node.read_only):
            raise QmpError("Cannot export read-only node as writable")
        if self.options.iothread is not None and not self.host.is_iothread(self.options.iothread):
            raise QmpError(f'iothread "{self.options.iothread}" not found')
        if not self.borrowed:
            self.backend.attach(node)
        try:
            self.start()
        except BaseException:
            await self._let_go()
            raise

    async def close(self) -> None:
        """Let go of the node. There are no users any more."""
        self.stop()
        await self._let_go()

    async def _let_go(self) -> None:
        if not self.borrowed:
            await self.backend.detach()

    def enter(self) -> None:
        """Count a user."""
        self.users += 1

    def leave(self) -> None:
        """Undo one ``enter``."""
        self.users -= 1
        if not self.users and self.shutting_down:
            self._unused.set()
            self.host.export_unused(self)

    async def unused(self) -> None:
        """Wait until the last user of an export that is shutting down has gone."""
        await self._unused.wait()

    def shut_down(self) -> None:
        """Take no new users, and throw out those that are there.

        A user with requests in flight leaves when these have ended.
        """
        self.shutting_down = True
        if not self.users:
            self._unused.set()

    def start(self) -> None:
        """Check the kind's own options and become reachable; nothing here awaits.

        Raises:
            QmpError: It can't be exported; nothing has changed.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Be reachable no more and give back what ``start`` has taken."""
        raise NotImplementedError

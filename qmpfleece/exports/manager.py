"""All exports of the program, and the NBD server that some of them are reached by.

The manager owns the tasks that delete exports whose last client goes away later.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.names import well_formed
from qmpfleece.base.registry import import_siblings
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.bus import EventBus

if TYPE_CHECKING:
    from qmpfleece.exports.export import Export
    from qmpfleece.exports.nbd.server import NbdServer
    from qmpfleece.exports.options import (
        BlockExportInfo,
        BlockExportOptions,
        ListenAddress,
        NbdServerAddOptions,
        RemoveMode,
    )


class ExportManager:
    """The exports by id, and the NBD server.

    Args:
        graph: Where the nodes are.
        bus: Where BLOCK_EXPORT_DELETED goes.
        is_iothread: Tells whether there is an I/O thread of that name.
    """

    def __init__(
        self, graph: Graph, bus: EventBus, is_iothread: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._is_iothread: Final = is_iothread
        self.graph: Final = graph
        self._bus: Final = bus
        self._exports: dict[str, Export[Any]] = {}
        self._deleting: dict[Export[Any], asyncio.Task[None]] = {}
        #: Exports that are not deleted before a reply is out or it is their turn.
        self._held: set[Export[Any]] = set()
        self._nbd: NbdServer | None = None

    # -- exports ------------------------------------------------------------------------------

    def exports(self) -> "list[Export[Any]]":
        """Return all exports, newest first, as QEMU lists them."""
        return list(reversed(self._exports.values()))

    def query(self) -> "list[BlockExportInfo]":
        """Return what query-block-exports says."""
        from qmpfleece.exports.options import BlockExportInfo

        return [
            BlockExportInfo(
                id=export.id,
                type=export.kind,
                node_name=export.node_name,
                shutting_down=export.shutting_down,
            )
            for export in self.exports()
        ]

    async def add(
        self, options: "BlockExportOptions", backend: Backend | None = None
    ) -> "Export[Any]":
        """Export a node. Source: QAPI ``block-export-add``.

        Args:
            options: Which, and how.
            backend: The handle of a device, to export what the device has.

        Raises:
            QmpError: It can't be done; nothing has changed.
        """
        from qmpfleece.exports.export import KINDS

        if not well_formed(options.id):
            raise QmpError("Invalid block export id")
        if options.id in self._exports:
            raise QmpError(f"Block export id '{options.id}' is already in use")
        import_siblings("qmpfleece.exports.kinds")  # now, as many programs export nothing
        export: Export[Any] = KINDS[options.type](self, options, backend)
        # The id is taken while opening may await.
        self._exports[options.id] = export
        try:
            await export.open()
        except BaseException:
            del self._exports[options.id]
            raise
        return export

    async def add_nbd(
        self,
        options: "NbdServerAddOptions",
        node: Node,
        backend: Backend | None = None,
        drive: Backend | None = None,
    ) -> "Export[Any]":
        """Export a node over NBD, its name being the id. Source: QAPI ``nbd-server-add``.

        Unlike ``add``, a node that is read-only is exported read-only without a word.

        Args:
            options: How.
            node: Which.
            backend: The handle of a device on the node, to export what the device has.
            drive: The drive that the node was named by; see ``delete_of_medium``.

        Raises:
            QmpError: It can't be done; nothing has changed.
        """
        from qmpfleece.exports.options import NbdExportOptions

        name = options.name if options.name is not None else options.device
        writable = not node.read_only and (backend is None or bool(backend.perm & Perm.WRITE))
        export = await self.add(
            NbdExportOptions(
                type="nbd",
                id=name,
                node_name=node.name,
                name=name,
                description=options.description,
                writable=bool(options.writable) and writable,
                bitmaps=[options.bitmap] if options.bitmap is not None else None,
            ),
            backend,
        )
        export.drive = drive
        return export

    def begin_delete(self, export_id: str, mode: "RemoveMode" = "safe") -> "Export[Any]":
        """Start to remove an export; ``finish_delete`` is what follows the reply.

        Raises:
            QmpError: There is none, or it has clients and the mode is safe.
        """
        export = self._exports.get(export_id)
        if export is None:
            raise QmpError(f"Export '{export_id}' is not found")
        if export.shutting_down:
            raise QmpError(f"Export '{export_id}' is already shutting down")
        if mode == "safe" and export.users:
            raise QmpError(f"export '{export_id}' still in use")
        self._held.add(export)
        export.shut_down()
        return export

    async def finish_delete(self, export: "Export[Any]") -> None:
        """Delete an export, unless requests still run: then it goes when they have ended."""
        self._held.discard(export)
        if not export.users and self._exports.get(export.id) is export:
            await self._deletion(export)

    def is_iothread(self, name: str) -> bool:
        """Tell whether there is an I/O thread of that name."""
        return self._is_iothread(name)

    def export_unused(self, export: "Export[Any]") -> None:
        """Delete an export whose last client has gone; ``close`` waits for it."""
        if export not in self._held:
            _ = self._deletion(export)

    def _deletion(self, export: "Export[Any]") -> "asyncio.Task[None]":
        task = self._deleting.get(export)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._close(export))
            self._deleting[export] = task
        return task

    async def _close(self, export: "Export[Any]") -> None:
        from qmpfleece.exports.options import BlockExportDeleted

        try:
            await export.close()
        finally:
            del self._exports[export.id]
            del self._deleting[export]
            self._held.discard(export)
            self._bus.emit(BlockExportDeleted(id=export.id))

    async def delete_of(self, backend: Backend) -> None:
        """Delete the exports of a device's handle; clients are thrown out, requests end."""
        await self._delete([e for e in self._exports.values() if e.backend is backend])

    async def delete_of_medium(self, drive: Backend) -> None:
        """Do the same with those that the drive's name stood for, as its medium goes."""
        await self._delete([e for e in self._exports.values() if e.drive is drive])

    async def _delete(self, exports: "list[Export[Any]]") -> None:
        """Delete exports; wait for their requests."""
        ordered = _order_of_events(exports)
        self._held.update(ordered)
        for export in exports:
            if not export.shutting_down:
                export.shut_down()
        for export in ordered:
            await export.unused()
            if self._exports.get(export.id) is export:
                await self._deletion(export)

    # -- the NBD server -----------------------------------------------------------------------

    @property
    def nbd_running(self) -> bool:
        """Whether there is an NBD server."""
        return self._nbd is not None

    @property
    def nbd(self) -> "NbdServer":
        """The running NBD server.

        Raises:
            QmpError: It is not running.
        """
        if self._nbd is None:
            raise QmpError("NBD server not running")
        return self._nbd

    async def start_nbd(
        self, *addresses: "ListenAddress", max_connections: int | None = None
    ) -> "NbdServer":
        """Listen for NBD clients.

        Args:
            addresses: Where; at least one.
            max_connections: Most clients at a time, 0 for no limit.

        Raises:
            QmpError: It is running already, or can't listen.
        """
        if self._nbd is not None:
            raise QmpError("NBD server already running")
        from qmpfleece.exports.nbd.server import NbdServer
        from qmpfleece.exports.options import DEFAULT_MAX_CONNECTIONS

        limit = DEFAULT_MAX_CONNECTIONS if max_connections is None else max_connections

        server = self._nbd = NbdServer(limit)
        try:
            await server.listen(addresses)
        except BaseException:
            self._nbd = None
            await server.close()
            raise
        return server

    async def stop_nbd(self) -> None:
        """Stop listening and delete all exports of the server.

        Raises:
            QmpError: It is not running.
        """
        server = self.nbd
        server.stop_listening()
        await self._delete([e for e in self._exports.values() if e.kind == "nbd"])
        self._nbd = None
        await server.close()

    async def close(self) -> None:
        """Delete everything; returns when the last request has ended."""
        if self._nbd is not None:
            self._nbd.stop_listening()
        await self._delete(list(self._exports.values()))
        if self._nbd is not None:
            server, self._nbd = self._nbd, None
            await server.close()


def _order_of_events(exports: "list[Export[Any]]") -> "list[Export[Any]]":
    """Return exports in the order in which QEMU reports a mass deletion.

    It goes through them newest first; those without clients are reported later, the last one
    first, when an export with clients makes it wait, or at the end.
    """
    ordered: list[Export[Any]] = []
    idle: list[Export[Any]] = []
    for export in reversed(exports):
        if export.users:
            ordered += [*reversed(idle), export]
            idle = []
        else:
            idle.append(export)
    return [*ordered, *reversed(idle)]

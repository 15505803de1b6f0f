"""The export kind ``nbd``: a node that clients of the NBD server can enter.

Source: QAPI ``BlockExportOptionsNbd``; checks and texts as QEMU 7.2 has them.
"""

from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import SECTOR, align_down
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.backend import Backend
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm
from qmpfleece.exports.export import Export, Host
from qmpfleece.exports.nbd.context import Context
from qmpfleece.exports.nbd.contexts.allocation_depth import AllocationDepth
from qmpfleece.exports.nbd.contexts.base_allocation import BaseAllocation
from qmpfleece.exports.nbd.contexts.dirty_bitmap import DirtyBitmapContext
from qmpfleece.exports.nbd.reachable import Reachable
from qmpfleece.exports.nbd.server import NbdServer
from qmpfleece.exports.options import NbdExportOptions
from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.option import ExportInfo

#: The id of the first bitmap's context; base:allocation is 0, qemu:allocation-depth 1.
_FIRST_BITMAP: Final = 2


class NbdExport(Export[NbdExportOptions], name="nbd"):
    """One export of the NBD server."""

    def __init__(
        self, host: Host, options: NbdExportOptions, backend: Backend | None = None
    ) -> None:
        super().__init__(host, options, backend)
        self.name: Final = options.name if options.name is not None else options.node_name
        self._bitmaps: list[DirtyBitmap] = []
        self._server: NbdServer | None = None
        self._reachable: Reachable | None = None

    def start(self) -> None:
        """Check the options and become an export of the server.

        Raises:
            QmpError: The server does not run, or the options don't fit.
        """
        server = self.host.nbd
        description = self.options.description
        if _too_long(self.name):
            raise QmpError(f"export name '{self.name}' too long")
        if description is not None and _too_long(description):
            raise QmpError(f"description '{description}' too long")
        if server.find_export(self.name) is not None:
            raise QmpError(f"NBD server already has export named '{self.name}'")
        node = self.backend.node
        if node is not None and not node.has_medium:
            raise QmpError("Failed to determine the NBD export's length: No medium found")
        if not self.borrowed:
            # The size that clients are told must stay.
            self.backend.set_perm(self.backend.perm, Perm.ALL & ~Perm.RESIZE)
        contexts: dict[int, Context] = {0: BaseAllocation(self.backend)}
        if self.options.allocation_depth:
            contexts[1] = AllocationDepth(self.backend)
        bitmaps = self._find_bitmaps()
        for index, bitmap in enumerate(bitmaps):
            contexts[_FIRST_BITMAP + index] = DirtyBitmapContext(bitmap)
        for bitmap in bitmaps:
            bitmap.busy = True
        self._bitmaps = bitmaps
        self._server = server
        self._reachable = Reachable(
            self,
            self._info(server, description, contexts),
            self.backend,
            contexts,
            writethrough=bool(self.options.writethrough),
        )
        server.add(self._reachable)

    def stop(self) -> None:
        """Leave the server and give the bitmaps back."""
        if self._server is not None and self._reachable is not None:
            self._server.remove(self._reachable)
        for bitmap in self._bitmaps:
            bitmap.busy = False
        self._bitmaps.clear()

    def shut_down(self) -> None:
        """Disconnect all clients; their requests in flight go on to their end."""
        super().shut_down()
        if self._server is not None and self._reachable is not None:
            self._server.remove(self._reachable)
            self._reachable.disconnect_all()

    def _info(
        self, server: NbdServer, description: str | None, contexts: dict[int, Context]
    ) -> ExportInfo:
        flags = (
            const.FLAG_HAS_FLAGS
            | const.FLAG_SEND_FLUSH
            | const.FLAG_SEND_FUA
            | const.FLAG_SEND_CACHE
        )
        if server.max_connections != 1:
            flags |= const.FLAG_CAN_MULTI_CONN
        if self.writable:
            flags |= (
                const.FLAG_SEND_TRIM | const.FLAG_SEND_WRITE_ZEROES | const.FLAG_SEND_FAST_ZERO
            )
        else:
            flags |= const.FLAG_READ_ONLY
        node = self.backend.node
        alignment = node.request_alignment if node is not None else 1
        return ExportInfo(
            self.name,
            align_down(self.backend.length, SECTOR),
            flags,
            description,
            min_block=alignment,
            contexts=tuple((number, context.name) for number, context in contexts.items()),
        )

    def _find_bitmaps(self) -> list[DirtyBitmap]:
        found: list[DirtyBitmap] = []
        for wanted in self.options.bitmaps or ():
            if isinstance(wanted, str):
                node, bitmap = _find_below(self.backend.node, wanted)
                # One that is named with its node may change: it can be another disk's.
                if not self.writable and not node.read_only and bitmap.enabled:
                    raise QmpError(
                        f"Enabled bitmap '{bitmap.name}' incompatible with readonly export"
                    )
            else:
                _, bitmap = self.host.graph.find_bitmap(wanted.node, wanted.name)
            bitmap.check(allow_readonly=True)
            if len(bitmap.name or "") > const.MAX_STRING - len(const.CONTEXT_DIRTY_BITMAP):
                raise QmpError(f"bitmap name '{bitmap.name}' is too long to be a context")
            found.append(bitmap)
        return found


def _too_long(text: str) -> bool:
    return len(codec.encode(text)) > const.MAX_STRING


def _find_below(node: Node | None, name: str) -> tuple[Node, DirtyBitmap]:
    """Look a bitmap up in a node, and through filters and backing files below it."""
    while node is not None:
        for bitmap in node.bitmaps:
            if bitmap.name == name:
                return node, bitmap
        below = node.driver.filtered_child or node.children.get("backing")
        node = below.node if below is not None else None
    raise QmpError(f"Bitmap '{name}' is not found")

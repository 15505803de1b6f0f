"""Creating a file."""

from typing import Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.block.creating import BlockdevCreateOptions
from qmpfleece.block.graph import Graph
from qmpfleece.block.hostfile import creation
from qmpfleece.qapi.model import Size


class BlockdevCreateOptionsFile(BlockdevCreateOptions):
    """QAPI ``BlockdevCreateOptionsFile``.

    Attributes:
        filename: Path on the host.
        size: Bytes.
        preallocation: Whether space is reserved, or even written, at once.
        nocow: Turn off copy-on-write where the file system has it.
        extent_size_hint: Accepted, without effect: it is a hint.
    """

    driver: Literal["file"]
    filename: str
    size: Size
    preallocation: creation.Preallocation | None = None
    nocow: bool | None = None
    extent_size_hint: Size | None = None

    async def create(self, graph: Graph) -> None:
        """Make the file, on a thread."""
        if (self.extent_size_hint or 0) >= 1 << 32:
            raise QmpError("Extent size hint is too large")
        await graph.workers.queue(limit=1).submit(
            lambda: creation.create(
                graph.fdsets,
                self.filename,
                self.size,
                self.preallocation or "off",
                nocow=bool(self.nocow),
            )
        )

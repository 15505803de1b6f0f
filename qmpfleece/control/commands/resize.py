"""block_resize."""

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.control.command import command
from qmpfleece.control.resize import resize
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Int64


@command("block_resize")
async def block_resize(
    system: System, *, device: str | None = None, node_name: str | None = None, size: Int64
) -> None:
    """Change the size of an image while it is in use.

    Args:
        system: What to look at.
        device: A device that has the image.
        node_name: The node, instead.
        size: The new size in bytes.
    """
    node = system.graph.look_up(device, node_name)
    if size < 0:
        raise QmpError("Parameter 'size' expects a >0 size")
    if node.busy_with():
        raise QmpError(f"Device '{'(null)' if device is None else device}' is in use")
    backend = Backend(system.graph, perm=Perm.RESIZE)
    try:
        backend.attach(node)
        await resize(backend, size)
    finally:
        await backend.detach()

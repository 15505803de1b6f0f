"""block-set-write-threshold. Source: QAPI, block-core.json."""

from qmpfleece.base.errors import QmpError
from qmpfleece.block.write_threshold import set_threshold
from qmpfleece.control.command import command
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Uint64


@command("block-set-write-threshold")
async def block_set_write_threshold(
    system: System, node_name: str, write_threshold: Uint64
) -> None:
    """Let BLOCK_WRITE_THRESHOLD tell, once, that a node is written to beyond an offset.

    Args:
        system: Where the node is.
        node_name: The node.
        write_threshold: The offset in bytes, 0 for none.
    """
    node = system.graph.get(node_name)
    if node is None:
        raise QmpError(f"Device '{node_name}' not found")
    set_threshold(node, write_threshold, system.bus)

"""change-backing-file: what an image says its backing file is called, and nothing else.

Source: QAPI, block-core.json; checks, their order and texts as QEMU 7.2 has them.
"""

from qmpfleece.base.errors import QmpError
from qmpfleece.block import reopen
from qmpfleece.block.backend import Backend
from qmpfleece.block.node import Node
from qmpfleece.control.command import command
from qmpfleece.control.describe import filtered_or_backing
from qmpfleece.control.system import System


def find_root(system: System, device: str) -> Node:
    """Return the node of a drive or of that name, which no node and no job uses.

    Raises:
        QmpError: There is none, or one does, or an image in it was given up as corrupt.
    """
    node = system.graph.find(device)
    if any(not isinstance(edge.parent, Backend) for edge in node.parents):
        raise QmpError("Need a root block node")
    if not node.has_medium:
        raise QmpError("Device has no medium")
    return node


@command("change-backing-file")
async def change_backing_file(
    system: System, device: str, image_node_name: str, backing_file: str
) -> None:
    """Write another name of the backing file into an image.

    Args:
        system: Where the nodes are.
        device: What the image is part of.
        image_node_name: The node of the image.
        backing_file: The name.
    """
    top = find_root(system, device)
    image = system.graph.look_up(None, image_node_name)
    if filtered_or_backing(image) is None:
        raise QmpError("not allowing backing file change on an image without a backing file")
    top.check_free()
    below: Node | None = top
    while below is not image:
        if below is None:
            raise QmpError(f"'{device}' and image file are not in the same chain")
        below = filtered_or_backing(below)
    read_only = image.read_only
    if read_only:
        await reopen.set_read_only(system.graph, image, read_only=False)
    try:
        await image.driver.change_backing(backing_file, image.driver.driver_name)
    except OSError as error:
        raise QmpError(
            f"Could not change backing file to '{backing_file}': {error.strerror}"
        ) from error
    finally:
        if read_only:
            await reopen.set_read_only(system.graph, image, read_only=True)

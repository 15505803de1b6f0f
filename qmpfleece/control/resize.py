"""Resizing a node through a user's handle, with the words of ``block_resize``."""

import errno

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.block.drain import drained
from qmpfleece.block.graph import MAX_LENGTH


async def resize(backend: Backend, length: int) -> None:
    """Make the node ``length`` bytes long; what is new reads as zeroes.

    Raises:
        QmpError: It is read-only, or can't be resized.
    """
    node = backend.node
    assert node is not None
    if length > MAX_LENGTH:
        raise QmpError(f"offset({length}) exceeds maximum({MAX_LENGTH})")
    if node.read_only:
        raise QmpError("Image is read-only")
    async with drained(node):
        pass  # requests in what may be cut off have ended
    try:
        await backend.truncate(length)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            raise QmpError("Image format driver does not support resize") from error
        text = error.strerror or "Failed to resize"
        # A format has more to do than to resize its file.
        at_file = node.driver.driver_name != "qcow2"
        raise QmpError(f"Could not resize file: {text}" if at_file else text) from error

"""Resizing a node through a user's handle, with the words of ``block_resize``."""

import errno
import os
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import SECTOR
from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.child import Child
from qmpfleece.block.drain import drained
from qmpfleece.block.node import MAX_LENGTH, Node

_READ_ONLY: Final = "Image is read-only"
_NO_PREALLOCATION: Final = "Preallocation is not supported when resizing"


async def resize(backend: Backend, length: int, preallocation: str = "off") -> None:
    """Make the node ``length`` bytes long; what is new reads as zeroes.

    Nothing is in flight meanwhile; requests that have waited find the new size.

    Args:
        backend: The user's handle.
        length: In bytes.
        preallocation: How to have space for what is new, QAPI ``PreallocMode``. Differs: only
            what QEMU refuses is known of other modes than ``off``.

    Raises:
        QmpError: It is read-only, or can't be resized.
    """
    root = backend.root
    assert root is not None
    if length > MAX_LENGTH:
        raise QmpError(f"offset({length}) exceeds maximum({MAX_LENGTH})")
    while not await _resized(root, length, preallocation):
        pass


async def _resized(root: Child, length: int, preallocation: str) -> bool:
    """Resize the node, unless the edge leads to another one when this one is drained.

    Returns:
        Whether it has been done.
    """
    node = root.node
    if node.read_only:
        raise QmpError(_READ_ONLY)
    try:
        async with drained(node):  # nobody writes to what is being cut off
            if root.node is not node:  # a job has ended and taken it out
                return False
            _check(node, length, preallocation)
            await pipeline.truncate(root, length)
            return True
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            told = error.strerror != os.strerror(errno.ENOTSUP) and error.strerror
            raise QmpError(told or "Image format driver does not support resize") from error
        text = error.strerror or "Failed to resize"
        at_file = not _is_image(node)
        raise QmpError(f"Could not resize file: {text}" if at_file else text) from error


def _is_image(node: Node) -> bool:
    """Tell whether a format resizes the node, which has more to do than to resize its file."""
    child = node.children.get("file") if node.driver.driver_name == "raw" else None
    child = child or node.driver.filtered_child
    return _is_image(child.node) if child is not None else node.driver.driver_name == "qcow2"


def _check(node: Node, length: int, preallocation: str) -> None:
    """Refuse what the driver that would do it has a text of its own for.

    Raises:
        QmpError: The image has a fixed size, is read-only, or can't have space reserved so.
    """
    if node.read_only:
        raise QmpError(_READ_ONLY)
    reserves, shrinks = preallocation != "off", length < node.length
    name = node.driver.driver_name
    if name == "raw":
        if node.given.given({"size"}):
            raise QmpError("Cannot resize fixed-size raw disks")
        _check(node.children["file"].node, length, preallocation)
    elif (child := node.driver.filtered_child) is not None:
        _check(child.node, length, preallocation)
    elif not reserves or name not in {"file", "qcow2"}:
        return
    elif name == "qcow2":
        if length % SECTOR:
            return
        if shrinks:
            raise QmpError("Preallocation can't be used for shrinking an image")
        raise QmpError(_NO_PREALLOCATION)
    else:
        if shrinks:
            raise QmpError("Cannot use preallocation for shrinking files")
        if preallocation == "metadata":
            raise QmpError("Unsupported preallocation mode: metadata")
        if length > node.length:
            raise QmpError(_NO_PREALLOCATION)

"""Requests of a node that must not overlap: the tracked ones, and those that must be alone.

A write is tracked once a node has seen its first serialising request, such as one of parts of
blocks. Offsets and lengths are bytes.

Source: QEMU, tracked requests and ``BDRV_REQ_SERIALISING``.
"""

from qmpfleece.base.units import align_down, align_up
from qmpfleece.block.driver import ReqFlags
from qmpfleece.block.node import Node
from qmpfleece.block.reqlist import Req


async def track(node: Node, offset: int, length: int, flags: int) -> Req:
    """Enter a write, after the serialising requests that overlap it have ended."""
    if flags & ReqFlags.SERIALISING or (offset | length) % node.request_alignment:
        return await serialise(node, offset, length)
    return await enter(node, offset, length)


async def enter(node: Node, offset: int, length: int) -> Req:
    """Enter a write of whole blocks, after the serialising requests that overlap it."""
    await node.serialising.wait_all(offset, length)
    if node.on_write is not None:
        node.on_write(offset + length)
    return node.tracked.add(offset, length)


async def serialise(node: Node, offset: int, length: int) -> Req:
    """Enter a request that nothing may overlap, after everything that does has ended.

    Only requests that are entered are waited for, and an entered request waits for no
    other one, so two requests never wait for each other.
    """
    node.tracks = True  # from now on writes look here, and leave a trace
    align = node.request_alignment
    start, end = align_down(offset, align), align_up(offset + length, align)
    while True:
        if (conflict := node.serialising.find_conflict(start, end - start)) is None:
            conflict = node.tracked.find_conflict(start, end - start)
        if conflict is None:
            if node.on_write is not None:
                node.on_write(end)
            return node.serialising.add(start, end - start)
        await conflict.wait()

"""Requests of parts of blocks, made of whole ones: what the driver can take.

Blocks are of ``node.request_alignment`` bytes; offsets and lengths are bytes.
"""

from qmpfleece.base.units import align_down, align_up
from qmpfleece.block.node import Node


async def pread(node: Node, offset: int, buf: memoryview) -> None:
    """Read the whole blocks, and fill ``buf`` from them."""
    align = node.request_alignment
    start, end = align_down(offset, align), align_up(offset + len(buf), align)
    bounce = memoryview(bytearray(end - start))
    await node.driver.pread(start, bounce)
    buf[:] = bounce[offset - start : offset - start + len(buf)]


async def pwrite(node: Node, offset: int, buf: memoryview, flags: int) -> None:
    """Read the blocks at the edges, and write whole blocks. The range is serialised.

    ``flags``, such as FUA, are heeded as far as the driver can.
    """
    align = node.request_alignment
    driver = node.driver
    start, end = align_down(offset, align), align_up(offset + len(buf), align)
    bounce = memoryview(bytearray(end - start))
    head, tail = start < offset, offset + len(buf) < end
    if end - start == align:
        await _tell(node, "pwritev_rmw_head" * head, "pwritev_rmw_tail" * tail)
        await driver.pread(start, bounce)
        await _tell(node, "pwritev_rmw_after_head" * head, "pwritev_rmw_after_tail" * tail)
    else:
        if head:
            await _tell(node, "pwritev_rmw_head")
            await driver.pread(start, bounce[:align])
            await _tell(node, "pwritev_rmw_after_head")
        if tail:
            await _tell(node, "pwritev_rmw_tail")
            await driver.pread(end - align, bounce[-align:])
            await _tell(node, "pwritev_rmw_after_tail")
    bounce[offset - start : offset - start + len(buf)] = buf
    await driver.pwrite(start, bounce, flags & driver.write_flags)


async def _tell(node: Node, *events: str) -> None:
    """Tell the node's own driver, if it listens, what happens to it; empty events don't."""
    if node.listener is not None:
        for event in filter(None, events):
            await node.listener(event)

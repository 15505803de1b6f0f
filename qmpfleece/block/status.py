"""Block status of a node and of the chain below it: what is data, what is zero, what is where.

Source: QEMU's ``bdrv_block_status`` family; extents come in runs, not one by one.
"""

import errno
from functools import partial

from qmpfleece.base.errors import BlockError
from qmpfleece.block.driver import Extent, Status
from qmpfleece.block.node import Node


async def block_status(node: Node, offset: int, length: int, limit: int) -> list[Extent]:
    """Return up to ``limit`` extents of this layer from ``offset`` on.

    They follow each other without gap, at least one if ``length`` is not 0, and end at
    ``offset + length`` or before. An extent without ALLOCATED is decided by the backing file.

    Raises:
        OSError: EIO: the node ends before, it has become shorter than one above it; or the driver
            can't find the status out.
    """
    if not length:
        return []
    length = min(length, node.length - offset)
    if length <= 0:
        raise BlockError(errno.EIO)
    node.in_flight += 1
    try:
        extents = await node.driver.block_status(offset, length, limit)
    finally:
        node.work_end()
    assert extents
    return extents


async def status_above(node: Node, offset: int, length: int, limit: int) -> list[Extent]:
    """Return up to ``limit`` extents as a reader of ``node`` sees them, backing files included.

    What no layer has reads as zeroes, ZERO without ALLOCATED; or, where the last layer is none
    that could have a backing file, as that layer says: as zeroes, or without flags as anything.
    """
    extents: list[Extent] = []
    node.work_begin()  # a drain waits for the walk through the layers below, too
    try:
        found = await block_status(node, offset, length, limit)
        if all(extent.flags & Status.ALLOCATED for extent in found):
            return found[:limit]
        target = _moved_to(node)
        below_of = _below if target is None else partial(_below_held, target)
        for extent in found:
            if len(extents) >= limit:
                break
            if extent.flags & Status.ALLOCATED:
                extents.append(extent)
            else:
                below = await below_of(node, offset, extent, limit - len(extents))
                extents += below
                if sum(part.length for part in below) < extent.length:
                    break
            offset += extent.length
    finally:
        node.work_end()
    return extents


async def allocation_depth(
    node: Node, offset: int, length: int, limit: int
) -> list[tuple[int, int]]:
    """Return runs ``(length, depth)``: the layer that decides, 1 for the top, 0 for none.

    A filter has what the node below it has; what that lacks is one layer further down than
    without the filter. Source: NBD meta context ``qemu:allocation-depth``.
    """
    node.work_begin()  # as above
    try:
        return await _depths(node, offset, length, limit)
    finally:
        node.work_end()


async def _depths(top: Node, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for extent in await block_status(top, offset, length, limit):
        if extent.flags & Status.ALLOCATED:
            runs.append((extent.length, 1))
        elif (below := top.driver.filtered_child or top.children.get("backing")) is None:
            runs.append((extent.length, 0))
        else:
            inside = min(extent.length, max(0, below.node.length - offset))
            if inside:
                found = await allocation_depth(below.node, offset, inside, limit)
                runs += [(part, depth + 1 if depth else 0) for part, depth in found]
                if sum(part for part, _ in found) < inside:
                    break
            if inside < extent.length:  # the zeroes past its end count as its own
                runs.append((extent.length - inside, 2))
        offset += extent.length
    return runs[:limit]


def skip_filters(node: Node) -> Node:
    """Return the first node from ``node`` downwards that is no filter."""
    while (child := node.driver.filtered_child) is not None:
        node = child.node
    return node


def _moved_to(node: Node) -> Node | None:
    """Return the first of ``node`` and what it filters to which copies move what lies below."""
    while not node.tracks_reads:
        if (child := node.driver.filtered_child) is None:
            return None
        node = child.node
    return node


async def _below_held(
    target: Node, node: Node, offset: int, extent: Extent, limit: int
) -> list[Extent]:
    """Do what ``_below`` does while nothing of the range is moved to ``target``.

    What has been moved since ``extent`` was found may be gone below, so the top is asked again.
    """
    length = extent.length
    while (conflict := target.serialising.find_conflict(offset, length)) is not None:
        if conflict.offset > offset:
            length = conflict.offset - offset  # writers would keep us from a long one for ever
        else:
            await conflict.wait()
    request = target.tracked.add(offset, length)
    try:
        extent = (await block_status(node, offset, length, 1))[0]
        if extent.flags & Status.ALLOCATED:
            return [extent]
        return await _below(node, offset, extent, limit)
    finally:
        request.remove()


async def _below(node: Node, offset: int, extent: Extent, limit: int) -> list[Extent]:
    top = skip_filters(node)
    backing = top.children.get("backing")
    if backing is None or offset >= backing.node.length:
        zero = top.driver.supports_backing or extent.flags & Status.ZERO
        return [Extent(extent.length, Status.ZERO if zero else 0)]
    return await status_above(backing.node, offset, extent.length, limit)

"""The door to a driver: every request passes here and nowhere else.

In order: range, tracking and waiting for serialising requests, alignment (read-modify-write
where the driver can't take the request as it is), what the driver can't do itself (FUA by
flush, zeroes by write), the driver, dirty bits. Offsets and lengths are bytes.

Dirty bits are set even when the write failed: nobody knows what it has changed. A user with
the permission to resize may write past the end, and the node grows: so formats grow files.
"""

import errno
from typing import Final

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import SECTOR, align_down, align_up
from qmpfleece.block import alignment, serialising, zeroes
from qmpfleece.block.child import Child
from qmpfleece.block.driver import Io, ReqFlags
from qmpfleece.block.node import Node
from qmpfleece.block.places import Places
from qmpfleece.block.reqlist import Req

FUA: Final = ReqFlags.FUA
SERIALISING: Final = ReqFlags.SERIALISING


def pread(child: Child, offset: int, buf: memoryview) -> Io:
    """Fill ``buf`` from ``offset``. ``buf`` is not kept after the await.

    Raises:
        OSError: EIO: past the end; else what the driver says.
    """
    node = child.node
    length = len(buf)
    if offset < 0 or offset + length > node.length:
        raise BlockError(errno.EIO)
    if node.tracks_reads or (offset | length) % node.request_alignment:
        return _pread_arranged(node, offset, buf)
    io = node.driver.pread(offset, buf)
    return io if io is DONE else _in_flight(node, io)


def locate(child: Child, offset: int, length: int, places: Places) -> bool:
    """Say where the data of a read lies; see ``BlockDriver.locate``."""
    node = child.node
    if (
        offset < 0
        or offset + length > node.length
        or node.tracks_reads
        or (offset | length) % node.request_alignment
        or not node.driver.locate(offset, length, places)
    ):
        return False
    node.work_begin()
    places.held.append(node.work_end)
    return True


async def _in_flight(node: Node, io: Io) -> None:
    """Count a request that goes on."""
    node.in_flight += 1
    try:
        await io
    finally:
        node.in_flight -= 1
        if not node.in_flight:
            node.wake_idle()


async def _pread_arranged(node: Node, offset: int, buf: memoryview) -> None:
    """Read on a node where reads must keep clear of writes, or whole blocks be read."""
    length = len(buf)
    if not length and offset % node.request_alignment:
        return
    node.in_flight += 1
    request: Req | None = None
    try:
        if node.tracks_reads and length:
            await node.serialising.wait_all(offset, length)
            request = node.tracked.add(offset, length)
        if (offset | length) % node.request_alignment:
            await alignment.pread(node, offset, buf)
        else:
            await node.driver.pread(offset, buf)
    finally:
        if request is not None:
            request.remove()
        node.in_flight -= 1
        if not node.in_flight:
            node.wake_idle()


async def pwrite(child: Child, offset: int, buf: memoryview, flags: int = 0) -> None:
    """Write ``buf`` at ``offset``. ``buf`` must stay unchanged until the await ends.

    Raises:
        OSError: EIO: past the end; EPERM: the node or a bitmap of it is read-only, or the user
            has been deprived of the permission to write; else what the driver says.
    """
    node = child.node
    length = len(buf)
    if (
        offset < 0
        or offset + length > node.length
        or node.options.read_only
        or node.readonly_bitmaps
        or not child.may_write
    ):
        _check_write(child, offset, length)
    if node.options.detect_zeroes != "off" and length and zeroes.is_zero(buf):
        await _pwrite_detected(child, offset, length, flags)
        return
    node.in_flight += 1
    request: Req | None = None
    try:
        if (offset | length) % node.request_alignment:
            if not length:
                return
            request = await serialising.serialise(node, offset, length)
            await alignment.pwrite(node, offset, buf, flags)
        else:
            if node.tracks or flags & SERIALISING:
                request = await serialising.track(node, offset, length, flags)
            await node.driver.pwrite(offset, buf, flags & node.driver.write_flags)
        if flags & FUA and not node.driver.write_flags & FUA:
            await _flush_for_fua(node)
        if offset + length > node.length and child.may_resize:
            set_length(node, align_up(offset + length, SECTOR))
    finally:
        _finish_write(node, offset, length, request)


async def _pwrite_detected(child: Child, offset: int, length: int, flags: int) -> None:
    if child.node.options.detect_zeroes == "unmap":
        flags |= ReqFlags.MAY_UNMAP
    await pwrite_zeroes(child, offset, length, flags)


async def pwrite_compressed(child: Child, offset: int, buf: memoryview) -> None:
    """Write whole clusters, which hold no data yet, compressed.

    Raises:
        OSError: As ``pwrite``; ENOTSUP: the driver can't.
    """
    node = child.node
    _check_write(child, offset, len(buf))
    if node.options.detect_zeroes != "off" and buf and zeroes.is_zero(buf):
        await _pwrite_detected(child, offset, len(buf), SERIALISING)
        return
    node.in_flight += 1
    request: Req | None = None
    try:
        request = await serialising.serialise(node, offset, len(buf))
        await node.driver.pwrite_compressed(offset, buf)
    finally:
        _finish_write(node, offset, len(buf), request)


async def pwrite_zeroes(child: Child, offset: int, length: int, flags: int = 0) -> None:
    """Make a range read as zeroes.

    Raises:
        OSError: As ``pwrite``; ENOTSUP under NO_FALLBACK: there is no fast way, as there never
            is for parts of blocks.
    """
    node = child.node
    _check_write(child, offset, length)
    if not node.options.unmap and isinstance(child.parent, Node):
        # Of nodes that write to this one; what a user asks of the topmost is its own affair.
        flags &= ~ReqFlags.MAY_UNMAP
    if not length:
        return
    if flags & ReqFlags.NO_FALLBACK and (offset | length) % node.request_alignment:
        raise BlockError(errno.ENOTSUP)
    node.in_flight += 1
    request: Req | None = None
    try:
        if node.tracks or flags & SERIALISING or (offset | length) % node.request_alignment:
            request = await serialising.track(node, offset, length, flags)
        heeded = await zeroes.pwrite(node, offset, length, flags)
        if flags & FUA and not heeded & FUA:
            await _flush_for_fua(node)
        if offset + length > node.length and child.may_resize:
            set_length(node, align_up(offset + length, SECTOR))
    finally:
        _finish_write(node, offset, length, request)


async def pdiscard(child: Child, offset: int, length: int) -> None:
    """Say that a range is no longer needed. What it reads as afterwards is undefined.

    Does nothing unless the node was opened with ``discard: unmap``. Parts of blocks are left to
    the driver, apart from whole ones, which it can do something with at least.

    Raises:
        OSError: ENOMEDIUM: the image was given up as corrupt; else what the driver says.
    """
    node = child.node
    _check_write(child, offset, length)
    if not node.options.unmap or not node.driver.discards or length <= 0:
        if not node.has_medium:
            raise BlockError(errno.ENOMEDIUM)
        return
    node.in_flight += 1
    request: Req | None = None
    try:
        if node.tracks:
            request = await serialising.enter(node, offset, length)
        if (offset | length) % node.request_alignment:
            await _discard_parts(node, offset, length)
        else:
            await _discard(node, offset, length)
    finally:
        _finish_write(node, offset, length, request, discard=True)


async def _discard_parts(node: Node, offset: int, length: int) -> None:
    align = node.request_alignment
    end = offset + length
    first, last = min(align_up(offset, align), end), max(align_down(end, align), offset)
    for start, stop in ((offset, first), (first, last), (max(first, last), end)):
        if start < stop:
            await _discard(node, start, stop - start)


async def _discard(node: Node, offset: int, length: int) -> None:
    try:
        await node.driver.pdiscard(offset, length)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


async def flush(child: Child) -> None:
    """Make all completed writes stable, all the way down."""
    node = child.node
    node.in_flight += 1
    try:
        await flush_node(node)
    finally:
        node.work_end()


async def truncate(child: Child, length: int) -> int:
    """Change a node's size in bytes. Its users hold no requests in what is cut off.

    Returns:
        The size that came of it: a device stays as it is.

    Raises:
        OSError: EPERM: the node is read-only; ENOTSUP: it can't be resized; ENOMEM: a bitmap
            can't be so large. Its length is what it was.
    """
    node = child.node
    if node.options.read_only:
        raise BlockError(errno.EPERM)
    assert child.may_resize, f"{child!r} resizes without the permission"
    node.in_flight += 1
    before = node.length
    try:
        length = await node.driver.truncate(length)
        try:
            set_length(node, align_up(length, SECTOR))
        except OSError:  # Differs: QEMU aborts.
            await node.driver.truncate(before)
            set_length(node, before)
            raise
    finally:
        node.write_gen += 1
        node.work_end()
    return length


# -- writes -------------------------------------------------------------------------------


def _check_write(child: Child, offset: int, length: int) -> None:
    node = child.node
    if offset < 0 or (offset + length > node.length and not child.may_resize):
        raise BlockError(errno.EIO)
    if node.options.read_only or node.readonly_bitmaps or not child.may_write:
        raise BlockError(errno.EPERM)


def _finish_write(
    node: Node, offset: int, length: int, request: Req | None, *, discard: bool = False
) -> None:
    """Leave the list, record what may have changed, and leave the node: in one step."""
    node.write_gen += 1
    if request is not None:
        offset, length = request.offset, request.length  # whole blocks, where parts were written
        request.remove()
    if offset + length > node.wr_highest_offset and length and not discard:
        node.wr_highest_offset = offset + length
    node.in_flight -= 1
    if not node.in_flight:
        node.wake_idle()
    for bitmap in node.bitmaps:
        if bitmap.enabled:
            # A request past the end that has failed, or a discard, has not made the node grow.
            inside = min(length, node.length - offset)
            if inside > 0:
                bitmap.mark(offset, inside)


def set_length(node: Node, length: int) -> None:
    """Take note that a node, and so its bitmaps, is of another length; bytes.

    Raises:
        OSError: ENOMEM: there is no memory for a bitmap; this node has not changed.
    """
    try:
        for bitmap in node.bitmaps:
            bitmap.bits.resize(length)
    except OSError:
        for bitmap in node.bitmaps:
            bitmap.bits.resize(node.length)
        raise
    node.length = length
    for edge in node.parents:
        if isinstance(edge.parent, Node):
            edge.parent.driver.child_resized()


async def _flush_for_fua(node: Node) -> None:
    node.write_gen += 1  # the write is not over, but what it has written is to be flushed
    await flush_node(node)


async def flush_node(node: Node) -> None:
    """Make the completed writes of a node stable, through whatever edge they came."""
    generation = node.write_gen
    writable = not node.options.read_only
    passes = writable and node.driver.passes_flush
    debug = node.debug if writable and not passes else None
    if debug is not None:
        await debug("flush_to_os")
    no_flush = node.options.cache_no_flush
    is_due = node.flushed_gen != generation and (not no_flush or node.driver.holds_metadata)
    if is_due:
        await node.driver.flush()
        if debug is not None and not no_flush:  # the driver has flushed its metadata alone
            await debug("flush_to_disk")
    unflushed = node.driver.unflushed_children
    for child in tuple(node.children.values()):
        if (child.may_write or passes) and child.name not in unflushed:
            await flush(child)
    if is_due:
        node.flushed_gen = generation

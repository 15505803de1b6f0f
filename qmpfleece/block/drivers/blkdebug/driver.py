"""blkdebug: a filter that lets requests fail, or wait, when a test wants it.

It is told what the node above is about to do (``Node.debug``), and what happens to itself.
What the rules do is said in ``rules``. Discards and zero writes are split and refused
as a device with the given limits would do it.

Differs: where a block is read in order to write a part of it and that read fails, so does the
write; QEMU 7.2 goes on with whatever was in memory.
"""

import errno
from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar, Final, Literal

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.units import MIB, align_down
from qmpfleece.block import pipeline, status
from qmpfleece.block.child import Child
from qmpfleece.block.driver import BlockDriver, Extent, Io, Opener, ReqFlags, register
from qmpfleece.block.drivers.blkdebug.config import read_config
from qmpfleece.block.drivers.blkdebug.rules import (
    BlkdebugInjectErrorOptions,
    BlkdebugSetStateOptions,
    Rules,
)
from qmpfleece.block.hostfile.names import file_definition
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm, Role, default_perms
from qmpfleece.qapi.blockdev import BlockdevOptions, BlockdevRef
from qmpfleece.qapi.model import Int32, Int64
from qmpfleece.qapi.order import ordered

#: QAPI ``BlockPermission``, without what only QEMU itself uses.
BlockPermission = Literal["consistent-read", "write", "write-unchanged", "resize"]
_PERMS: Final = {
    "consistent-read": Perm.CONSISTENT_READ,
    "write": Perm.WRITE,
    "write-unchanged": Perm.WRITE_UNCHANGED,
    "resize": Perm.RESIZE,
}
#: How often a file name may say ``blkdebug:``.
_MAX_NESTED: Final = 16
_INT_MAX: Final = (1 << 31) - 1


class BlkdebugOptions(BlockdevOptions):
    """QAPI ``BlockdevOptionsBlkdebug``.

    Attributes:
        image: The node whose data is shown.
        config: A file with more rules, read before ``image`` is opened.
        align: Requests are aligned to so many bytes, a power of 2.
        max_transfer: Reads and writes are split at so many bytes.
        opt_write_zero: Zero writes of less than so many bytes are ordinary writes.
        max_write_zero: Zero writes are split at so many bytes.
        opt_discard: Discards are split at the borders of such blocks, in bytes.
        max_discard: Discards are split at so many bytes.
        inject_error: Errors to inject.
        set_state: Changes of state.
        take_child_perms: Permissions to take on ``image`` besides the needed ones.
        unshare_child_perms: Permissions that others may not have on ``image``.
    """

    driver: Literal["blkdebug"]
    image: BlockdevRef
    config: str | None = None
    align: Int64 | None = None
    max_transfer: Int32 | None = None
    opt_write_zero: Int32 | None = None
    max_write_zero: Int32 | None = None
    opt_discard: Int32 | None = None
    max_discard: Int32 | None = None
    inject_error: list[BlkdebugInjectErrorOptions] | None = None
    set_state: list[BlkdebugSetStateOptions] | None = None
    take_child_perms: list[BlockPermission] | None = None
    unshare_child_perms: list[BlockPermission] | None = None


_SIZES: Final = (
    "align",
    "max-transfer",
    "opt-write-zero",
    "max-write-zero",
    "opt-discard",
    "max-discard",
)
_LISTS: Final = ("inject-error", "set-state", "take-child-perms", "unshare-child-perms")


class Blkdebug(BlockDriver[BlkdebugOptions]):
    """Passes requests on, unless a rule says otherwise.

    Attributes:
        rules: The rules, with the break points.
    """

    driver_name = "blkdebug"

    is_filter = True
    is_protocol = True
    strong_options: ClassVar[tuple[str, ...]] = ("config", *_SIZES, "inject-error", "set-state")
    mutable_options: ClassVar[frozenset[str] | None] = frozenset()
    # FUA is done by a flush, which a rule can hit.
    write_flags = ReqFlags.WRITE_UNCHANGED
    zero_flags = write_flags | ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK

    rules: Rules
    _image: Child

    async def open(self, opener: Opener) -> None:
        """Read the rules, open the image, check the limits."""
        given = self.options
        sizes = {name: getattr(given, name.replace("-", "_")) or 0 for name in _SIZES}
        for name, size in sizes.items():
            if size < 0:
                raise QmpError(f"Parameter '{name}' expects a non-negative number below 2^64")
        injects: list[BlkdebugInjectErrorOptions] = []
        changes: list[BlkdebugSetStateOptions] = []
        if given.config is not None:
            workers = opener.workers.queue(limit=1)
            injects, changes = await workers.submit(read_config, given.config)
        self.rules = Rules(injects + (given.inject_error or []), changes + (given.set_state or []))
        role = Role.FILTERED | Role.PRIMARY
        self._image = await opener.open_child("image", given.image, role)
        self._set_limits(sizes)
        empty = [name for name in _LISTS if getattr(given, name.replace("-", "_")) == []]
        if empty:
            name = ordered(empty)[0]
            raise QmpError(f"Block protocol 'blkdebug' doesn't support the option '{name}'")
        self.node.length = self._image.node.length
        self.node.listener = self.debug_event
        await self.rules.happened("none")

    def _set_limits(self, sizes: dict[str, int]) -> None:
        """Check and keep the limits.

        Raises:
            QmpError: They do not fit together.
        """
        given = sizes["align"]
        if given >= _INT_MAX or given & (given - 1):
            raise QmpError(f"Cannot meet constraints with align {given}")
        align = max(given, self._image.node.request_alignment)
        opt_zero = max(sizes["opt-write-zero"], align)
        opt_discard = max(sizes["opt-discard"], align)
        for name, unit in (
            ("max-transfer", align),
            ("opt-write-zero", align),
            ("max-write-zero", opt_zero),
            ("opt-discard", align),
            ("max-discard", opt_discard),
        ):
            size = sizes[name]
            if size and (size >= _INT_MAX or size % unit):
                raise QmpError(f"Cannot meet constraints with {name} {size}")
        self.node.request_alignment = given or 1
        self._max_transfer = sizes["max-transfer"]
        self._zero_unit = max(sizes["opt-write-zero"], given, 1)
        self._max_zero = sizes["max-write-zero"]
        self._discard_unit = max(sizes["opt-discard"], given, 1)
        self._max_discard = sizes["max-discard"]

    @classmethod
    def definition_of(cls, name: str) -> dict[str, Any]:
        """Return what ``blkdebug:CONFIG:FILE`` means; the config may be empty."""
        config, colon, image = name.partition(":")
        if not colon:
            raise QmpError("blkdebug requires both config file and image path")
        if image.count("blkdebug:") > _MAX_NESTED:
            raise QmpError("File name too long")
        if not image:
            raise QmpError("The 'file' block driver requires a file name")
        given = {"driver": "blkdebug", "image": file_definition(image)}
        return given | {"config": config} if config else given

    # -- what happens -------------------------------------------------------------------------

    def debug_event(self, event: str) -> Io:
        """Take note of an event of QAPI ``BlkdebugEvent``; a break point suspends here."""
        return self.rules.happened(event)

    # -- requests -----------------------------------------------------------------------------

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Read; what lies past the end of the image, in the last block, is zero."""
        for start, part in self._transfers(offset, buf):
            await self.rules.check(start, len(part), "read")
            inside = max(0, min(len(part), self._image.node.length - start))
            if inside:
                await pipeline.pread(self._image, start, part[:inside])
            if inside < len(part):
                part[inside:] = bytes(len(part) - inside)

    async def pwrite(self, offset: int, buf: memoryview, flags: int) -> None:
        """Write."""
        await self.rules.happened("pwritev")
        try:
            await self._pwrite(offset, buf, flags)
        finally:
            await self.rules.happened("pwritev_done")

    async def _pwrite(self, offset: int, buf: memoryview, flags: int) -> None:
        for start, part in self._transfers(offset, buf):
            await self.rules.check(start, len(part), "write")
            await pipeline.pwrite(self._image, start, part, flags)

    def _transfers(self, offset: int, buf: memoryview) -> Iterator[tuple[int, memoryview]]:
        step = self._max_transfer or len(buf) or 1
        for done in range(0, max(len(buf), 1), step):
            yield offset + done, buf[done : done + step]

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        """Write zeroes, the slow way what is too small for the given unit."""
        await self.rules.happened("pwritev_zero")
        try:
            for start, size in _fragments(offset, length, self._zero_unit, self._max_zero):
                try:
                    if size < self._zero_unit:
                        raise BlockError(errno.ENOTSUP)
                    await self.rules.check(start, size, "write-zeroes")
                    await pipeline.pwrite_zeroes(self._image, start, size, flags)
                except OSError as error:
                    if error.errno != errno.ENOTSUP or flags & ReqFlags.NO_FALLBACK:
                        raise
                    await self._write_zeroes_slowly(start, size, flags)
        finally:
            await self.rules.happened("pwritev_done")

    async def _write_zeroes_slowly(self, offset: int, length: int, flags: int) -> None:
        zeroes = memoryview(bytes(min(length, MIB)))
        for start in range(offset, offset + length, MIB):
            part = zeroes[: min(MIB, offset + length - start)]
            await self._pwrite(start, part, flags & self.write_flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard, unless it is less than a block."""
        if length < self.node.request_alignment:
            return
        for start, size in _fragments(offset, length, self._discard_unit, self._max_discard):
            try:
                await self.rules.check(start, size, "discard")
                await pipeline.pdiscard(self._image, start, size)
            except OSError as error:
                if error.errno != errno.ENOTSUP:
                    raise

    def flush(self) -> Io:
        """Fail if a rule says so; the image is flushed afterwards."""
        return self.rules.check(0, 0, "flush")

    def truncate(self, length: int) -> Coroutine[Any, Any, int]:
        """Resize the image."""
        return pipeline.truncate(self._image, length)

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return the image's status."""
        await self.rules.check(offset, length, "block-status")
        return await status.block_status(self._image.node, offset, length, limit)

    # -- what the graph asks ------------------------------------------------------------------

    @property
    def filtered_child(self) -> Child | None:
        """The image."""
        return self.node.children.get("image")

    def child_perms(self, child: str, role: Role, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
        """Return what the users need and share, changed as the options say."""
        perm, shared = default_perms(role, perm, shared, writable=not self.node.read_only)
        for name in self.options.take_child_perms or ():
            perm |= _PERMS[name]
        for name in self.options.unshare_child_perms or ():
            shared &= ~_PERMS[name]
        return perm, shared

    def exact_filename(self) -> str:
        """``blkdebug:CONFIG:FILE``, unless there are other options that decide something."""
        decided = self.options.given({n.replace("-", "_") for n in (*_SIZES, *_LISTS[:2])})
        name = self._image.node.exact_filename
        return f"blkdebug:{self.options.config or ''}:{name}" if name and not decided else ""

    async def allocated_size(self) -> int | None:
        """It is not known, as in QEMU."""
        return None


def _fragments(offset: int, length: int, unit: int, limit: int) -> Iterator[tuple[int, int]]:
    """Split a range: the pieces at its edges that are no whole units, and at ``limit`` bytes."""
    end = offset + length
    while offset < end:
        if offset % unit:
            size = min(end - offset, unit - offset % unit)
        elif end - offset > unit:
            size = align_down(end - offset, unit)
        else:
            size = end - offset
        size = min(size, limit or size)
        yield offset, size
        offset += size


def first_blkdebug(node: Node) -> Blkdebug | None:
    """Return the first blkdebug at or below ``node`` along primary children, None without one."""
    while not isinstance(node.driver, Blkdebug):
        child = node.primary_child
        if child is None:
            return None
        node = child.node
    return node.driver


register(Blkdebug, __name__)

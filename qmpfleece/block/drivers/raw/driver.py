"""raw: a disk as it is in its file, or a window of it."""

import errno
from collections.abc import Coroutine
from typing import Any, ClassVar

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.units import SECTOR, align_up
from qmpfleece.block import formats, pipeline, status
from qmpfleece.block.child import Child
from qmpfleece.block.driver import (
    BlockDriver,
    Extent,
    Io,
    Opener,
    Reopening,
    ReqFlags,
    Status,
    register,
)
from qmpfleece.block.drivers.raw.options import RawOptions
from qmpfleece.block.node import Listener
from qmpfleece.block.perm import Perm, Role, default_perms
from qmpfleece.block.places import Places


class Raw(BlockDriver[RawOptions]):
    """Adds an offset to every request.

    A disk that was taken for raw by its looks stays raw: who writes to its first sector what
    another format begins with gets EPERM. Otherwise a guest could make its disk an image with
    any file of the host's as its backing file, to be found the next time.
    """

    driver_name = "raw"

    strong_options: ClassVar[tuple[str, ...]] = ("offset", "size")
    write_flags = ReqFlags.FUA | ReqFlags.WRITE_UNCHANGED
    zero_flags = write_flags | ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK

    mutable_options: ClassVar[frozenset[str] | None] = frozenset(("offset", "size"))

    _file: Child
    #: Offset and size that are being prepared.
    _next: int

    async def open(self, opener: Opener) -> None:
        """Open ``file`` and check that the window lies in it."""
        _check_options(self.options)
        windowed = self.options.offset or self.options.size is not None
        role = Role.DATA | Role.PRIMARY if windowed else Role.FILTERED | Role.PRIMARY
        self._file = await opener.open_child("file", self.options.file, role)
        if not self._file.node.driver.has_medium:
            raise QmpError("Could not get image size: No medium found")
        self._offset, self._size = _window(self.options, self._file.node.length)
        self.node.length = align_up(self._size, SECTOR)
        self._guarded = opener.probed
        if self._guarded:
            self.node.request_alignment = SECTOR

    async def reopen_prepare(self, change: Reopening[RawOptions]) -> None:
        """Check that the other window lies in the file, which may be about to be replaced."""
        self._next, _ = _window(change.given, self._file.node.length)

    def reopen_commit(self) -> None:
        """Show the other window, of what is the file by now."""
        self._offset, size = self._next, self.options.size
        if size is not None:
            self._size = size
            pipeline.set_length(self.node, align_up(size, SECTOR))
        self.child_resized()

    def child_resized(self) -> None:
        """Follow the file, unless this is a window of a given size."""
        if self.options.size is None:
            self._size = max(0, self._file.node.length - self._offset)
            if self.node.length != (length := align_up(self._size, SECTOR)):
                pipeline.set_length(self.node, length)

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read from the window."""
        if offset + len(buf) > self._size:
            return self._pread_tail(offset, buf)
        if self.node.debug is not None:
            return self._pread_told(self.node.debug, offset, buf)
        return pipeline.pread(self._file, self._offset + offset, buf)

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Ask the file."""
        if offset + length > self._size or self.node.debug is not None:
            return False
        return pipeline.locate(self._file, self._offset + offset, length, places)

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Write to the window."""
        if self.node.debug is None and offset + len(buf) <= self._size and not self._guarded:
            return pipeline.pwrite(self._file, self._offset + offset, buf, flags)
        return self._pwrite_told(offset, buf, flags)

    def pwrite_zeroes(self, offset: int, length: int, flags: int) -> Io:
        """Write zeroes to the window."""
        if offset + length <= self._size:
            return pipeline.pwrite_zeroes(self._file, self._offset + offset, length, flags)
        return self._zero_past_end(offset, length, flags)

    def pdiscard(self, offset: int, length: int) -> Io:
        """Discard in the window."""
        return pipeline.pdiscard(
            self._file, self._offset + offset, min(length, self._size - offset)
        )

    def child_perms(self, child: str, role: Role, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
        """Write to the file, and resize it, only where the users do so here: also of a window."""
        needed, shared = default_perms(role, perm, shared, writable=not self.node.read_only)
        return needed & (perm | ~(Perm.WRITE | Perm.RESIZE)), shared

    async def truncate(self, length: int) -> int:
        """Resize the file, unless this is a window of a given size."""
        if self.options.size is not None:
            raise BlockError(errno.ENOTSUP)
        end = await pipeline.truncate(self._file, self._offset + length)
        self._size = max(0, end - self._offset)
        return self._size

    async def _pread_told(self, tell: Listener, offset: int, buf: memoryview) -> None:
        """Read once who listens below knows of it (blkdebug)."""
        await tell("read_aio")
        await pipeline.pread(self._file, self._offset + offset, buf)

    async def _pwrite_told(self, offset: int, buf: memoryview, flags: int) -> None:
        """Write where somebody listens below, past the end, or where not all may be written.

        Raises:
            OSError: EPERM: the disk was taken for raw and must not look like anything else.
        """
        if self._guarded and not offset and formats.probe(buf) != "raw":
            raise BlockError(errno.EPERM)
        self._check_growth(offset + len(buf))
        if self.node.debug is not None:
            await self.node.debug("write_aio")
        await pipeline.pwrite(self._file, self._offset + offset, buf, flags)
        self._size = max(self._size, offset + len(buf))

    async def _zero_past_end(self, offset: int, length: int, flags: int) -> None:
        self._check_growth(offset + length)
        await pipeline.pwrite_zeroes(self._file, self._offset + offset, length, flags)
        self._size = max(self._size, offset + length)

    def _check_growth(self, end: int) -> None:
        """Let a format above write past the end, unless the size was given.

        Raises:
            OSError: ENOSPC: it was.
        """
        if end > self._size and self.options.size is not None:
            raise BlockError(errno.ENOSPC)

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell what the file knows of the window."""
        return offset + length <= self._size and self._file.node.driver.is_known_data(
            self._offset + offset, length
        )

    def is_past_end(self, offset: int) -> bool:
        """Ask the file; a window of a given size has all that can be written."""
        return self.options.size is None and self._file.node.driver.is_past_end(
            self._offset + offset
        )

    def block_status(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return the status of the window: of all that lies below, for raw has no backing file.

        Differs: QEMU says neither data nor zero where only a backing file of ``file`` has it.
        """
        inside = min(length, self._size - offset)
        if inside <= 0:
            return self._tail_status(length)
        return status.status_above(self._file.node, self._offset + offset, inside, limit)

    async def _tail_status(self, length: int) -> list[Extent]:
        """Tell what the last sector has past a window of odd length."""
        return [Extent(length, Status.ZERO | Status.ALLOCATED, node=self.node)]

    @property
    def cluster_size(self) -> int:
        """The file's, also of a window."""
        return self._file.node.driver.cluster_size

    @property
    def vm_state_offset(self) -> int:
        """The file's."""
        return self._file.node.driver.vm_state_offset

    def exact_filename(self) -> str:
        """The file's, unless it is a window."""
        if self._offset or self.options.size is not None:
            return ""
        return self._file.node.exact_filename

    async def _pread_tail(self, offset: int, buf: memoryview) -> None:
        """Read where the last sector reaches past a window of odd length."""
        inside = max(0, self._size - offset)
        if inside:
            if self.node.debug is not None:
                await self.node.debug("read_aio")
            await pipeline.pread(self._file, self._offset + offset, buf[:inside])
        buf[inside:] = bytes(len(buf) - inside)


def _check_options(options: RawOptions) -> None:
    for name in ("offset", "size"):
        if (getattr(options, name) or 0) < 0:
            raise QmpError(f"Parameter '{name}' expects a non-negative number below 2^64")


def _window(options: RawOptions, real: int) -> tuple[int, int]:
    """Return where the window in a file of ``real`` bytes begins, and its size.

    Raises:
        QmpError: It does not lie in the file.
    """
    _check_options(options)
    offset, size = options.offset or 0, options.size
    if offset > real:
        raise QmpError(
            f"Offset ({offset}) cannot be greater than size of the containing file ({real})"
        )
    if size is not None and real - offset < size:
        raise QmpError(
            f"The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the "
            f" actual size of the containing file ({real})"
        )
    if size is not None and size % SECTOR:
        raise QmpError("Specified size is not multiple of 512")
    return offset, real - offset if size is None else size


register(Raw, __name__)

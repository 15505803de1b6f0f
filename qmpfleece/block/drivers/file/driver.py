"""file and host_device: an image in a file of the host, or a block device.

A read that the page cache holds completes in place (RWF_NOWAIT), a buffered write is given
to io_uring if the system has it and ``aio`` is not ``threads``; everything else goes to worker
threads. A request is never cancelled half-way: a thread may be working on its memory.

Source: QAPI ``BlockdevOptionsFile``. Differs: ``aio`` is accepted as QEMU takes it, but only
``threads`` says how things are done.
"""

import errno
import os
import stat
from collections.abc import Awaitable
from functools import partial
from typing import Any, ClassVar

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError, QmpError, errno_of
from qmpfleece.base.fdsets import FdSets, close, is_in_a_set
from qmpfleece.base.files import pwrite_all
from qmpfleece.base.units import SECTOR, align_up
from qmpfleece.base.uring.writes import Ring
from qmpfleece.base.workers import WorkerQueue, Workers
from qmpfleece.block.driver import (
    BlockDriver,
    Extent,
    Io,
    Opener,
    Reopening,
    ReqFlags,
    register,
)
from qmpfleece.block.drivers.file.options import FileOptions
from qmpfleece.block.hostfile import allocation, extents, locks, mounts, transfer
from qmpfleece.block.hostfile.counters import Discards
from qmpfleece.block.hostfile.known_data import GRANULE, KnownData
from qmpfleece.block.perm import Perm
from qmpfleece.block.places import Places

_ANY_WRITE = Perm.WRITE | Perm.WRITE_UNCHANGED | Perm.RESIZE


class File(BlockDriver[FileOptions]):
    """A regular file."""

    driver_name = "file"

    is_protocol = True
    strong_options: ClassVar[tuple[str, ...]] = ("filename",)
    mutable_options: ClassVar[frozenset[str] | None] = frozenset(
        ("drop-cache", "x-check-cache-dropped")
    )
    write_flags = ReqFlags.FUA
    zero_flags = ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK

    _queue: WorkerQueue
    #: A lane of its own, so that queries are answered while requests hang.
    _queries: WorkerQueue
    #: For buffered writes.
    _workers: Workers
    _fdsets: FdSets
    _ring: Ring | None
    _fd = -1
    #: Holds the locks and nothing else: io_uring keeps files for a moment after the process
    #: has been killed, and who starts it again at once must not find them locked.
    _lock_fd = -1
    #: Opened for a permission that is being checked; takes the place of _fd when it is set.
    _next_fd = -1
    #: Whether it is writable, and bypasses the page cache.
    _next_mode = (False, False)
    _nowait = os.RWF_NOWAIT
    _flush_error = 0

    # -- opening ------------------------------------------------------------------------------

    async def open(self, opener: Opener) -> None:
        """Open the file; read-only if that is allowed and nothing else possible."""
        options, node = self.options, self.node
        if not options.filename:
            raise QmpError(f"The '{self.driver_name}' block driver requires a file name")
        if options.aio == "native" and not node.options.cache_direct:
            raise QmpError(
                "aio=native was specified, but it requires cache.direct=on, which was not"
                " specified."
            )
        if options.pr_manager is not None:
            raise QmpError(f"No persistent reservation manager with id '{options.pr_manager}'")
        self._queue = opener.workers.queue()
        self._known_data = KnownData()
        self._discards = Discards()
        self._queries = opener.workers.queue(limit=1)
        self._workers = opener.workers
        self._fdsets = opener.fdsets
        self._set_direct(direct=node.options.cache_direct)
        self._use_locks = options.locking != "off"
        self._held = (Perm.NONE, Perm.ALL)
        self._wanted = self._held
        try:
            await self._queue.submit(self._open)
            node.request_alignment, size = await self._queue.submit(self._probe)
        except BaseException as error:
            await self.close()
            if isinstance(error, OSError):
                raise QmpError(
                    f"Could not refresh total sector count: {error.strerror}"
                ) from error
            raise
        node.length = align_up(size, SECTOR)

    def _set_direct(self, *, direct: bool) -> None:
        """Choose the ways of requests: only the threads align their memory."""
        self._direct = direct
        self._read = transfer.read_direct if direct else transfer.read
        self._write = transfer.write_direct if direct else pwrite_all
        self._nowait = 0 if direct else os.RWF_NOWAIT
        buffered = not direct and self.options.aio != "threads"
        self._ring = self._workers.ring if buffered else None

    def _open(self) -> None:
        """Open the file as the options say; runs on a thread."""
        node, filename = self.node, self.options.filename
        # Under auto-read-only the file is writable only while somebody writes.
        writable = not node.options.read_only and not node.options.auto_read_only
        flags = _open_flags(writable=writable, direct=self._direct)
        try:
            self._fd = self._fdsets.open(filename, flags)
        except (OSError, ValueError) as error:
            raise QmpError(f"Could not open '{filename}': {_text(error)}") from error
        info = os.fstat(self._fd)
        self._check_type(info)
        kind = mounts.kind_of(self._fd)
        self._is_local = mounts.is_local(kind)
        # What a device has is not in the file system that its file lies in.
        self._tells_extents = stat.S_ISREG(info.st_mode) and mounts.tells_extents(kind)
        if self._use_locks:
            self._lock_fd = _open_again(self._fd)
        self._writable = writable

    def _check_type(self, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            raise QmpError(
                f"'{self.driver_name}' driver requires '{self.options.filename}' to be a regular"
                " file"
            )

    def _probe(self) -> tuple[int, int]:
        """Return the request alignment and the size in bytes; runs on a thread."""
        return self._alignment(), os.lseek(self._fd, 0, os.SEEK_END)

    def _alignment(self) -> int:
        return transfer.direct_alignment(self._fd) if self._direct else 1

    async def reopen_prepare(self, change: Reopening[FileOptions]) -> None:
        """Check the options; the file is opened anew with the permissions."""
        if self.options.drop_cache is not None and change.given.drop_cache is None:
            raise QmpError("Option 'drop-cache' cannot be reset to its default value")

    async def reopen_finish(self) -> None:
        """Find out what alignment the file wants now."""
        self.node.request_alignment = await self._queue.submit(self._alignment)

    async def close(self) -> None:
        """Close the file."""
        fds = [fd for fd in (self._fd, self._lock_fd) if fd >= 0]
        self._fd = self._lock_fd = -1
        for fd in fds:
            self._fdsets.forget_copy(fd)
        if fds:
            await self._queries.submit(close, *fds)  # after the queries in flight

    # -- requests -----------------------------------------------------------------------------

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read; what lies past the end of the file, in its last sector, is zero."""
        got = 0
        if self._nowait:
            try:
                got = os.preadv(self._fd, (buf,), offset, self._nowait)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._nowait = 0  # this file system can't say what is cached
        if got == len(buf):
            return DONE
        return self._queue.submit(self._read, self._fd, offset + got, buf[got:])

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Name the file, if the page cache may be asked."""
        if not self._nowait:
            return False
        places.runs.append((self._fd, offset, length))
        return True

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Write; under FUA it is stable on return."""
        if len(buf) >= GRANULE:
            self._known_data.written(offset, len(buf))
        if flags & ReqFlags.FUA and not self.node.options.cache_no_flush:
            return self._write_through(offset, buf)
        if self._ring is not None and not buf.readonly and buf:
            return self._ring.pwrite(self._fd, buf, offset)
        if self._direct:
            return self._queue.submit(self._write, self._fd, buf, offset, 0)
        return self._queue.submit_serial(self._write, self._fd, buf, offset, 0)

    async def _write_through(self, offset: int, buf: memoryview) -> None:
        """Write and flush; of a failed writeback the system tells here, and then no more."""
        try:
            await self._queue.submit(self._write, self._fd, buf, offset, os.RWF_DSYNC)
        except OSError as error:
            if not self._direct and error.errno == errno.EIO:
                self._flush_error = errno.EIO
            raise
        if self._flush_error:
            raise BlockError(self._flush_error)

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        """Deallocate, or convert to unwritten extents."""
        zero = partial(
            allocation.write_zeroes,
            unmap=bool(flags & ReqFlags.MAY_UNMAP),
            fast=bool(flags & ReqFlags.NO_FALLBACK),
        )
        call = self._queue.submit(zero, self._fd, offset, length)
        await self._making_holes(call, offset, length)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Deallocate."""
        call = self._queue.submit(allocation.discard, self._fd, offset, length)
        await self._making_holes(self._discards.count(length, call), offset, length)

    async def flush(self) -> None:
        """Call fdatasync. After a failed one the page cache is unreliable: later ones fail too."""
        if self._flush_error:
            raise BlockError(self._flush_error)
        try:
            await self._queue.submit(os.fdatasync, self._fd)
        except OSError as error:
            if not self._direct:
                self._flush_error = errno_of(error)
            raise

    async def truncate(self, length: int) -> int:
        """Cut or extend the file, sparsely."""
        call = self._queue.submit(os.ftruncate, self._fd, length)
        await self._making_holes(call, length)
        return length

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell whether all of the range has been found to be data, or been written."""
        return self._known_data.covers(offset, length)

    def is_past_end(self, offset: int) -> bool:
        """Ask the system, unless it may hang: another one may have made the file longer."""
        size = os.fstat(self._fd).st_size if self._is_local else self.node.length
        return offset >= size

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Return data and holes as the file system tells them."""
        if self.is_known_data(offset, length):
            return [Extent(length, extents.DATA, offset, self.node)]
        token = self._known_data.ask()
        find = partial(extents.find, mapped=self._tells_extents)
        runs = await self._queue.submit(find, self._fd, offset, length, limit)
        for start, flags, end in runs:
            if flags == extents.DATA and GRANULE <= end - start < extents.FAR - start:
                self._known_data.learn(token, start, end)
        start, flags, end = runs[-1]
        runs[-1] = (start, flags, min(end, offset + length))
        return [Extent(end - start, flags, start, self.node) for start, flags, end in runs]

    async def allocated_size(self) -> int | None:
        """Return what the file occupies; None when it has just been closed."""
        if self._fd < 0:
            return None
        if self._is_local:
            return os.fstat(self._fd).st_blocks * 512
        return (await self._queries.submit(os.fstat, self._fd)).st_blocks * 512

    def statistics(self) -> dict[str, Any]:
        """How discards have ended."""
        return self._discards.to_wire()

    def exact_filename(self) -> str:
        """The path."""
        return self.options.filename

    async def _making_holes(
        self, call: Awaitable[None], offset: int, length: int | None = None
    ) -> None:
        self._known_data.forget(offset, length)
        try:
            await call
        finally:
            self._known_data.forget(offset, length)

    # -- permissions --------------------------------------------------------------------------

    def check_perm(self, perm: Perm, shared: Perm) -> None:
        """Take the lock bytes in addition to those held; open for writing if need be."""
        self._wanted = (perm, shared)
        if self._fd < 0:
            return
        try:
            self._reopen(writes=bool(perm & _ANY_WRITE))
            if self._use_locks and self._wanted != self._held:
                held, held_shared = self._held
                locks.apply(self._lock_fd, held | perm, held_shared & shared, drop=False)
                # What is held already cannot be in conflict, so giving back never fails.
                locks.check(self._lock_fd, perm & ~held, shared | ~held_shared)
        except QmpError:
            self.abort_perm()
            raise

    def set_perm(self) -> None:
        """Give back the lock bytes that are no longer needed."""
        if self._fd < 0:
            return
        if self._next_fd >= 0:
            # Requests in flight may still use either: it is the same file, and none of them
            # writes when it becomes read-only.
            os.dup2(self._next_fd, self._fd, inheritable=False)
            self._close_next()
            self._writable, direct = self._next_mode
            if direct != self._direct:
                self._set_direct(direct=direct)
        if self._use_locks and self._wanted != self._held:
            locks.apply(self._lock_fd, *self._wanted, drop=True)
        self._held = self._wanted

    def abort_perm(self) -> None:
        """Give back the lock bytes that ``check_perm`` took."""
        self._close_next()
        if self._fd >= 0 and self._use_locks:
            locks.apply(self._lock_fd, *self._held, drop=True)

    def _reopen(self, *, writes: bool) -> None:
        """Open the file anew if the options, or who uses it, want it otherwise."""
        options = self.node.options
        writable = not options.read_only and (writes or not options.auto_read_only)
        direct = options.cache_direct
        self._next_mode = (writable, direct)
        if self._next_mode == (self._writable, self._direct):
            return
        flags = _open_flags(writable=writable, direct=direct)
        try:
            filename = self.options.filename
            again = filename if is_in_a_set(filename) else f"/proc/self/fd/{self._fd}"
            self._next_fd = self._fdsets.open(again, flags)
        except OSError as error:
            if not writable and direct == self._direct:
                return  # it stays open for writing, which does no harm
            raise QmpError(
                f"Could not open '{self.options.filename}': {error.strerror}"
            ) from error

    def _close_next(self) -> None:
        if self._next_fd >= 0:
            self._fdsets.close_copy(self._next_fd)
            self._next_fd = -1


def _open_flags(*, writable: bool, direct: bool) -> int:
    flags = os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY)
    return flags | os.O_DIRECT if direct else flags


def _open_again(fd: int) -> int:
    """Return a descriptor of its own, for reading, of an open file."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)


def _text(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class HostDevice(File):
    """A block or character device of the host."""

    driver_name = "host_device"

    def _check_type(self, info: os.stat_result) -> None:
        if not (stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode)):
            raise QmpError(
                f"'{self.driver_name}' driver requires '{self.options.filename}' to be either a"
                " character or block device"
            )

    async def truncate(self, length: int) -> int:
        """Take note of how far the device has grown. It does not become shorter.

        Raises:
            OSError: ENOTSUP: it has not grown as far as that.
        """
        if length <= self.node.length:
            return self.node.length
        size = await self._queue.submit(os.lseek, self._fd, 0, os.SEEK_END)
        if length > size:
            raise BlockError(errno.ENOTSUP, "Cannot grow device files")
        return size

    def is_past_end(self, offset: int) -> bool:
        """Nobody knows what a device has where it is made longer."""
        return False


register(File, __name__)
register(HostDevice, __name__)

"""The file that a pull writes: sparse, stable on disk at the end, complete or not there.

A regular file is written under the name ``FILE.part`` and renamed when all of it is on disk.
So FILE is what it was before, or the whole new content, at every moment. What can't be
renamed over (a block device, ``/dev/null``), and a file that is to be updated, is written in
place. ``FILE.part`` is locked while it is written, so that what another pull writes is not taken
for the rest of one that was killed.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from qmpfleece.base.errors import BlockError
from qmpfleece.base.files import NO_LOCKS, pwrite_all
from qmpfleece.base.units import KIB, MIB
from qmpfleece.base.workers import Workers

#: Runs of zeroes are left out of the file in pieces of this many bytes.
GRAIN: Final = 64 * KIB
_THREADS: Final = 4
_ZEROES: Final = bytes(GRAIN)
_PROBE: Final = 64


class SparseFile:
    """A file of known size that is filled by writes in any order.

    Args:
        path: Its name in the end.
        size: In bytes.
        update: Write into the existing file, which must have this size.

    Attributes:
        update: What is neither written nor zeroed stays what it was.
        complete: The file has its name and all of its content.

    Raises:
        OSError: It can't be made, is being made by another pull, or is not what is to be
            updated.
    """

    def __init__(self, path: Path, size: int, *, update: bool = False) -> None:
        # A link is followed, not replaced. Path.resolve would not survive one to itself.
        path = Path(os.path.realpath(path))
        self.path: Final = path
        self.size: Final = size
        self.update: Final = update
        self.complete = False
        self._fresh = not update and _renamable(path)
        self.name: Final = path.with_name(f"{path.name}.part") if self._fresh else path
        self._fd = self._open()
        self._workers = Workers()
        self._queue = self._workers.queue(_THREADS)
        try:
            self._check_size()
        except BaseException:
            self.discard()
            raise

    @property
    def in_place(self) -> bool:
        """Tell whether a failure leaves the file partly written."""
        return not self._fresh

    def _open(self) -> int:
        if not self._fresh:
            return os.open(self.name, os.O_RDWR | os.O_CLOEXEC)
        self._remove_rest()
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
        fd = os.open(self.name, flags, 0o600 if self.path.exists() else 0o644)
        try:
            self._lock(fd)
            _copy_access(self.path, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _remove_rest(self) -> None:
        """Remove what a pull that was killed has left.

        Raises:
            OSError: The pull still runs, or it can't be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.name.is_symlink():
                self.name.unlink()
                return
            try:
                fd = os.open(self.name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except PermissionError:  # should a pull write it, that sees it gone when it is done
                self.name.unlink()
                return
            try:
                self._lock(fd)
                self.name.unlink()
            finally:
                os.close(fd)

    def _lock(self, fd: int) -> None:
        """Lock the file until it is closed, where the file system has locks.

        Raises:
            OSError: Another pull has locked it, or had, and it has lost its name since.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {*NO_LOCKS, errno.EWOULDBLOCK}:
                raise
            taken = error.errno == errno.EWOULDBLOCK
        else:
            taken = not self._is_name_of(fd)
        if taken:
            raise BlockError(errno.EBUSY, f"another pull is writing '{self.name}'")

    def _is_name_of(self, fd: int) -> bool:
        """Tell whether the file still has the name under which it was opened."""
        try:
            return os.path.samestat(os.lstat(self.name), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _check_size(self) -> None:
        if self._fresh:
            os.ftruncate(self._fd, self.size)
            return
        if stat.S_ISCHR(os.fstat(self._fd).st_mode):
            return
        length = os.lseek(self._fd, 0, os.SEEK_END)
        block = stat.S_ISBLK(os.fstat(self._fd).st_mode)
        if length < self.size if block else length != self.size:
            raise BlockError(
                errno.EINVAL, f"it has {length} bytes, the export has {self.size} bytes"
            )

    async def write(self, offset: int, data: memoryview) -> None:
        """Write ``data``, leaving out zeroes where the file has none but zeroes yet.

        ``data`` must not be changed before this returns.
        """
        if not self._fresh:
            await self._queue.submit(pwrite_all, self._fd, data, offset)
            return
        for low, high in _runs(data):
            await self._queue.submit(pwrite_all, self._fd, data[low:high], offset + low)

    async def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes."""
        if not self._fresh:
            await self._queue.submit(self._zero, offset, length)

    async def sync(self) -> None:
        """Bring everything to the disk.

        Raises:
            OSError: It may not be there.
        """
        await self._queue.submit(self._sync)

    async def finish(self) -> None:
        """Bring everything to the disk and give the file its name.

        Raises:
            OSError: It may not be on disk. Unless it is ``complete``, it has not its name.
        """
        await self.sync()
        if self._fresh:
            await self._queue.submit(self._rename)
        self.complete = True
        self._close()

    async def sha256(self) -> str:
        """Return the SHA-256 of the content, read back from the file, in hexadecimal."""
        digest = hashlib.sha256()
        buf = bytearray(MIB)
        for offset in range(0, self.size, MIB):
            part = memoryview(buf)[: min(MIB, self.size - offset)]
            await self._queue.submit(self._hash, digest, offset, part)
        return digest.hexdigest()

    def discard(self) -> None:
        """Give up: close the file, and remove it if it was to be renamed. May be repeated."""
        if self._fd < 0:
            return
        self._workers.close()
        with contextlib.suppress(OSError):
            if self._fresh and not self.complete and self._is_name_of(self._fd):
                self.name.unlink()
        self._close()

    def _close(self) -> None:
        self._workers.close()
        fd, self._fd = self._fd, -1
        os.close(fd)

    # -- on worker threads ------------------------------------------------------------------

    def _zero(self, offset: int, length: int) -> None:
        zeroes = memoryview(bytes(min(length, MIB)))
        while length:
            part = min(length, MIB)
            pwrite_all(self._fd, zeroes[:part], offset)
            offset += part
            length -= part

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a character device has nothing to sync
                raise

    def _rename(self) -> None:
        if not self._is_name_of(self._fd):
            raise BlockError(errno.ESTALE, f"'{self.name}' has been removed or replaced")
        self.name.replace(self.path)
        self.complete = True
        try:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:  # one may make files in it, but not list it
            os.fsync(self._fd)  # journals keep the order, so the new name comes along
            return
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some have nothing to sync
                raise
        finally:
            os.close(directory)

    def _hash(self, digest: "hashlib._Hash", offset: int, buf: memoryview) -> None:
        while len(buf):
            done = os.preadv(self._fd, [buf], offset)
            if not done:
                raise BlockError(errno.EIO, "the file has become shorter")
            digest.update(buf[:done])
            buf = buf[done:]
            offset += done


def _renamable(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return stat.S_ISREG(mode)


def _copy_access(path: Path, fd: int) -> None:
    """Let a new file be for those whose the one is that it replaces, as far as we may."""
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    with contextlib.suppress(OSError):
        os.fchown(fd, old.st_uid, old.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)


def _runs(data: memoryview) -> list[tuple[int, int]]:
    """Return the ranges of ``data`` that hold more than zeroes, joined, in whole grains."""
    runs: list[tuple[int, int]] = []
    for low in range(0, len(data), GRAIN):
        high = min(low + GRAIN, len(data))
        # The first bytes decide nearly always; only then is a grain worth a copy.
        if bytes(data[low : low + _PROBE]) == _ZEROES[: min(_PROBE, high - low)] and (
            bytes(data[low:high]) == _ZEROES[: high - low]
        ):
            continue
        if runs and runs[-1][1] == low:
            runs[-1] = (runs[-1][0], high)
        else:
            runs.append((low, high))
    return runs

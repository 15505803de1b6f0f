"""snapshot-access: the disk as its child remembers it, for the backup client to read.

It has no data and no state: every request goes to the ``SnapshotSource`` of the child's driver.
Writing is impossible.

Source: QAPI ``BlockdevOptionsGenericFormat`` of the driver ``snapshot-access``.
"""

import errno
from collections.abc import Coroutine
from typing import Any

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import BlockError
from qmpfleece.block.child import Child
from qmpfleece.block.driver import BlockDriver, Extent, Io, Opener, fail, register
from qmpfleece.block.drivers.snapshot_access.options import SnapshotAccessOptions
from qmpfleece.block.perm import Perm, Role
from qmpfleece.block.places import Places


class SnapshotAccess(BlockDriver[SnapshotAccessOptions]):
    """Reads and discards a snapshot."""

    driver_name = "snapshot-access"

    _file: Child

    async def open(self, opener: Opener) -> None:
        """Take the size of the child; whether it has a snapshot shows when it is read."""
        self._file = await opener.open_child("file", self.options.file, Role.DATA | Role.PRIMARY)
        self.node.length = self._file.node.length

    def child_perms(self, child: str, role: Role, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
        """Need nothing: requests don't go through the child's door."""
        return Perm.NONE, Perm.ALL

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read the snapshot of the child, which may be replaced."""
        source = self._file.node.driver.snapshot_source
        return source.pread(offset, buf) if source is not None else fail(errno.ENOTSUP)

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Ask the snapshot."""
        source = self._file.node.driver.snapshot_source
        return source is not None and source.locate(offset, length, places)

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Fail: a snapshot does not change."""
        return fail(errno.ENOTSUP)

    def pdiscard(self, offset: int, length: int) -> Io:
        """Give up this part of the snapshot."""
        source = self._file.node.driver.snapshot_source
        return source.pdiscard(offset, length) if source is not None else fail(errno.ENOTSUP)

    def flush(self) -> Io:
        """Make discards final; without any the door does not come here."""
        source = self._file.node.driver.snapshot_source
        return source.flush() if source is not None else DONE

    def block_status(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return the block status of the snapshot."""
        source = self._file.node.driver.snapshot_source
        return source.block_status(offset, length, limit) if source is not None else _no_status()

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell what is known of the snapshot."""
        source = self._file.node.driver.snapshot_source
        return source is not None and source.is_known_data(offset, length)

    def exact_filename(self) -> str:
        """The child's, as QEMU says."""
        return self._file.node.exact_filename


async def _no_status() -> list[Extent]:
    raise BlockError(errno.ENOTSUP)


register(SnapshotAccess, __name__)

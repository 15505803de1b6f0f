"""What a driver may be able to do besides; whoever needs it asks, mostly with ``isinstance``."""

from collections.abc import Coroutine
from typing import Any, Protocol, runtime_checkable

from qmpfleece.block.driver import Extent, Io
from qmpfleece.block.places import Places


class SnapshotSource(Protocol):
    """What shows a node as it was at one moment: ``BlockDriver.snapshot_source``."""

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read the snapshot; EACCES where it may not or can no longer be read."""
        ...

    def locate(self, offset: int, length: int, places: Places) -> bool:
        """Say where the data of the snapshot lies; see ``BlockDriver.locate``."""
        ...

    def pdiscard(self, offset: int, length: int) -> Io:
        """Give up this part of the snapshot."""
        ...

    def flush(self) -> Io:
        """Make what was given up free for good."""
        ...

    def block_status(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return the block status of the snapshot; see ``BlockDriver.block_status``."""
        ...

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell, without looking, whether all of the range can be read and is data."""
        ...


@runtime_checkable
class PersistentBitmaps(Protocol):
    """A driver whose image keeps the persistent bitmaps of its node.

    They are loaded when it is opened and stored when it is closed; in between they are
    ordinary bitmaps of the node.
    """

    def bitmap_refusal(self, name: str, granularity: int) -> str | None:
        """Return why the image can't store a new bitmap, None if it can."""
        ...

    def remove_persistent_bitmap(self, name: str) -> Io:
        """Remove a bitmap from the image, if it is stored there.

        Raises:
            QmpError: The image can't be changed.
        """
        ...


@runtime_checkable
class InternalSnapshots(Protocol):
    """A driver whose image can keep the disk as it was; its node is drained meanwhile."""

    def internal_snapshots(self) -> list[dict[str, Any]]:
        """Return ``SnapshotInfo`` of all, as it is on the wire.

        Raises:
            OSError: ENOTSUP: this image can't have any.
        """
        ...

    async def take_snapshot(self, name: str, date_ns: int, clock_ns: int) -> str:
        """Keep the disk as it is now, and return the id.

        Raises:
            OSError: It can't be done; nothing has changed.
        """
        ...

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot.

        Raises:
            OSError: ENOENT: there is none; EPERM: the image is read-only.
        """
        ...

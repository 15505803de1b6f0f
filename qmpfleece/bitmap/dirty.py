"""Dirty bitmaps: which parts of a node have been written since some moment.

A bitmap belongs to a node, which keeps it in its list and calls ``mark`` for every write.
A job that works on a bitmap gives it a successor, which records meanwhile::

    create_successor()         parent: busy, not recording; successor: recording
      abdicate()  on success:  the successor takes over name and persistence
      reclaim()   on failure:  the successor is merged back into its parent

The successor is an unnamed bitmap of the same node: its creator puts it into the node's list
(in front, as QEMU does) and takes out what ``abdicate`` or ``reclaim`` leaves over.
"""

from collections.abc import Iterable
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.bits import MAX_GRANULES, GranularBits

#: Bytes of a name at most. Source: QEMU, BDRV_BITMAP_MAX_NAME_SIZE.
MAX_NAME_SIZE: Final = 1023


class DirtyBitmap:
    """A dirty bitmap and its flags.

    Args:
        length: Bytes of the node.
        granularity: Bytes of a granule, a power of two.
        name: None for bitmaps that drivers and jobs use themselves.
        enabled: Whether writes are recorded.
        persistent: Whether the image keeps the bitmap when it is closed.

    Raises:
        QmpError: It would be too large for memory. Differs: QEMU aborts.
    """

    __slots__ = (
        "bits",
        "busy",
        "enabled",
        "inconsistent",
        "name",
        "persistent",
        "readonly",
        "successor",
    )

    def __init__(
        self,
        length: int,
        granularity: int,
        name: str | None = None,
        *,
        enabled: bool = True,
        persistent: bool = False,
    ) -> None:
        if -(-length // granularity) > MAX_GRANULES:
            raise QmpError(
                f"Cannot keep a bitmap of {length} bytes with granularity {granularity}: "
                "it would be too large"
            )
        self.bits = GranularBits(length, granularity)
        self.name = name
        self.enabled = enabled
        #: In use by a job or an export: commands must leave it alone.
        self.busy = False
        self.persistent = persistent
        #: The image is read-only, so the bitmap must not change.
        self.readonly = False
        #: The image was not closed properly: only removal is allowed.
        self.inconsistent = False
        self.successor: DirtyBitmap | None = None

    def __repr__(self) -> str:
        return f"<DirtyBitmap {self.name!r} {self.bits!r}>"

    @property
    def granularity(self) -> int:
        """Bytes of a granule."""
        return self.bits.granularity

    @property
    def count(self) -> int:
        """Bytes marked dirty, in whole granules."""
        return self.bits.count

    @property
    def recording(self) -> bool:
        """Whether writes leave a trace here or in the successor: ``recording`` of QMP."""
        return self.enabled or (self.successor is not None and self.successor.enabled)

    def mark(self, offset: int, length: int) -> None:
        """Record a write of the range, if the bitmap itself is enabled."""
        if self.enabled:
            assert not self.readonly
            self.bits.set(offset, length)

    # -- what commands may do

    def check(self, *, allow_readonly: bool = False, allow_inconsistent: bool = False) -> None:
        """Refuse a command on a bitmap that must be left alone.

        Raises:
            QmpError: The bitmap is busy, read-only or inconsistent.
        """
        if self.busy:
            raise QmpError(
                f"Bitmap '{self.name}' is currently in use by another operation and cannot be used"
            )
        if self.readonly and not allow_readonly:
            raise QmpError(f"Bitmap '{self.name}' is readonly and cannot be modified")
        if self.inconsistent and not allow_inconsistent:
            raise QmpError(f"Bitmap '{self.name}' is inconsistent and cannot be used")

    def clear(self) -> GranularBits:
        """Make everything clean.

        Returns:
            What was dirty before, for ``restore``.
        """
        assert not self.readonly
        backup = self.bits
        self.bits = GranularBits(backup.length, self.granularity)
        return backup

    def restore(self, backup: GranularBits) -> None:
        """Undo what was cleared, merged or recorded since the backup was made."""
        backup.resize(self.bits.length)  # the node may have grown since
        self.bits = backup

    def check_source(self, source: "DirtyBitmap") -> None:
        """Refuse to merge ``source`` into this one.

        Raises:
            QmpError: The bitmaps are of nodes of different size.
        """
        if source.bits.length != self.bits.length:
            raise QmpError(
                f"Bitmaps are of different sizes (destination size is {self.bits.length}, "
                f"source size is {source.bits.length}) and can't be merged"
            )

    def merge(self, source: "DirtyBitmap") -> None:
        """Add all that is dirty in ``source``; the granularities may differ.

        Raises:
            QmpError: The bitmaps are of nodes of different size.
        """
        assert not self.readonly
        self.check_source(source)
        self.bits.merge(source.bits)

    def backup(self) -> GranularBits:
        """Return what is dirty, for ``restore``."""
        return self.bits.copy()

    # -- successors

    def create_successor(self) -> "DirtyBitmap":
        """Freeze the bitmap and hand recording to a new unnamed one, which is returned.

        Raises:
            QmpError: The bitmap is busy.
        """
        if self.busy:
            raise QmpError("Cannot create a successor for a bitmap that is in-use by an operation")
        assert self.successor is None
        self.successor = DirtyBitmap(self.bits.length, self.granularity, enabled=self.enabled)
        self.enabled = False
        self.busy = True
        return self.successor

    def abdicate(self) -> "DirtyBitmap":
        """Give name and persistence to the successor, which is returned.

        The caller drops this bitmap from its node.
        """
        assert self.successor is not None
        heir, self.successor = self.successor, None
        heir.name, self.name = self.name, None
        heir.persistent, self.persistent = self.persistent, False
        self.busy = False
        return heir

    def reclaim(self) -> "DirtyBitmap":
        """Take back what the successor recorded, and carry on recording if it did.

        Returns:
            The successor, which the caller drops from its node.
        """
        assert self.successor is not None
        child, self.successor = self.successor, None
        self.bits.merge(child.bits)
        self.enabled = child.enabled
        self.busy = False
        return child


def find_bitmap(bitmaps: Iterable[DirtyBitmap], name: str) -> DirtyBitmap:
    """Return the bitmap of that name.

    Raises:
        QmpError: There is none.
    """
    for bitmap in bitmaps:
        if bitmap.name == name:
            return bitmap
    raise QmpError(f"Dirty bitmap '{name}' not found")

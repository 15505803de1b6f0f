"""Writes the header, and remembers which one the file may have when that failed."""

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Any, Final

from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2.layout import Incompatible

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

_FIELDS_AT: Final = 24
_INCOMPATIBLE_AT: Final = 72


class _Failures:
    """How often a header may have come into the file that is not ours, and what of that is mended.

    While one is mended another may come about: it stays.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mended = 0

    @property
    def open(self) -> bool:
        """Whether not all of them are mended."""
        return self._mended < self.count

    def mended(self, count: int) -> bool:
        """Say that the first ``count`` of them are mended; return whether all are now."""
        self._mended = max(count, self._mended)
        return not self.open


class HeaderWriter:
    """Brings ``Image.header`` to the file.

    Whoever writes to the header takes turns, and writes what it says by then: so what is written
    last is the newest.
    """

    def __init__(self, image: "Image") -> None:
        self._image = image
        self._turn = asyncio.Lock()
        self._failures = _Failures()
        #: Whether one of the failures was more than ``write_fields`` writes.
        self._whole_due = False
        #: Failures after which the image is used as before all the same.
        self._doubts = _Failures()
        #: Clusters that a header may name until these are mended.
        self._withheld: list[tuple[int, int]] = []

    async def write(self) -> None:
        """Write the header, its extensions and the name of the backing file.

        Raises:
            OSError: ENOSPC: they do not fit into the first cluster.
        """
        image = self._image
        async with self._turn:
            encoded = image.header.encode()
            padded = encoded + bytes(image.geometry.cluster_size - len(encoded))
            await pipeline.pwrite(image.file, 0, memoryview(padded))

    async def write_for_good(self) -> None:
        """Write what ``write`` does; on return it is on disk.

        Raises:
            OSError: That failed. It is tried again before any metadata is written.
        """
        try:
            await self.write()
            await pipeline.flush(self._image.file)
        except BaseException:
            self._failures.count += 1
            self._whole_due = True
            raise

    async def write_fields(self) -> None:
        """Write the fixed fields only, which change more often than the rest."""
        async with self._turn:
            header = self._image.header
            fields = struct.pack(
                ">QIIQQIIQ",
                header.size,
                header.crypt_method,
                header.l1_size,
                header.l1_offset,
                header.refcount_table_offset,
                header.refcount_table_clusters,
                header.snapshots,
                header.snapshots_offset,
            )
            await pipeline.pwrite(self._image.file, _FIELDS_AT, memoryview(fields))

    async def write_features(self) -> None:
        """Write the feature bits."""
        header = self._image.header
        if header.version < 3:
            return
        async with self._turn:
            bits = struct.pack(">QQQ", header.incompatible, header.compatible, header.autoclear)
            await pipeline.pwrite(self._image.file, _INCOMPATIBLE_AT, memoryview(bits))

    async def change(self, *, whole: bool = False, trusting: bool = False, **fields: Any) -> None:
        """Change fields of the header: on return they are on disk for good.

        Args:
            whole: They are not all among those of ``write_fields``.
            trusting: Use an image whose header can't be written as before; what the new one
                names is freed by ``free_unless_named`` then.
            fields: The new values, by name.

        Raises:
            OSError: They could not be written. The header stays what it was; where that can't
                be written again, no metadata is before it can, and no clusters are given back,
                unless it is to be trusted.
        """
        before = {name: getattr(self._image.header, name) for name in fields}
        old = await self._first_cluster() if trusting else None
        self._set(fields)
        unsure = not trusting
        try:
            await (self.write() if whole else self.write_fields())
            unsure = True
            await pipeline.flush(self._image.file)
        except BaseException:
            self._set(before)
            if unsure:
                self._failures.count += 1
                self._whole_due |= whole
                with contextlib.suppress(OSError):
                    await self.write_due()
            else:
                await self._doubt(old)
            raise

    def _set(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self._image.header, name, value)

    @property
    def due(self) -> bool:
        """Whether the file may have another header, since writing one has failed."""
        return self._doubts.open or self._failures.open

    async def write_due(self) -> None:
        """Write the header once more if the file may have another one."""
        await self._settle_doubts()
        count = self._failures.count
        if self._failures.open:
            await (self.write() if self._whole_due else self.write_fields())
            await pipeline.flush(self._image.file)
            self._failures.mended(count)

    async def _doubt(self, old: bytes | None) -> None:
        """Count a doubt, and see whether the first cluster is what it was before."""
        doubts = self._doubts
        known = not doubts.open
        doubts.count += 1
        count = doubts.count
        await self._settle_doubts()
        if known and old is not None and await self._first_cluster() == old:
            doubts.mended(count)

    async def _settle_doubts(self) -> None:
        doubts = self._doubts
        if not doubts.open:
            return
        count = doubts.count
        with contextlib.suppress(OSError):
            await self.write()
            await pipeline.flush(self._image.file)
            if doubts.mended(count):
                withheld, self._withheld = self._withheld, []
                for first, clusters in withheld:
                    self._free(first, clusters)

    async def _first_cluster(self) -> bytes | None:
        """Return what lies there; None if that can't be read, which is no reason not to write."""
        raw = bytearray(self._image.geometry.cluster_size)
        try:
            await self._image.read(0, memoryview(raw))
        except OSError:
            return None
        return bytes(raw)

    def free_unless_named(self, first: int, clusters: int) -> None:
        """Free clusters that no header names, or one that has not been written over yet."""
        if self._doubts.open:
            self._withheld.append((first, clusters))
        else:
            self._free(first, clusters)

    def _free(self, first: int, clusters: int) -> None:
        self._image.journal.free(first, clusters, discard=self._image.discard_other)

    async def set_dirty_bit(self) -> None:
        """Say in the header that refcounts may be too low from now on.

        Raises:
            OSError: It does not say so for sure.
        """
        header = self._image.header
        if header.incompatible & Incompatible.DIRTY:
            return
        header.incompatible |= Incompatible.DIRTY
        try:
            await self.write_features()
            await pipeline.flush(self._image.file)
        except BaseException:
            header.incompatible &= ~Incompatible.DIRTY
            raise

    async def clear_dirty_bit(self) -> None:
        """Say in the header that the refcounts written are right, unless they may not be.

        Raises:
            OSError: It may not say so.
        """
        image = self._image
        due = image.uncounted or image.outdated
        if image.header.incompatible & Incompatible.DIRTY and not due:
            await pipeline.flush(image.file)
            image.header.incompatible &= ~Incompatible.DIRTY
            await self.write_features()

"""Persistent dirty bitmaps: loaded when the image is opened, stored when it is closed.

While the image is open for writing the directory says "in use" of every bitmap, so that after
a crash nobody trusts them. What is loaded is an ordinary bitmap of the node.
"""

import asyncio
import contextlib
import errno
from array import array
from typing import TYPE_CHECKING, Final

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.units import MIB
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import pipeline
from qmpfleece.block.drivers.qcow2 import bitmapdir, extensions, overlap
from qmpfleece.block.drivers.qcow2.bitmapdir import AUTO, IN_USE, Entry
from qmpfleece.block.drivers.qcow2.extensions import BitmapsExtension, bitmaps_extension
from qmpfleece.block.drivers.qcow2.layout import OFFSET_MASK, Autoclear
from qmpfleece.block.drivers.qcow2.tables import WORD64

if TYPE_CHECKING:
    from qmpfleece.block.drivers.qcow2.image import Image

_ALL_ONES: Final = 1
#: Bytes of a bitmap that are stored, or loaded, at a stretch.
_PIECE: Final = MIB
_RESERVED: Final = ~(OFFSET_MASK | _ALL_ONES) & ((1 << 64) - 1)


class Bitmaps:
    """The persistent bitmaps of an image.

    Attributes:
        entries: The directory as it is on disk.
    """

    def __init__(self, image: "Image") -> None:
        self._image = image
        self._offset = 0
        self._size = 0
        #: What ``load`` has found and ``claim`` has not taken yet.
        self._loaded: dict[str, DirtyBitmap] = {}
        self.entries: list[Entry] = []

    @property
    def directory(self) -> tuple[int, int]:
        """Where the directory lies, and its bytes: 0 if there is none."""
        return self._offset, self._size

    # -- loading --------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the directory and the bitmaps; nothing is changed.

        Raises:
            QmpError: The directory or a bitmap is damaged.
        """
        image = self._image
        raw = image.header.extension(extensions.BITMAPS)
        if raw is not None and image.header.autoclear & Autoclear.BITMAPS:
            await self._read_directory(bitmaps_extension(raw))
            for entry in self.entries:
                if entry.name not in self._loaded:
                    self._loaded[entry.name] = await self._load_one(entry)
                elif not entry.flags & IN_USE:  # else it stays in the directory, as in QEMU
                    raise QmpError(f"Bitmap already exists: {entry.name}")

    async def claim(self) -> None:
        """Give the node its bitmaps, marked in use if the image is writable.

        Raises:
            QmpError: That can't be written.
        """
        image = self._image
        if image.writable:
            try:
                await self._mark_in_use()
            except OSError as error:
                raise QmpError(f"Can't update bitmap directory: {error.strerror}") from error
        loaded, self._loaded = self._loaded, {}
        image.node.bitmaps[:0] = reversed(loaded.values())
        self._set_readonly(value=not image.writable)

    async def reclaim(self) -> None:
        """Mark the bitmaps in use again, since the image can be written again.

        Raises:
            OSError: That can't be written; they stay read-only.
        """
        await self._mark_in_use()
        self._set_readonly(value=False)

    async def _mark_in_use(self) -> None:
        flags = [entry.flags for entry in self.entries]
        if all(value & IN_USE for value in flags):
            return
        for entry in self.entries:
            entry.flags |= IN_USE
        try:
            await self._write_in_place()
        except OSError:
            for entry, before in zip(self.entries, flags, strict=True):
                entry.flags = before
            raise

    def _set_readonly(self, *, value: bool) -> None:
        """Let the bitmaps change, or not; while they must not, nobody may write to the node."""
        node = self._image.node
        stored = [bitmap for bitmap in node.bitmaps if bitmap.persistent]
        for bitmap in stored:
            bitmap.readonly = value
        node.readonly_bitmaps = value and bool(stored)

    async def _read_directory(self, extension: BitmapsExtension) -> None:
        image = self._image
        data = bytearray(extension.size)
        try:
            await image.read(extension.offset, memoryview(data))
        except OSError as error:
            raise QmpError("Failed to read bitmap directory") from error
        self.entries = bitmapdir.parse(
            bytes(data),
            extension.bitmaps,
            cluster_size=image.geometry.cluster_size,
            disk_size=image.node.length,
        )
        self._offset, self._size = extension.offset, extension.size
        self.protect()

    def protect(self) -> None:
        """Record where the directory lies."""
        self._image.overlap.add(overlap.BITMAPS, self._offset, self._size)

    async def _load_one(self, entry: Entry) -> DirtyBitmap:
        image = self._image
        bitmap = DirtyBitmap(
            image.node.length, 1 << entry.granularity_bits, entry.name, persistent=True
        )
        bitmap.enabled = bool(entry.flags & AUTO)
        if entry.flags & IN_USE:
            bitmap.inconsistent = True
            bitmap.enabled = False
            return bitmap
        cluster, size = image.geometry.cluster_size, bitmap.bits.serialised_size
        try:
            table = await self._read_table(entry)
        except OSError as error:
            raise QmpError(
                f"Could not read bitmap_table table from image for bitmap '{entry.name}':"
                f" {error.strerror}"
            ) from error
        try:
            for index, first in enumerate(range(0, size, cluster)):
                if not first % _PIECE:
                    await asyncio.sleep(0)  # others have their turn
                word, part = table[index], bytearray(min(cluster, size - first))
                if word & OFFSET_MASK:
                    await image.read(word & OFFSET_MASK, memoryview(part))
                elif word & _ALL_ONES:
                    part = bytearray(b"\xff") * len(part)
                else:
                    continue
                bitmap.bits.deserialise(part, first)
        except (OSError, IndexError) as error:
            raise QmpError(f"Could not read bitmap '{entry.name}' from image") from error
        return bitmap

    async def _read_table(self, entry: Entry) -> "array[int]":
        """Return the table of a bitmap; EINVAL if it is damaged."""
        image = self._image
        raw = bytearray(entry.table_size * 8)
        await image.read(entry.table_offset, memoryview(raw))
        table = WORD64.decode(raw)
        cluster = image.geometry.cluster_size
        for word in table:
            offset = word & OFFSET_MASK
            if word & _RESERVED or offset % cluster or (offset and word & _ALL_ONES):
                raise BlockError(errno.EINVAL)
        return table

    # -- storing --------------------------------------------------------------------------

    def _to_store(self) -> list[DirtyBitmap]:
        return [
            bitmap
            for bitmap in self._image.node.bitmaps
            if bitmap.name is not None
            and bitmap.persistent
            and not bitmap.inconsistent
            and not bitmap.readonly
        ]

    async def store(self, *, release: bool = True) -> None:
        """Write the persistent bitmaps and take them from the node. No request is in flight.

        Without ``release`` the node keeps them, read-only from now on.

        Nothing is stored in an image that was not opened to the end: its node has no bitmaps.

        Raises:
            QmpError: One can't be stored, or has to be kept while a job works on it.
            OSError: The file can't be written.
        """
        image = self._image
        stored = self._to_store()
        if stored and not image.writable:
            raise QmpError("No write access")
        if not release:
            for bitmap in stored:
                # Differs: QEMU stores what it was when the job began, as if it were valid.
                if bitmap.successor is not None:
                    bitmap.check()
        if stored:
            await self._store_all({bitmap.name or "": bitmap for bitmap in stored})
        if not release:
            self._set_readonly(value=True)
            return
        image.node.bitmaps[:] = [item for item in image.node.bitmaps if not item.persistent]

    async def _store_all(self, bitmaps: dict[str, DirtyBitmap]) -> None:
        """Write bitmaps, by their names, and a directory in which they replace older ones."""
        image = self._image
        entries = list(self.entries)
        places: dict[str, int] = {}
        for place, entry in enumerate(entries):
            places.setdefault(entry.name, place)
        for name, bitmap in bitmaps.items():
            reason = bitmapdir.constraint(
                name, bitmap.granularity, image.node.length, image.geometry.cluster_size
            )
            if reason is not None:
                raise QmpError(f"Bitmap '{name}' doesn't satisfy the constraints: {reason}")
            if name in places and not entries[places[name]].flags & IN_USE:
                raise QmpError(f"Bitmap '{name}' already exists in the image")
        taken: list[tuple[int, int]] = []
        replaced: list[tuple[int, int]] = []
        for name in dict.fromkeys([*places, *bitmaps]):
            if name not in bitmaps:
                continue
            try:
                stored = await self._store_one(bitmaps[name], taken)
            except OSError as error:
                self._free(taken)
                raise QmpError(
                    f"Failed to write bitmap '{name}' to file: {error.strerror}"
                ) from error
            if name in places:  # those that the directory has keep them
                replaced += await self._clusters_of(entries[places[name]])
                entries[places[name]] = stored
            else:
                entries.append(stored)
        await self._replace_directory(entries, taken)
        self._free(replaced)

    async def _store_one(self, bitmap: DirtyBitmap, taken: list[tuple[int, int]]) -> Entry:
        """Write a bitmap to new clusters, which are added to ``taken`` as they are claimed."""
        image, cluster, bits = self._image, self._image.geometry.cluster_size, bitmap.bits
        if not image.node.length:
            raise QmpError("No memory")  # QEMU's words; a table needs an entry
        size = bits.serialised_size
        words = WORD64.blank(-(-size // cluster))
        span = 8 * cluster * bits.granularity  # what one cluster tells of
        for index in range(len(words)):
            if not index * cluster % _PIECE:
                await asyncio.sleep(0)  # others have their turn
            start = index * span
            if bits.any(start, min(span, bits.length - start)):
                part = bits.serialise(index * cluster, min(cluster, size - index * cluster))
                first, _ = await image.refcounts.allocate(1)
                words[index] = first << image.geometry.cluster_bits
                taken.append((words[index], 1))
                padded = part + bytes(cluster - len(part))
                await image.write_metadata(words[index], padded, "")
        offset = await self._allocate(8 * len(words))
        taken.append((offset, image.geometry.clusters(8 * len(words))))
        await image.write_metadata(offset, WORD64.encode(words), "")
        return Entry(
            offset,
            len(words),
            AUTO if bitmap.enabled else 0,
            bitmap.granularity.bit_length() - 1,
            bitmap.name or "",
        )

    async def _allocate(self, length: int) -> int:
        image = self._image
        first = await image.refcounts.allocate_table(image.geometry.clusters(length))
        return first << image.geometry.cluster_bits

    # -- removing -------------------------------------------------------------------------

    async def remove(self, name: str) -> None:
        """Remove a bitmap from the image, if it is there.

        Raises:
            QmpError: The directory can't be written.
        """
        entry = next((item for item in self.entries if item.name == name), None)
        if entry is None:
            return
        clusters = await self._clusters_of(entry)
        await self._replace_directory([item for item in self.entries if item is not entry], [])
        self._free(clusters)
        # A flush of what nobody has written to would not do it. What fails stays to be written.
        with contextlib.suppress(OSError):
            await self._image.journal.flush()  # gives the clusters back
            # Writes that they are free, unless refcounts are lazy or a request still uses them.
            await self._image.journal.flush()

    def refusal(self, name: str, granularity: int) -> str | None:
        """Return why a new bitmap could not be stored, None if it could."""
        image = self._image
        if image.header.version < 3:
            return "Cannot store dirty bitmaps in qcow2 v2 files"
        reason = bitmapdir.constraint(
            name, granularity, image.node.length, image.geometry.cluster_size
        )
        if reason is not None:
            return reason
        known = {entry.name for entry in self.entries}
        new = [item.name or "" for item in self._to_store() if item.name not in known]
        if len(known) + len(new) >= bitmapdir.MAX_BITMAPS:
            return "Maximum number of persistent bitmaps is already reached"
        size = self._size + sum(map(bitmapdir.entry_size, [*new, name]))
        if size > bitmapdir.MAX_DIRECTORY:
            return "Not enough space in the bitmap directory"
        return None

    # -- the directory --------------------------------------------------------------------

    async def _write_in_place(self) -> None:
        """Write the directory where it is; it is not valid in between."""
        image = self._image
        image.header.autoclear &= ~Autoclear.BITMAPS
        try:
            await image.header_writer.write_features()
        except OSError:
            image.header.autoclear |= Autoclear.BITMAPS  # as it stands in the file
            raise
        await pipeline.flush(image.file)
        data = bitmapdir.encode(self.entries)
        if len(data) != self._size:  # as it had names with a NUL; QEMU, too, gives up so late
            raise BlockError(errno.EINVAL)
        await image.write_metadata(self._offset, data, overlap.BITMAPS)
        await pipeline.flush(image.file)
        image.header.autoclear |= Autoclear.BITMAPS
        await image.header_writer.write_features()

    async def _replace_directory(self, entries: list[Entry], taken: list[tuple[int, int]]) -> None:
        """Write the directory elsewhere and let the header name it.

        Args:
            entries: What is to stand there.
            taken: Offset and number of new clusters that it leads to; freed on failure.

        Raises:
            QmpError: It can't be written; the old one stays in force.
        """
        image = self._image
        data = bitmapdir.encode(entries)
        offset = 0
        try:
            extension, autoclear = None, image.header.autoclear & ~Autoclear.BITMAPS
            if data:
                offset = await self._allocate(len(data))
                taken.append((offset, image.geometry.clusters(len(data))))
                await image.write_metadata(offset, data, "")
                extension = BitmapsExtension(len(entries), len(data), offset).encode()
                autoclear |= Autoclear.BITMAPS
            # What the header is going to name must have its refcounts first.
            await image.journal.write()
            await pipeline.flush(image.file)
            await image.header_writer.change(
                whole=True,
                trusting=True,
                autoclear=autoclear,
                extensions=image.header.extensions_with(extensions.BITMAPS, extension),
            )
        except OSError as error:
            for offset, count in taken:
                first = offset >> image.geometry.cluster_bits
                image.header_writer.free_unless_named(first, count)
            raise QmpError(f"Failed to update bitmap extension: {error.strerror}") from error
        old_offset, old_size = self._offset, self._size
        image.overlap.remove(overlap.BITMAPS, old_offset, old_size)
        image.overlap.add(overlap.BITMAPS, offset, len(data))
        self.entries, self._offset, self._size = entries, offset, len(data)
        if old_size:
            self._free([(old_offset, image.geometry.clusters(old_size))])

    async def _clusters_of(self, entry: Entry) -> list[tuple[int, int]]:
        """Return offset and number of the clusters that a bitmap has; none if damaged."""
        geometry = self._image.geometry
        try:
            table = await self._read_table(entry)
        except OSError:
            return []
        found = [(word & OFFSET_MASK, 1) for word in table if word & OFFSET_MASK]
        return [*found, (entry.table_offset, geometry.clusters(8 * entry.table_size))]

    def _free(self, clusters: list[tuple[int, int]]) -> None:
        image = self._image
        for offset, count in clusters:
            image.journal.free(
                offset >> image.geometry.cluster_bits, count, discard=image.discard_other
            )

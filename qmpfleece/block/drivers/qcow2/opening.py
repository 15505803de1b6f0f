"""Opening an image: everything in it is checked before it is believed.

Source: QEMU 7.2, whose texts and order of checks these are.
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.block.child import Child
from qmpfleece.block.drivers.qcow2 import compression, extensions, overlap, settings
from qmpfleece.block.drivers.qcow2.bitmapdir import check_extension
from qmpfleece.block.drivers.qcow2.extensions import Extension
from qmpfleece.block.drivers.qcow2.header import (
    FULL_LENGTH,
    MAX_BACKING_NAME,
    V2_LENGTH,
    V3_LENGTH,
    Header,
    parse,
)
from qmpfleece.block.drivers.qcow2.image import Image, read_padded
from qmpfleece.block.drivers.qcow2.layout import (
    MAX_L1_SIZE,
    MAX_REFTABLE_SIZE,
    REFBLOCK_MASK,
    Autoclear,
    Compatible,
    Geometry,
    Incompatible,
    named,
)
from qmpfleece.block.drivers.qcow2.options import Qcow2Options
from qmpfleece.block.drivers.qcow2.overlap import Overlap
from qmpfleece.block.drivers.qcow2.refcounts import Refcounts
from qmpfleece.block.drivers.qcow2.snapshots import (
    MAX_SNAPSHOTS,
    read_l1,
    read_snapshots,
    tables_of,
)
from qmpfleece.block.drivers.qcow2.tables import WORD64, Codec, TableCache
from qmpfleece.block.node import Node

_FORMAT_SIZE: Final = 16
#: Set in memory only, so that an outdated extension is dropped with unknown autoclear bits.
STALE: Final = 1 << 64
_MAX_SIGNED: Final = (1 << 63) - 1
_UNREADABLE: Final = {
    extensions.BACKING_FORMAT: "ERROR: ext_backing_format: Could not read format name",
    extensions.BITMAPS: "bitmaps_ext: Could not read ext header",
    extensions.DATA_FILE: "ERROR: Could not read data file name",
}


async def read_header(file: Child, *, writable: bool) -> Header:
    """Return the header with its extensions.

    Raises:
        QmpError: It is no image that can be opened.
        OSError: It can't be read.
    """
    header = parse(await _read(file, 0, FULL_LENGTH, "Could not read qcow2 header"))
    cluster = 1 << header.cluster_bits
    if header.version < 3:
        header.header_length = V2_LENGTH
    elif (unknown := header.header_length - FULL_LENGTH) > 0:
        text = "Could not read unknown qcow2 header fields"
        header.unknown = await _read(file, FULL_LENGTH, unknown, text)
    end = header.backing_offset or cluster
    await _check_features(file, header, end)
    if header.header_length == V3_LENGTH:
        header.compression = compression.DEFLATE
    _check_compression(header)
    _check_modes(header, writable=writable)
    async for item in _extensions(file, header, end):
        if _is_kept(header, item, end - header.header_length):
            header.extensions.append(item)
    if header.backing_offset:
        if header.backing_size > min(MAX_BACKING_NAME, cluster - header.backing_offset):
            raise QmpError("Backing file name too long")
        text = "Could not read backing file name"
        name = await _read(file, header.backing_offset, header.backing_size, text)
        header.backing_name = os.fsdecode(named(name))
    return header


async def _read(file: Child, offset: int, length: int, failure: str) -> bytes:
    """Read what is needed and no more: the rest of the first cluster may be unreadable."""
    raw = bytearray(length)
    try:
        await read_padded(file, offset, memoryview(raw))
    except OSError as error:
        raise QmpError(f"{failure}: {error.strerror}") from error
    return bytes(raw)


async def _extensions(file: Child, header: Header, end: int) -> AsyncIterator[Extension]:
    """Yield the extensions, which end where they must end at the latest.

    Raises:
        QmpError: One reaches past the end, or can't be read.
    """
    offset = header.header_length
    while offset < end:
        text = f"qcow2_read_extension: ERROR: pread fail from offset {offset}"
        magic, length = extensions.HEAD.unpack(
            await _read(file, offset, extensions.HEAD.size, text)
        )
        offset += extensions.HEAD.size
        if offset + length > end:  # that of the end counts, too
            raise QmpError("Header extension too large")
        if not magic:
            break
        text = _UNREADABLE.get(magic, "ERROR: unknown extension: Could not read data")
        # Of bitmaps that somebody did not keep up to date only the length is looked at.
        outdated = magic == extensions.BITMAPS and not header.autoclear & Autoclear.BITMAPS
        try:
            data = bytes(length) if outdated else await _read(file, offset, length, text)
        except QmpError:
            if magic != extensions.FEATURE_NAMES:
                raise
            data = extensions.feature_table()  # which QEMU writes without having looked
        yield Extension(magic, data)
        offset += length + 7 & ~7


async def _check_features(file: Child, header: Header, end: int) -> None:
    unknown = header.incompatible & ~Incompatible.KNOWN
    if not unknown:
        return
    names = {}
    try:
        async for item in _extensions(file, header, end):
            if item.magic == extensions.FEATURE_NAMES:
                names = extensions.feature_names(item.data)
    except QmpError:
        pass  # the features are the better reason
    said = [names[bit] for bit in range(64) if unknown >> bit & 1 and names.get(bit)]
    rest = sum(1 << bit for bit in range(64) if unknown >> bit & 1 and not names.get(bit))
    if rest:
        said.append(f"Unknown incompatible feature: {rest:x}")
    raise QmpError(f"Unsupported qcow2 feature(s): {', '.join(said)}")


def _check_compression(header: Header) -> None:
    given = bool(header.incompatible & Incompatible.COMPRESSION)
    if given != (header.compression != compression.DEFLATE):
        if given:
            raise QmpError("qcow2: Compression type incompatible feature bit must not be set")
        raise QmpError("qcow2: Compression type incompatible feature bit must be set")
    if not compression.available(header.compression):
        raise QmpError(f"qcow2: unknown compression type: {header.compression}")


def _check_modes(header: Header, *, writable: bool) -> None:
    if header.incompatible & Incompatible.CORRUPT and writable:
        raise QmpError("qcow2: Image is corrupt; cannot be opened read/write")
    cluster = 1 << header.cluster_bits
    if header.extended_l2 and cluster < 16384:
        raise QmpError(f"Unsupported subcluster size: {cluster // 32}")
    if header.refcount_order > 6:
        raise QmpError("Reference count entry width too large; may not exceed 64 bits")
    if header.crypt_method:
        if header.crypt_method > 2:
            raise QmpError(f"Unsupported encryption method {header.crypt_method}")
        raise QmpError("Encrypted images are not supported")


def _is_kept(header: Header, item: extensions.Extension, room: int) -> bool:
    """Check an extension that we know; False for bitmaps that somebody did not keep up to date."""
    magic, data = item
    most = min(room, _FORMAT_SIZE)
    if magic == extensions.BACKING_FORMAT and len(data) >= most:
        raise QmpError(f"ERROR: ext_backing_format: len={len(data)} too large (>={most})")
    cluster = 1 << header.cluster_bits
    if magic == extensions.BITMAPS and not check_extension(header.autoclear, data, cluster):
        sys.stderr.write(
            "warning: a program lacking bitmap support modified this file, so all bitmaps are"
            " now considered inconsistent\n"
            "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.\n"
        )
        header.autoclear |= STALE
        return False
    return True


def check_tables(header: Header) -> None:
    """Check place and size of the tables that the header names.

    Raises:
        QmpError: One is too large, misplaced or missing.
    """
    cluster = 1 << header.cluster_bits
    clusters = header.refcount_table_clusters
    if not clusters:
        raise QmpError("Image does not contain a reference count table")
    _check_table(
        "Reference count table",
        header.refcount_table_offset,
        clusters * (cluster // 8),
        8,
        MAX_REFTABLE_SIZE,
        cluster,
    )
    _check_table(
        "Snapshot table",
        header.snapshots_offset,
        header.snapshots,
        64,
        64 * MAX_SNAPSHOTS,
        cluster,
    )
    _check_table("Active L1 table", header.l1_offset, header.l1_size, 8, MAX_L1_SIZE, cluster)
    if header.size > _MAX_SIGNED:
        raise QmpError("Could not refresh total sector count: File too large")
    needed = Geometry(header.cluster_bits, extended=header.extended_l2).l1_entries(header.size)
    if needed > (1 << 31) - 1:
        raise QmpError("Image is too big")
    if header.l1_size < needed:
        raise QmpError("L1 table is too small")


def _check_table(name: str, offset: int, entries: int, size: int, most: int, cluster: int) -> None:
    if entries > most // size:
        raise QmpError(f"{name} too large")
    if _MAX_SIGNED - entries * size < offset or offset % cluster:
        raise QmpError(f"{name} offset invalid")


async def load(
    node: Node, file: Child, data: Child | None, header: Header, options: Qcow2Options
) -> Image:
    """Return the image with its tables in memory.

    Raises:
        QmpError: Something in it is beyond belief.
        OSError: It can't be read.
    """
    sizes = settings.cache_sizes(options, header)
    settings.clean_interval(options)
    geometry = Geometry(
        header.cluster_bits,
        version=header.version,
        extended=header.extended_l2,
        refcount_order=header.refcount_order,
        slice_bytes=sizes.l2_entry,
    )
    kinds = settings.overlap_kinds(options)
    image = Image(node, file, header, geometry, Overlap(header.cluster_bits, kinds))
    image.data = data or file
    cluster = geometry.cluster_size
    write = image.journal.write
    image.l2 = TableCache(WORD64, sizes.l2_entry, sizes.l2 // sizes.l2_entry, image.read, write)
    codec = Codec(geometry.refcount_bits)
    image.blocks = TableCache(codec, cluster, sizes.refcount // cluster, image.read, write)
    raw = bytearray(header.refcount_table_clusters * cluster)
    try:
        await image.note("reftable_load")
        await image.read(header.refcount_table_offset, memoryview(raw))
    except OSError as error:
        raise QmpError(f"Could not initialize refcount handling: {error.strerror}") from error
    image.refcounts = Refcounts(image, WORD64.decode(raw))
    raw = bytearray(header.l1_size * 8)
    try:
        await image.read(header.l1_offset, memoryview(raw))
    except OSError as error:
        raise QmpError(f"Could not read L1 table: {error.strerror}") from error
    image.l1 = WORD64.decode(raw)
    image.snapshots, image.snapshot_table_bytes = await read_snapshots(image)
    _protect(image, await inactive_l2(image, options))
    if options.lazy_refcounts and header.version < 3:
        raise QmpError(
            "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
        )
    apply_options(image, options, unmap=node.options.unmap)
    return image


def is_lazy(header: Header, options: Qcow2Options) -> bool:
    """Return whether refcounts need not be accurate on disk while the image is in use."""
    if options.lazy_refcounts is not None:
        return options.lazy_refcounts
    return bool(header.compatible & Compatible.LAZY_REFCOUNTS)


def apply_options(image: Image, options: Qcow2Options, *, unmap: bool) -> None:
    """Put options in force that may change while the image is open; they have been checked.

    Args:
        image: The image.
        options: Its options.
        unmap: Whether the node passes discards on.
    """
    header = image.header
    image.lazy = is_lazy(header, options)
    request = options.pass_discard_request
    image.discard_request = unmap if request is None else request
    image.discard_snapshot = options.pass_discard_snapshot is not False
    image.discard_other = bool(options.pass_discard_other)
    sizes = settings.cache_sizes(options, header)
    if sizes.l2_entry != image.geometry.slice_bytes and not len(image.l2):
        image.geometry.set_slice_bytes(sizes.l2_entry)
        image.l2.table_bytes = sizes.l2_entry
    limit_caches(image, sizes)


def limit_caches(image: Image, sizes: settings.CacheSizes) -> None:
    """Let the caches get as large as the options say, or as is of use for the disk as it is."""
    image.l2.capacity = max(2, sizes.l2 // image.l2.table_bytes)
    image.blocks.capacity = sizes.refcount // image.blocks.table_bytes


async def inactive_l2(image: Image, options: Qcow2Options) -> list[int]:
    """Return the offsets of the snapshots' L2 tables, if the options have them looked after.

    Where the L1 table of a snapshot can't be read, nobody knows them.
    """
    found: list[int] = []
    if overlap.INACTIVE_L2 in settings.overlap_kinds(options):
        for snapshot in image.snapshots:
            with contextlib.suppress(OSError, QmpError):
                found += tables_of(await read_l1(image, snapshot))
    return found


def protect_anew(image: Image, options: Qcow2Options, inactive: list[int]) -> None:
    """Look after the metadata that the options name, but for the bitmaps' directory.

    Args:
        image: The image.
        options: Its options.
        inactive: What ``inactive_l2`` has returned for them.
    """
    image.overlap = Overlap(image.header.cluster_bits, settings.overlap_kinds(options))
    _protect(image, inactive)


def _protect(image: Image, inactive: list[int]) -> None:
    """Record where the metadata lies."""
    header, places, cluster = image.header, image.overlap, image.geometry.cluster_size
    places.add(overlap.HEADER, 0, cluster)
    places.add(overlap.ACTIVE_L1, header.l1_offset, header.l1_size * 8)
    places.add(overlap.REFTABLE, image.reftable_offset, image.reftable_clusters * cluster)
    places.add(overlap.SNAPSHOTS, header.snapshots_offset, image.snapshot_table_bytes)
    places.add_many(overlap.ACTIVE_L2, set(tables_of(image.l1)))
    places.add_many(overlap.INACTIVE_L2, inactive)
    # Most entries are 0, and a set of them is made fast.
    table = set(image.refcounts.table)
    places.add_many(overlap.REFBLOCK, {word & REFBLOCK_MASK for word in table} - {0})
    for snapshot in image.snapshots:
        size = min(snapshot.l1_size * 8, MAX_L1_SIZE)
        places.add(overlap.INACTIVE_L1, snapshot.l1_offset, size)


async def clear_unknown_autoclear(image: Image) -> None:
    """Forget features that we would not keep right; the image is opened for writing.

    Raises:
        OSError: That can't be written; it is tried again before any metadata is.
    """
    header = image.header
    known = header.autoclear & Autoclear.KNOWN
    if known != header.autoclear:
        header.autoclear = known
        await image.header_writer.write_for_good()

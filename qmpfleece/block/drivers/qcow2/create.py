"""Creating images: all tables are laid out at once and written in order.

::

    header | refcount table | refcount blocks | L1 table | L2 tables | data

L2 tables and data are there only under preallocation. Source: QAPI
``BlockdevCreateOptionsQcow2``; defaults and texts as ``qemu-img create`` of QEMU 7.2.
"""

from array import array
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

from qmpfleece.base.errors import QmpError
from qmpfleece.base.files import c_string
from qmpfleece.base.units import KIB, MIB, SECTOR, align_up
from qmpfleece.block.backend import Backend
from qmpfleece.block.creating import BlockdevCreateOptions
from qmpfleece.block.drivers.qcow2 import compression, extensions
from qmpfleece.block.drivers.qcow2.extensions import Extension
from qmpfleece.block.drivers.qcow2.header import FULL_LENGTH, MAX_BACKING_NAME, Header
from qmpfleece.block.drivers.qcow2.layout import (
    COPIED,
    MAX_L1_SIZE,
    MAX_REFTABLE_SIZE,
    Autoclear,
    Compatible,
    Geometry,
    Incompatible,
)
from qmpfleece.block.drivers.qcow2.options import BlockdevDriver, QCryptoBlockCreateOptions
from qmpfleece.block.drivers.qcow2.tables import WORD64, Codec
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import MAX_LENGTH
from qmpfleece.block.perm import Perm
from qmpfleece.block.using import using
from qmpfleece.qapi.blockdev import BlockdevRef
from qmpfleece.qapi.model import Int64, Size

Preallocation: TypeAlias = Literal["off", "metadata", "falloc", "full"]
_SMALL_CLUSTER_BITS: Final = 12
_ENOUGH_ZEROES: Final = bytes(MIB)


class Qcow2CreateOptions(BlockdevCreateOptions):
    """QAPI ``BlockdevCreateOptionsQcow2``.

    Attributes:
        file: The node that the image is made in.
        data_file: The node for external data.
        data_file_raw: The data file must stay readable as a raw image.
        extended_l2: Whether clusters have subclusters.
        size: Bytes of the disk.
        version: v3 by default.
        backing_file: Name to be written for the backing file.
        backing_fmt: Its format.
        encrypt: Refused.
        cluster_size: Bytes, 64 KiB by default.
        preallocation: What to allocate at once.
        lazy_refcounts: Postpone refcount updates.
        refcount_bits: Width of refcounts, 16 by default.
        compression_type: How clusters are compressed, zlib by default.
    """

    driver: Literal["qcow2"]
    file: BlockdevRef
    data_file: BlockdevRef | None = None
    data_file_raw: bool | None = None
    extended_l2: bool | None = None
    size: Size
    version: Literal["v2", "v3"] | None = None
    backing_file: str | None = None
    backing_fmt: BlockdevDriver | None = None
    encrypt: QCryptoBlockCreateOptions | None = None
    cluster_size: Size | None = None
    preallocation: Preallocation | None = None
    lazy_refcounts: bool | None = None
    refcount_bits: Int64 | None = None
    compression_type: Literal["zlib", "zstd"] | None = None

    async def create(self, graph: Graph) -> None:
        """Make the image in the nodes that are named or defined."""
        if isinstance(self.file, str) and self.file == self.data_file:
            raise QmpError(f"Node '{self.file}' can't hold both the image and its data")
        perm = Perm.WRITE | Perm.RESIZE
        async with using(graph, self.file, perm) as file:
            if self.data_file is None:
                await create(file, self)
                return
            async with using(graph, self.data_file, perm) as data:
                assert data.node is not None
                await create(file, self, data=data, data_name=data.node.exact_filename)


def check(options: Qcow2CreateOptions) -> None:
    """Refuse what can't be created, in QEMU's order and words.

    Raises:
        QmpError: The options contradict each other or are out of range.
    """
    old = options.version == "v2"
    if options.size % SECTOR:
        raise QmpError(f"Image size must be a multiple of {SECTOR} bytes")
    cluster = 64 * KIB if options.cluster_size is None else options.cluster_size
    extended = bool(options.extended_l2)
    if not 512 <= cluster <= 2 * MIB or cluster & (cluster - 1):
        raise QmpError("Cluster size must be a power of two between 512 and 2048k")
    if extended and cluster < 16 * KIB:
        raise QmpError(
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"
        )
    if extended and old:
        raise QmpError(
            "Extended L2 entries are only supported with compatibility level 1.1 and above (use"
            " version=v3 or greater)"
        )
    preallocated = options.preallocation not in {None, "off"}
    if preallocated and options.backing_file is not None and not extended:
        raise QmpError(
            "Backing file and preallocation can only be used at the same time if extended_l2 is on"
        )
    if options.backing_fmt is not None and options.backing_file is None:
        raise QmpError("Backing format cannot be used without backing file")
    if options.lazy_refcounts and old:
        raise QmpError(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use"
            " version=v3 or greater)"
        )
    _check_rest(options, old=old)


def _check_rest(options: Qcow2CreateOptions, *, old: bool) -> None:
    bits = 16 if options.refcount_bits is None else options.refcount_bits
    if not 1 <= bits <= 64 or bits & (bits - 1):
        raise QmpError("Refcount width must be a power of two and may not exceed 64 bits")
    if old and bits != 16:
        raise QmpError(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use"
            " version=v3 or greater)"
        )
    if options.data_file_raw and options.data_file is None:
        raise QmpError("data-file-raw requires data-file")
    if options.data_file_raw and options.backing_file is not None:
        raise QmpError("Backing file and data-file-raw cannot be used at the same time")
    if options.data_file is not None and old:
        raise QmpError(
            "External data files are only supported with compatibility level 1.1 and above (use"
            " version=v3 or greater)"
        )
    if options.compression_type == "zstd" and old:
        raise QmpError(
            "Non-zlib compression type is only supported with compatibility level 1.1 and above"
            " (use version=v3 or greater)"
        )
    if options.encrypt is not None:
        raise QmpError("Encrypted images are not supported")
    if len(c_string(options.backing_file or "")) > MAX_BACKING_NAME:
        raise QmpError(
            f"Could not assign backing file '{options.backing_file}' with format"
            f" '{options.backing_fmt}': Invalid argument"
        )


class _Plan(NamedTuple):
    """Where everything goes, in clusters.

    Attributes:
        reftable: Clusters of the refcount table, from number 1 on.
        blocks: Refcount blocks.
        l1: Clusters of the L1 table.
        l2: L2 tables.
        data: Data clusters in the image file.
    """

    reftable: int
    blocks: int
    l1: int
    l2: int
    data: int

    @property
    def first_block(self) -> int:
        return 1 + self.reftable

    @property
    def first_l1(self) -> int:
        return self.first_block + self.blocks

    @property
    def first_l2(self) -> int:
        return self.first_l1 + self.l1

    @property
    def first_data(self) -> int:
        return self.first_l2 + self.l2

    @property
    def total(self) -> int:
        return self.first_data + self.data


def _plan(geometry: Geometry, size: int, *, preallocate: bool, data_file: bool) -> _Plan:
    l1_entries = geometry.l1_entries(size)
    if size > MAX_LENGTH:
        raise QmpError(f"Could not resize image: offset({size}) exceeds maximum({MAX_LENGTH})")
    if l1_entries * 8 > MAX_L1_SIZE:
        raise QmpError("Could not resize image: Failed to grow the L1 table: File too large")
    l2 = l1_entries if preallocate else 0
    data = geometry.clusters(size) if preallocate and not data_file else 0
    plan = _Plan(1, 1, geometry.clusters(l1_entries * 8), l2, data)
    while True:
        blocks = -(-plan.total // geometry.block_entries)
        reftable = geometry.clusters(blocks * 8)
        if (reftable, blocks) == (plan.reftable, plan.blocks):
            break
        plan = plan._replace(
            reftable=max(reftable, plan.reftable), blocks=max(blocks, plan.blocks)
        )
    if plan.reftable * geometry.cluster_size > MAX_REFTABLE_SIZE:
        raise QmpError("Could not resize image: File too large")
    return plan


async def create(
    file: Backend, options: Qcow2CreateOptions, *, data: Backend | None = None, data_name: str = ""
) -> None:
    """Make an image in ``file``, whose content is lost.

    Args:
        file: Where; with the permissions to write and to resize.
        options: What.
        data: The external data file, if there is one.
        data_name: The name by which the image refers to it.

    Raises:
        QmpError: The options can't be met.
        OSError: The file can't be written.
    """
    check(options)
    header = _header(options, data_name)
    geometry = Geometry(
        header.cluster_bits,
        version=header.version,
        extended=header.extended_l2,
        refcount_order=header.refcount_order,
    )
    wanted = options.preallocation or "off"
    if options.data_file_raw and wanted == "off":
        wanted = "metadata"  # so that the data file alone is the disk
    preallocate = wanted != "off" and options.size > 0
    plan = _plan(geometry, options.size, preallocate=preallocate, data_file=data is not None)
    header.l1_size = geometry.l1_entries(options.size)
    header.l1_offset = plan.first_l1 << geometry.cluster_bits if header.l1_size else 0
    header.refcount_table_offset = geometry.cluster_size
    header.refcount_table_clusters = plan.reftable
    await file.truncate(0)
    await _write_all(file, geometry, plan, header, external=data is not None)
    if data is not None and data.length < options.size:
        await data.truncate(options.size)
    if preallocate:
        await _preallocate(data or file, geometry, plan, options.size, wanted, data is not None)
    await file.pwrite(0, memoryview(_first_cluster(header, geometry)))
    await file.flush()


def _header(options: Qcow2CreateOptions, data_name: str) -> Header:
    header = Header(
        version=2 if options.version == "v2" else 3,
        size=options.size,
        cluster_bits=(options.cluster_size or 64 * KIB).bit_length() - 1,
        refcount_order=(options.refcount_bits or 16).bit_length() - 1,
        backing_name=options.backing_file or "",
    )
    if options.extended_l2:
        header.incompatible |= Incompatible.EXTENDED_L2
    if options.lazy_refcounts:
        header.compatible |= Compatible.LAZY_REFCOUNTS
    if options.compression_type == "zstd":
        header.incompatible |= Incompatible.COMPRESSION
        header.compression = compression.ZSTD
    if options.data_file is not None:
        header.incompatible |= Incompatible.DATA_FILE
        header.extensions.append(Extension(extensions.DATA_FILE, c_string(data_name)))
        if options.data_file_raw:
            header.autoclear |= Autoclear.DATA_FILE_RAW
    if options.backing_fmt:
        header.extensions.insert(
            0, Extension(extensions.BACKING_FORMAT, options.backing_fmt.encode())
        )
    if header.version >= 3:
        header.header_length = FULL_LENGTH
        # The names of features are a courtesy; small clusters have no room for them.
        if header.cluster_bits > _SMALL_CLUSTER_BITS:
            names = extensions.feature_table()
            header.extensions.append(Extension(extensions.FEATURE_NAMES, names))
    return header


def _first_cluster(header: Header, geometry: Geometry) -> bytes:
    encoded = header.encode()
    return encoded + bytes(geometry.cluster_size - len(encoded))


async def _write_all(
    file: Backend, geometry: Geometry, plan: _Plan, header: Header, *, external: bool
) -> None:
    """Write the tables; the header comes last, and makes it an image."""
    bits, size = geometry.cluster_bits, geometry.cluster_size
    table = WORD64.blank(plan.reftable * size // 8)
    for index in range(plan.blocks):
        table[index] = plan.first_block + index << bits
    await file.pwrite(size, WORD64.encode(table))
    codec = Codec(geometry.refcount_bits)
    for index in range(plan.blocks):
        words = codec.blank(geometry.block_entries)
        used = min(plan.total - index * geometry.block_entries, geometry.block_entries)
        for slot in range(used):
            words[slot] = 1
        await file.pwrite(plan.first_block + index << bits, codec.encode(words))
    l1 = WORD64.blank(header.l1_size)
    for index in range(plan.l2):
        l1[index] = plan.first_l2 + index << bits | COPIED
    if l1:
        await file.pwrite(header.l1_offset, WORD64.encode(l1))
    clusters = geometry.clusters(header.size)
    first = 0 if external else plan.first_data << bits
    for index in range(plan.l2):
        start = index * geometry.l2_entries
        count = min(geometry.l2_entries, clusters - start)
        words = array("Q", _entries(geometry, first + (start << bits), count))
        words.extend(array("Q", bytes(size - 8 * len(words))))
        await file.pwrite(plan.first_l2 + index << bits, WORD64.encode(words))


def _entries(geometry: Geometry, host: int, count: int) -> Iterator[int]:
    """Yield the words of L2 entries for clusters that follow each other.

    Subclusters have no data yet: a backing file shows through.
    """
    for _ in range(count):
        yield host | COPIED
        if geometry.extended:
            yield 0
        host += geometry.cluster_size


async def _preallocate(
    file: Backend,
    geometry: Geometry,
    plan: _Plan,
    size: int,
    how: str,
    external: bool,  # noqa: FBT001 - positional
) -> None:
    """Make room for the data: for its length, for its blocks, or with zeroes written."""
    start = 0 if external else plan.first_data << geometry.cluster_bits
    end = start + (size if external else align_up(size, geometry.cluster_size))
    if how == "metadata":
        if file.length < end:
            await file.truncate(end)
    elif how == "falloc":
        await file.pwrite_zeroes(start, end - start)
    else:
        for offset in range(start, end, MIB):
            part = memoryview(_ENOUGH_ZEROES)[: min(MIB, end - offset)]
            await file.pwrite(offset, part)

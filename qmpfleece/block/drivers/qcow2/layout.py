"""Numbers of the qcow2 format, and the arithmetic that an image's geometry decides.

Source: the qcow2 specification (QEMU, docs/interop/qcow2). All offsets and lengths are bytes
unless a name says otherwise.
"""

from typing import Final

from qmpfleece.base.units import KIB, MIB

MAGIC: Final = 0x514649FB
MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 21
#: The most memory that the tables of an image may take. Source: QEMU, QCOW_MAX_*.
MAX_L1_SIZE: Final = 32 * MIB
MAX_REFTABLE_SIZE: Final = 8 * MIB

#: Bits of an L1 or L2 entry.
COPIED: Final = 1 << 63
COMPRESSED: Final = 1 << 62
ZERO: Final = 1
OFFSET_MASK: Final = 0x00FFFFFFFFFFFE00
REFBLOCK_MASK: Final = 0xFFFFFFFFFFFFFE00
#: Subclusters of an extended L2 entry, and their two halves of the bitmap.
SUBCLUSTERS: Final = 32
ALL_ALLOCATED: Final = 0xFFFFFFFF
ALL_ZEROES: Final = 0xFFFFFFFF00000000


def hexa(number: int) -> str:
    """Return a number as C prints it with ``%#x``."""
    return f"{number:#x}" if number else "0"


class Incompatible:
    """Incompatible feature bits."""

    DIRTY: Final = 1
    CORRUPT: Final = 2
    DATA_FILE: Final = 4
    COMPRESSION: Final = 8
    EXTENDED_L2: Final = 16
    KNOWN: Final = 31


class Compatible:
    """Compatible feature bits."""

    LAZY_REFCOUNTS: Final = 1


class Autoclear:
    """Autoclear feature bits."""

    BITMAPS: Final = 1
    DATA_FILE_RAW: Final = 2
    KNOWN: Final = 3


class Geometry:
    """What follows from cluster size, entry format and refcount width.

    Fixed at open, but for the slices: they may change while the cache of L2 tables is empty.

    Attributes:
        cluster_bits: Log2 of the cluster size.
        cluster_size: Bytes.
        extended: Whether L2 entries have subcluster bitmaps.
        entry_words: 64-bit words of an L2 entry.
        l2_entries: Entries of an L2 table.
        l2_span: Bytes of the disk that one L2 table maps.
        subcluster_size: Bytes of the unit of allocation status.
        slice_entries: Entries of a slice, the part of an L2 table that is cached as one.
        slice_bytes: Bytes of a slice on disk.
        slice_span: Bytes of the disk that one slice maps.
        refcount_bits: Width of a refcount.
        block_entries: Refcounts in one refcount block.
        csize_shift: Where the sector count begins in a compressed entry.
        version: 2 or 3.
    """

    def __init__(
        self,
        cluster_bits: int,
        *,
        version: int = 3,
        extended: bool = False,
        refcount_order: int = 4,
        slice_bytes: int = 0,
    ) -> None:
        self.version = version
        self.cluster_bits = cluster_bits
        self.cluster_size = 1 << cluster_bits
        self.extended = extended
        self.entry_words = 2 if extended else 1
        self.l2_entries = self.cluster_size // (8 * self.entry_words)
        self.l2_span = self.l2_entries * self.cluster_size
        self.subcluster_size = self.cluster_size // (SUBCLUSTERS if extended else 1)
        self.set_slice_bytes(slice_bytes or min(self.cluster_size, 64 * KIB))
        self.refcount_bits = 1 << refcount_order
        self.block_entries = self.cluster_size * 8 // self.refcount_bits
        self.refcount_max = (1 << self.refcount_bits) - 1
        if self.refcount_bits == 64:
            self.refcount_max = (1 << 63) - 1
        self.csize_shift = 62 - (cluster_bits - 8)

    def set_slice_bytes(self, slice_bytes: int) -> None:
        """Cache L2 tables in other parts; none is in memory."""
        self.slice_bytes = slice_bytes
        self.slice_entries = slice_bytes // (8 * self.entry_words)
        self.slice_span = self.slice_entries * self.cluster_size

    def clusters(self, length: int) -> int:
        """Return how many clusters ``length`` bytes take."""
        return (length + self.cluster_size - 1) >> self.cluster_bits

    def l1_entries(self, size: int) -> int:
        """Return how many L1 entries a disk of ``size`` bytes needs."""
        return -(-size // self.l2_span)

    def compressed(self, entry: int) -> tuple[int, int]:
        """Return offset and length in the file of the data of a compressed entry.

        The length is an upper bound: the data ends anywhere in its last sector.
        """
        shift = self.csize_shift
        offset = entry & ((1 << shift) - 1)
        sectors = (entry >> shift & ((1 << (self.cluster_bits - 8)) - 1)) + 1
        return offset, sectors * 512 - (offset & 511)

    def compressed_entry(self, offset: int, length: int) -> int:
        """Return the L2 entry of ``length`` compressed bytes at ``offset``."""
        sectors = (offset + length - 1 >> 9) - (offset >> 9)
        return COMPRESSED | offset | sectors << self.csize_shift


def named(data: bytes | bytearray) -> bytes:
    """Return a name as QEMU takes it from an image: it ends at the first NUL."""
    return bytes(data).split(b"\0", 1)[0]

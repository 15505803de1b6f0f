"""What the options decide about an open image: sizes of the caches, overlap checks, discards.

Source: QEMU 7.2, the defaults of ``BlockdevOptionsQcow2`` and its error texts.
"""

from typing import Final, NamedTuple

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import KIB, MIB, align_up
from qmpfleece.block.drivers.qcow2 import overlap
from qmpfleece.block.drivers.qcow2.header import Header
from qmpfleece.block.drivers.qcow2.options import Qcow2Options, Qcow2OverlapCheckFlags

_MAX_L2_CACHE: Final = 32 * MIB
_MIN_L2_TABLES: Final = 2
_MIN_BLOCKS: Final = 4
_INT_MAX: Final = (1 << 31) - 1
_UINT_MAX: Final = (1 << 32) - 1
_CLEAN_INTERVAL_S: Final = 600

_CONSTANT: Final = (overlap.HEADER, overlap.ACTIVE_L1, overlap.REFTABLE)
_CACHED: Final = (
    *_CONSTANT,
    overlap.ACTIVE_L2,
    overlap.REFBLOCK,
    overlap.SNAPSHOTS,
    overlap.INACTIVE_L1,
    overlap.BITMAPS,
)
_TEMPLATES: Final = {
    "none": frozenset[str](),
    "constant": frozenset(_CONSTANT),
    "cached": frozenset(_CACHED),
    "all": frozenset((*_CACHED, overlap.INACTIVE_L2)),
}
_FLAGS: Final = {
    "main_header": overlap.HEADER,
    "active_l1": overlap.ACTIVE_L1,
    "active_l2": overlap.ACTIVE_L2,
    "refcount_table": overlap.REFTABLE,
    "refcount_block": overlap.REFBLOCK,
    "snapshot_table": overlap.SNAPSHOTS,
    "inactive_l1": overlap.INACTIVE_L1,
    "inactive_l2": overlap.INACTIVE_L2,
    "bitmap_directory": overlap.BITMAPS,
}


class CacheSizes(NamedTuple):
    """Sizes of the caches.

    Attributes:
        l2: Bytes of L2 slices.
        l2_entry: Bytes of a slice.
        refcount: Bytes of refcount blocks.
    """

    l2: int
    l2_entry: int
    refcount: int


def cache_sizes(options: Qcow2Options, header: Header) -> CacheSizes:
    """Return how large the caches may get.

    Raises:
        QmpError: The options contradict each other or are out of range.
    """
    cluster = 1 << header.cluster_bits
    entry = options.l2_cache_entry_size
    if entry is None:
        entry = min(cluster, 64 * KIB)
    l2, refcount = _both(options, header, cluster)
    if entry < 512 or entry > cluster or entry & (entry - 1):
        raise QmpError(
            "L2 cache entry size must be a power of two between 512 and the cluster size"
            f" ({cluster})"
        )
    if l2 // entry > _INT_MAX:
        raise QmpError("L2 cache size too big")
    if refcount // cluster > _INT_MAX:
        raise QmpError("Refcount cache size too big")
    return CacheSizes(max(l2, _MIN_L2_TABLES * entry), entry, max(refcount, _MIN_BLOCKS * cluster))


def _both(options: Qcow2Options, header: Header, cluster: int) -> tuple[int, int]:
    """Return bytes of the L2 and the refcount cache: as given, else as far as they are of use."""
    combined, l2 = options.cache_size, options.l2_cache_size
    refcount = options.refcount_cache_size
    least = _MIN_BLOCKS * cluster
    entries = -(-header.size // cluster)
    most = align_up(entries * (16 if header.extended_l2 else 8), cluster)
    if combined is None:
        return (
            min(_MAX_L2_CACHE, most) if l2 is None else l2,
            least if refcount is None else refcount,
        )
    if l2 is not None and refcount is not None:
        raise QmpError(
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
        )
    if l2 is not None and l2 > combined:
        raise QmpError("l2-cache-size may not exceed cache-size")
    if refcount is not None and refcount > combined:
        raise QmpError("refcount-cache-size may not exceed cache-size")
    if l2 is not None:
        return l2, combined - l2
    if refcount is not None:
        return combined - refcount, refcount
    if combined >= most + least:
        return most, combined - most
    return combined - min(combined, least), min(combined, least)


def clean_interval(options: Qcow2Options) -> int:
    """Return after how many seconds unused tables are dropped, 0 for never.

    Raises:
        QmpError: It is out of range.
    """
    given = options.cache_clean_interval
    if given is None:
        return _CLEAN_INTERVAL_S
    if not 0 <= given <= _UINT_MAX:
        raise QmpError("Cache clean interval too big")
    return given


#: Wire names of the single checks.
OVERLAP_FLAGS: Final = tuple(name.replace("_", "-") for name in _FLAGS)


def overlap_kinds(options: Qcow2Options) -> frozenset[str]:
    """Return what metadata the overlap checks look after."""
    given = options.overlap_check
    if given is None:
        return _TEMPLATES["cached"]
    if isinstance(given, Qcow2OverlapCheckFlags):
        kinds = set(_TEMPLATES[given.template or "cached"])
        for field, kind in _FLAGS.items():
            if (wanted := getattr(given, field)) is not None:
                (kinds.add if wanted else kinds.discard)(kind)
        return frozenset(kinds)
    return _TEMPLATES[given]

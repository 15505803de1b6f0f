"""Which clusters hold metadata, so that no write of data ever lands on them.

A corrupt image may refer to one cluster twice, or call a cluster free that holds a table.
Every write asks here first. Source: QEMU's overlap checks, option ``overlap-check``.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final

#: What metadata is called in messages, in the order in which QEMU looks for it.
HEADER: Final = "qcow2_header"
ACTIVE_L1: Final = "active L1 table"
ACTIVE_L2: Final = "active L2 table"
REFTABLE: Final = "refcount table"
REFBLOCK: Final = "refcount block"
SNAPSHOTS: Final = "snapshot table"
INACTIVE_L1: Final = "inactive L1 table"
INACTIVE_L2: Final = "inactive L2 table"
BITMAPS: Final = "bitmap directory"

_ORDER: Final = (
    HEADER,
    ACTIVE_L1,
    ACTIVE_L2,
    REFTABLE,
    REFBLOCK,
    SNAPSHOTS,
    INACTIVE_L1,
    INACTIVE_L2,
    BITMAPS,
)


class Overlap:
    """The clusters of an image that hold metadata, by what it is.

    Args:
        cluster_bits: Log2 of the cluster size.
        kinds: What is looked after; the rest is not recorded.
    """

    def __init__(self, cluster_bits: int, kinds: frozenset[str]) -> None:
        self._bits = cluster_bits
        self._kinds = kinds
        self._clusters: dict[str, array[int]] = {kind: array("Q") for kind in _ORDER}
        #: All of them together, so that one search answers nearly always.
        self._all = array("Q")

    def add(self, kind: str, offset: int, length: int) -> None:
        """Record that ``length`` bytes at ``offset`` hold metadata."""
        if kind not in self._kinds or not length:
            return
        for cluster in range(offset >> self._bits, (offset + length - 1 >> self._bits) + 1):
            insort(self._clusters[kind], cluster)
            insort(self._all, cluster)

    def add_many(self, kind: str, offsets: Iterable[int]) -> None:
        """Record clusters, one at each of ``offsets``."""
        if kind in self._kinds:
            found = [offset >> self._bits for offset in offsets]
            self._clusters[kind] = array("Q", sorted([*self._clusters[kind], *found]))
            self._all = array("Q", sorted([*self._all, *found]))

    def remove(self, kind: str, offset: int, length: int) -> None:
        """Undo an ``add``."""
        if kind not in self._kinds or not length:
            return
        for cluster in range(offset >> self._bits, (offset + length - 1 >> self._bits) + 1):
            for clusters in (self._clusters[kind], self._all):
                at = bisect_left(clusters, cluster)
                if at < len(clusters) and clusters[at] == cluster:
                    del clusters[at]

    def find(self, offset: int, length: int, ignore: str = "") -> str | None:
        """Return what a write to this range would destroy, None if nothing.

        Args:
            offset: Bytes.
            length: Bytes, more than 0.
            ignore: The kind of metadata that is meant to be written.
        """
        clusters = self._all
        first, last = offset >> self._bits, offset + length - 1 >> self._bits
        at = bisect_left(clusters, first)
        if at >= len(clusters) or clusters[at] > last:
            return None
        for kind in _ORDER:
            if kind != ignore:
                clusters = self._clusters[kind]
                at = bisect_left(clusters, first)
                if at < len(clusters) and clusters[at] <= last:
                    return kind
        return None

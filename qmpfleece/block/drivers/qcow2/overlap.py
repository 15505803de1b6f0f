"""Which clusters hold metadata, so that no write of data ever lands on them.

A corrupt image may refer to one cluster twice, or call a cluster free that holds a table.
Every write asks here first. Source: QEMU's overlap checks, option ``overlap-check``.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
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


class _Ranges:
    """Ranges of clusters, some of which may overlap or be there several times.

    Attributes:
        any: Whether there are any.
    """

    __slots__ = ("_counts", "_ends", "_stale", "_starts", "any")

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}
        #: First and last clusters of what they cover together, in order; built when asked for.
        self._starts = array("Q")
        self._ends = array("Q")
        self._stale = False
        self.any = False

    def add(self, first: int, last: int) -> None:
        """Count a range once more."""
        self._counts[first, last] = self._counts.get((first, last), 0) + 1
        self.any = self._stale = True

    def remove(self, first: int, last: int) -> bool:
        """Count a range once less; False if it is not there."""
        if (first, last) not in self._counts:
            return False
        self._counts[first, last] -= 1
        if not self._counts[first, last]:
            del self._counts[first, last]
            self.any, self._stale = bool(self._counts), True
        return True

    def hit(self, first: int, last: int) -> bool:
        """Tell whether one of them overlaps the clusters from ``first`` to ``last``."""
        if self._stale:
            self._merge()
        at = bisect_right(self._starts, last)
        return at > 0 and self._ends[at - 1] >= first

    def _merge(self) -> None:
        starts, ends = array("Q"), array("Q")
        for first, last in sorted(self._counts):
            if ends and first <= ends[-1] + 1:
                ends[-1] = max(ends[-1], last)
            else:
                starts.append(first)
                ends.append(last)
        self._starts, self._ends, self._stale = starts, ends, False


class Overlap:
    """The clusters of an image that hold metadata, by what it is.

    A damaged image may claim of thousands of tables that each takes thousands of clusters.

    Args:
        cluster_bits: Log2 of the cluster size.
        kinds: What is looked after; the rest is not recorded.
    """

    def __init__(self, cluster_bits: int, kinds: frozenset[str]) -> None:
        self._bits = cluster_bits
        self._kinds = kinds
        #: What takes one cluster, and what takes more.
        self._clusters: dict[str, array[int]] = {kind: array("Q") for kind in _ORDER}
        self._ranges: dict[str, _Ranges] = {kind: _Ranges() for kind in _ORDER}
        #: All of them together, so that one search answers nearly always.
        self._all = array("Q")
        self._all_ranges = _Ranges()

    def add(self, kind: str, offset: int, length: int) -> None:
        """Record that ``length`` bytes at ``offset`` hold metadata."""
        if kind not in self._kinds or not length:
            return
        first, last = offset >> self._bits, offset + length - 1 >> self._bits
        if first == last:
            insort(self._clusters[kind], first)
            insort(self._all, first)
        else:
            self._ranges[kind].add(first, last)
            self._all_ranges.add(first, last)

    def add_many(self, kind: str, offsets: Iterable[int]) -> None:
        """Record clusters, one at each of ``offsets``."""
        if kind in self._kinds:
            found = [offset >> self._bits for offset in offsets]
            self._clusters[kind] = array("Q", sorted([*self._clusters[kind], *found]))
            self._all = array("Q", sorted([*self._all, *found]))

    def remove(self, kind: str, offset: int, length: int) -> None:
        """Undo an ``add``, of the same clusters."""
        if kind not in self._kinds or not length:
            return
        first, last = offset >> self._bits, offset + length - 1 >> self._bits
        if first < last:
            if self._ranges[kind].remove(first, last):
                self._all_ranges.remove(first, last)
            return
        clusters = self._clusters[kind]
        at = bisect_left(clusters, first)
        if at < len(clusters) and clusters[at] == first:
            del clusters[at]
            del self._all[bisect_left(self._all, first)]

    def find(self, offset: int, length: int, ignore: str = "") -> str | None:
        """Return what a write to this range would destroy, None if nothing.

        Args:
            offset: Bytes.
            length: Bytes, more than 0.
            ignore: The kind of metadata that is meant to be written.
        """
        clusters, ranges = self._all, self._all_ranges
        first, last = offset >> self._bits, offset + length - 1 >> self._bits
        at = bisect_left(clusters, first)
        if (at >= len(clusters) or clusters[at] > last) and not (
            ranges.any and ranges.hit(first, last)
        ):
            return None
        for kind in _ORDER:
            if kind != ignore:
                clusters = self._clusters[kind]
                at = bisect_left(clusters, first)
                if at < len(clusters) and clusters[at] <= last:
                    return kind
                if self._ranges[kind].hit(first, last):
                    return kind
        return None

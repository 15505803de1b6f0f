# SPDX-License-Identifier: GPL-2.0-or-later
"""Test 257's writes, and a model that says which clusters a bitmap must have dirty."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Final

from iotests.programs import DISK_SIZE

KIB: Final = 1 << 10
MIB: Final = 1 << 20
#: Granularity of the bitmaps and cluster size of the images, in bytes.
CLUSTER: Final = 64 * KIB

Clusters = frozenset[int]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """So many bytes of one value."""

    byte: int
    offset: int
    length: int = CLUSTER

    @property
    def command(self) -> str:
        """The qemu-io command that writes it."""
        return f"write -P{self.byte:#x} {self.offset:#09x} {self.length:#x}"

    @property
    def clusters(self) -> Clusters:
        """The clusters that writing it makes dirty: every one that it touches."""
        end = self.offset + self.length
        return frozenset(range(self.offset // CLUSTER, -(-end // CLUSTER)))


#: Four times the guest writes: first to four places, later beside and across what was there.
GROUPS: Final[list[list[Pattern]]] = [
    [
        Pattern(0x49, 0),
        Pattern(0x6C, MIB),
        Pattern(0x6F, 32 * MIB),
        Pattern(0x76, DISK_SIZE - CLUSTER),
    ],
    [
        Pattern(0x65, 0),
        Pattern(0x77, MIB - 32 * KIB),
        Pattern(0x72, 32 * MIB + 32 * KIB),
        Pattern(0x69, DISK_SIZE - 2 * CLUSTER),
    ],
    [
        Pattern(0x74, CLUSTER),
        Pattern(0x69, MIB - 96 * KIB),
        Pattern(0x6E, 32 * MIB + 96 * KIB),
        Pattern(0x67, DISK_SIZE - 2 * CLUSTER, 2 * CLUSTER),
    ],
    [
        Pattern(0xAA, CLUSTER, 3 * CLUSTER),
        Pattern(0xBB, MIB - 160 * KIB),
        Pattern(0xCC, 32 * MIB + 160 * KIB),
        Pattern(0xDD, DISK_SIZE - 4 * CLUSTER),
    ],
]


def clusters_of(groups: Iterable[int]) -> Clusters:
    """Return all clusters that the writes of these groups touch."""
    return frozenset().union(*(p.clusters for group in groups for p in GROUPS[group]))


class BitmapModel:
    """What a recording bitmap holds, through writes and backups, as sets of clusters.

    `written` is what the disk has allocated; `dirty` is the bitmap; while a backup runs,
    `successor` records in its place.
    """

    def __init__(self, written: Iterable[int]) -> None:
        self.written = clusters_of(written)
        self.dirty: Clusters = frozenset()
        self.successor: Clusters | None = None
        self._to_copy: Clusters = frozenset()

    def write(self, group: int) -> None:
        """Record a group of writes."""
        clusters = clusters_of([group])
        self.written |= clusters
        if self.successor is None:
            self.dirty |= clusters
        else:
            self.successor |= clusters

    def begin_backup(self, sync: str) -> None:
        """Give the bitmap a successor, and remember what a job of this sync mode copies."""
        self.successor = frozenset()
        self._to_copy = {
            "full": frozenset(range(DISK_SIZE // CLUSTER)),
            "top": self.written,
            "bitmap": self.dirty,
        }[sync]

    def end_backup(self, mode: str, *, success: bool, copied: Clusters | None = None) -> None:
        """Join bitmap and successor as the job's bitmap-mode says.

        Args:
            mode: on-success, always or never.
            success: Whether the job completed.
            copied: What was copied until the job ended; None for everything.
        """
        assert self.successor is not None
        if mode == "never" or (mode == "on-success" and not success):
            left = self.dirty
        else:
            left = self._to_copy - copied if copied is not None else frozenset()
        self.dirty = left | self.successor
        self.successor = None

    def copied_before_second_read(self) -> Clusters:
        """Return what a job copies when its second read of the disk fails.

        One worker reads runs of allocated clusters in order, and only those: runs that read
        as zeroes need no read, so that all before the second run has been copied.
        """
        readable = sorted(self._to_copy & self.written)
        second = next(b for a, b in itertools.pairwise(readable) if b != a + 1)
        return frozenset(cluster for cluster in self._to_copy if cluster < second)

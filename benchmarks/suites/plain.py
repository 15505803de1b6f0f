"""A raw file, exported: what the way from the socket to the page cache costs."""

from typing import Final

from benchmarks import exported
from benchmarks.exported import Entry
from benchmarks.model import NBDKIT, AtLeast, Suite

_ENTRIES: Final = (
    Entry("4 KiB random read, depth 1", exported.RANDOM_READ_1, (AtLeast(1.2),)),
    Entry("4 KiB random read, depth 32, fio", exported.RANDOM_READ),
    Entry("4 KiB random read, depth 32", exported.RANDOM_READ, (AtLeast(3.0),), lean=True),
    Entry("1 MiB read, depth 8", exported.READ, (AtLeast(1.5), AtLeast(1.0, NBDKIT))),
    Entry("4 KiB random write, depth 32", exported.RANDOM_WRITE, (AtLeast(1.5),)),
    Entry("1 MiB write, depth 8", exported.WRITE, (AtLeast(1.2),)),
    Entry("4 KiB mixed 70/30, depth 32", exported.MIXED),
)

SUITE: Final = Suite(
    name="plain",
    about="A raw file, exported",
    cases=tuple(exported.cases(_ENTRIES, exported.serve_raw)),
)

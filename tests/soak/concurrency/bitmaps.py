"""What a dirty bitmap must have, and what it may have."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.soak.concurrency.history import Write, runs

_CHANGES = frozenset({"write", "zeroes"})


@dataclass(slots=True, eq=False)
class Bitmap:
    """One bitmap, in units of the disk.

    Attributes:
        granule: Units of one bit.
        must: What has certainly been changed while it was enabled.
        may: What may have been.
        since: From when on its state is known, FOREVER before it is there.
        unsure: How many commands that change it, or a job, are in progress.
        meanwhile: What may have been changed since the first of them.
        after: What certainly was, since the job that uses it began; None if there is none.
        touched: Whether a command came after that job.
    """

    name: str
    granule: int
    persistent: bool
    enabled: bool = True
    must: set[int] = field(default_factory=set)
    may: set[int] = field(default_factory=set)
    since: int = 0
    unsure: int = 0
    meanwhile: set[int] = field(default_factory=set)
    after: set[int] | None = None
    touched: bool = False

    def begin(self, in_flight: Iterable[Write]) -> None:
        """A command that concerns it is sent."""
        if not self.unsure:
            self.meanwhile = set()
        self.unsure += 1
        self.touched = True
        for write in in_flight:
            self.meanwhile.update(range(write.first, write.stop))
        self.may |= self.meanwhile

    def end(self, now: int) -> None:
        """The command was answered."""
        self.unsure -= 1
        self.since = now

    def clear(self) -> None:
        """It was cleared at some time since ``begin``."""
        self.must = set()
        self.after = None if self.after is None else set()
        self.may = set(self.meanwhile)

    def sent(self, write: Write) -> None:
        """A change was sent."""
        units = range(write.first, write.stop)
        if self.enabled or self.unsure:
            self.may.update(units)
        if self.unsure:
            self.meanwhile.update(units)

    def answered(self, write: Write, *, done: bool) -> None:
        """It was answered."""
        if not done or write.kind not in _CHANGES or not self.enabled:
            return
        if write.start > self.since:
            units = range(write.first, write.stop)
            if self.after is not None and self.unsure == 1:
                self.after.update(units)
            elif not self.unsure:
                self.must.update(units)

    def resize(self, size: int) -> None:
        """The disk was resized."""
        self.must = {unit for unit in self.must if unit < size}
        self.may = {unit for unit in self.may if unit < size}

    def wrong(self, dirty: set[int], size: int) -> str:
        """Return what is wrong with units that it shows as dirty, "" if nothing is."""
        if missing := self.must - dirty:
            return f"bitmap {self.name} (granule {self.granule}) lacks {runs(missing)}"
        granules = {unit // self.granule for unit in self.may}
        more = {unit for unit in dirty if unit < size and unit // self.granule not in granules}
        if more:
            return f"bitmap {self.name} (granule {self.granule}) has {runs(more)}, never written"
        return ""

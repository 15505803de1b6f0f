"""What a disk may show: everything that was asked of it, and when.

Time is a counter of what the test has sent and received. A disk consists of units; what a write
puts there is a number that no other write has, 0 for zeroes. Of each unit all writes are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

FOREVER: Final = 1 << 60
#: What a unit shows that nobody wrote in one piece.
TORN: Final = -1


@dataclass(eq=False, slots=True)
class Write:
    """A change to units of the disk.

    Attributes:
        first: The first unit.
        stop: The end of them.
        value: What they show then.
        start: When it was sent.
        end: When it was answered, FOREVER if it may still happen.
        weak: It may also not have happened at all, or not everywhere.
        durable: A time at which it was known to be stable.
        kind: For messages.
    """

    first: int
    stop: int
    value: int
    start: int
    end: int = FOREVER
    weak: bool = False
    durable: int = FOREVER
    kind: str = "write"

    def __str__(self) -> str:
        end = "" if self.end == FOREVER else self.end
        weak = " weak" if self.weak else ""
        return f"{self.kind}{weak} {self.value} to {self.first}-{self.stop} at {self.start}..{end}"


@dataclass(slots=True)
class History:
    """Everything that has happened to one disk.

    Attributes:
        size: How many units it has.
        now: The time.
        units: The writes to each.
    """

    size: int
    now: int = 1
    units: list[list[Write]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    def begin(self, content: Sequence[int]) -> None:
        """Forget the past: the disk shows this now."""
        self.size = len(content)
        self.writes.clear()
        self.units = []
        for unit, value in enumerate(content):
            initial = Write(unit, unit + 1, value, 0, 0, durable=0, kind="initial")
            self.units.append([initial])
            self.writes.append(initial)

    def tick(self) -> int:
        """Let time pass."""
        self.now += 1
        return self.now

    def sent(self, first: int, stop: int, value: int, kind: str, *, weak: bool = False) -> Write:
        """Note that a request was sent."""
        write = Write(first, stop, value, self.tick(), weak=weak, kind=kind)
        self.writes.append(write)
        for unit in range(first, stop):
            self.units[unit].append(write)
        return write

    def answered(self, write: Write, *, done: bool, stable: bool = False) -> None:
        """Note the reply to it."""
        write.end = self.tick()
        write.weak |= not done
        if done and stable:
            write.durable = write.end

    def flushed(self, start: int) -> None:
        """Note that a flush that was sent at ``start`` was successful."""
        now = self.tick()
        for write in self.writes:
            if write.end < start and write.durable == FOREVER:
                write.durable = now

    def resize(self, size: int) -> None:
        """Note that the disk is of another size, with no request in flight."""
        now = self.tick()
        del self.units[size:]
        while len(self.units) < size:
            unit = len(self.units)
            zero = Write(unit, unit + 1, 0, now, now, durable=now, kind="grown")
            self.units.append([zero])
            self.writes.append(zero)
        self.size = size

    # -- what may be seen -------------------------------------------------------------------

    def possible(
        self, unit: int, start: int, end: int, *, stable_at: int = FOREVER
    ) -> dict[int, list[Write]]:
        """Return the values that who looks from ``start`` to ``end`` may see, with their writes.

        Args:
            unit: Where.
            start: When it began to look.
            end: When it had seen.
            stable_at: Only what was stable then is certain to be there: after a crash.
        """
        certain = 0
        for write in self.units[unit]:
            is_over = write.end < start and (stable_at == FOREVER or write.durable <= stable_at)
            if is_over and not write.weak:
                certain = max(certain, write.start)
        seen: dict[int, list[Write]] = {}
        for write in self.units[unit]:
            if write.end >= certain and write.start < end:
                seen.setdefault(write.value, []).append(write)
        return seen

    def wrong(
        self,
        first: int,
        values: Sequence[int],
        start: int,
        end: int,
        *,
        stable_at: int = FOREVER,
        tears: bool = False,
    ) -> str:
        """Return where values that were seen are impossible, "" if they are not.

        ``tears``: a unit that was written to meanwhile may be torn, as the kernel copies to and
        from a file's cache without a lock.
        """
        for unit, value in enumerate(values, first):
            possible = self.possible(unit, start, end, stable_at=stable_at)
            if value == TORN and tears and self._is_written(unit, start, end):
                continue
            if value not in possible:
                writes = "; ".join(str(write) for write in self.units[unit][-12:])
                return (
                    f"unit {unit} shows {value} from {start} to {end}, possible are"
                    f" {sorted(possible)}; {writes}"
                )
        return ""

    def _is_written(self, unit: int, start: int, end: int) -> bool:
        return any(write.start < end and write.end > start for write in self.units[unit])

    def torn(self, values: Mapping[int, int], start: int, end: int) -> str:
        """Return what contradicts that values of these units are from one moment, or "".

        The moment lies between ``start`` and ``end``, and no request was half done in it.
        """
        for unit, value in values.items():
            if wrong := self.wrong(unit, [value], start, end):
                return wrong
        shown: dict[int, list[Write]] = {}
        inside: dict[int, Write] = {}
        for unit, value in values.items():
            writes = self.possible(unit, start, end)[value]
            shown[unit] = writes
            if len(writes) == 1 and not writes[0].weak:
                inside[id(writes[0])] = writes[0]
        latest = max((write.start for write in inside.values()), default=0)
        for unit, value in values.items():
            for write in self.units[unit]:
                # It is certain to have happened by the moment, as something later has.
                is_in = not write.weak and (write.end < latest or id(write) in inside)
                if is_in and all(other.end < write.start for other in shown[unit]):
                    return (
                        f"unit {unit} shows {value} of the past ({start} to {end}):"
                        f" {write} was there already; {shown[unit][-1]}; latest is {latest}"
                    )
        return ""


def runs(units: Iterable[int]) -> str:
    """Return numbers as text, in runs."""
    text: list[str] = []
    start = last = -2
    for unit in [*sorted(units), -2]:
        if unit != last + 1 or unit == -2:
            if start >= 0:
                text.append(f"{start}-{last}" if last > start else str(start))
            start = unit
        last = unit
    return ",".join(text)

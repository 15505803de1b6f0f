"""The arithmetic of I/O limits: leaky buckets, without I/O and without a clock.

Each limit is a bucket. A request pours its bytes, or itself, in; the bucket leaks at the
limit's rate. While it holds more than it may, nothing is let through::

    rate, no burst      may hold a tenth of a second's worth
    burst for 1 s       may hold ``burst``
    burst for n s       may hold ``n * burst``; a second bucket, which leaks at the burst's
                        rate and may hold a tenth of a second's worth of it, limits the burst

A request looks at the buckets before it pours, so the last one may overfill them; the next
one then waits for what is too much to leak.

Source: QEMU's docs/throttle.txt; the figures were observed on qemu-storage-daemon 7.2.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from qmpfleece.base.errors import QmpError

#: The kinds of limit by their names in QAPI ``ThrottleLimits``, in the order of QEMU's checks.
KINDS: Final = ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
#: What each of them has, by the suffix in QAPI.
_PARTS: Final = {"": "rate", "-max": "burst", "-max-length": "burst_s"}
#: The kinds that a read and a write pour into, their indexes in ``KINDS``: bytes, operations.
_POURS: Final = (((0, 1), (3, 4)), ((0, 2), (3, 5)))

_MAX_VALUE: Final = 10**15
_MAX_LENGTH: Final = (1 << 32) - 1
#: How much a bucket without a burst may hold, in seconds of its rate.
_SLACK_S: Final = 0.1


class Limit(NamedTuple):
    """One limit.

    Attributes:
        rate: Bytes or operations per second, 0 for any number.
        burst: What they may rise to for a while; 0 for no burst.
        burst_s: How long that while is, in seconds.
    """

    rate: int = 0
    burst: int = 0
    burst_s: int = 1

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            QmpError: QEMU's words.
        """
        if not (0 <= self.rate <= _MAX_VALUE and 0 <= self.burst <= _MAX_VALUE):
            raise QmpError(f"bps/iops/max values must be within [0, {_MAX_VALUE}]")
        if not self.burst_s:
            raise QmpError("the burst length cannot be 0")
        if self.burst_s > 1 and not self.burst:
            raise QmpError("burst length set without burst rate")
        if self.burst_s > 1 and self.burst > _MAX_VALUE // self.burst_s:
            raise QmpError("burst length too high for this burst rate")
        if self.burst and not self.rate:
            raise QmpError("bps_max/iops_max require corresponding bps/iops values")
        if self.burst and self.burst < self.rate:
            raise QmpError("bps_max/iops_max cannot be lower than bps/iops")


class Limits(NamedTuple):
    """All limits of a group.

    Attributes:
        each: One for each of ``KINDS``.
        iops_size: A request of more bytes counts as several operations; 0 for never.
    """

    each: tuple[Limit, ...] = (Limit(),) * len(KINDS)
    iops_size: int = 0

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(limit.rate for limit in self.each)

    def value(self, name: str) -> int:
        """Return a value by its name in QAPI ``ThrottleLimits``."""
        if name == "iops-size":
            return self.iops_size
        index, part = _NAMED[name]
        found: int = getattr(self.each[index], part)
        return found

    def changed(self, values: Mapping[str, int]) -> "Limits":
        """Return these limits with some values changed; see ``check``.

        Args:
            values: By their names in QAPI ``ThrottleLimits``.

        Raises:
            QmpError: A length is too large. What is negative becomes huge, as in QEMU.
        """
        each = list(self.each)
        iops_size = values.get("iops-size", self.iops_size)
        for name, (index, part) in _NAMED.items():
            if name not in values:
                continue
            value = values[name]
            if part == "burst_s":
                if value > _MAX_LENGTH:
                    raise QmpError(f"{name} value must be in the range [0, {_MAX_LENGTH}]")
                value &= (1 << 64) - 1
            each[index] = each[index]._replace(**{part: value})
        return Limits(tuple(each), iops_size)

    def check(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            QmpError: QEMU's words, its checks in its order.
        """
        for total, read, write in (self.each[:3], self.each[3:]):
            if (total.rate and (read.rate or write.rate)) or (
                total.burst and (read.burst or write.burst)
            ):
                raise QmpError(
                    "bps/iops/max total values and read/write values cannot be used at the"
                    " same time"
                )
        if self.iops_size and not any(limit.rate for limit in self.each[3:]):
            raise QmpError("iops size requires an iops value to be set")
        for limit in self.each:
            limit.check()

    def to_wire(self) -> dict[str, int]:
        """Return QAPI ``ThrottleLimits``."""
        return {name: self.value(name) for name in NAMES}


#: Where a named value stands: the index of its kind, the attribute of ``Limit``.
_NAMED: Final = {
    f"{kind}{suffix}": (index, part)
    for suffix, part in _PARTS.items()
    for index, kind in enumerate(KINDS)
}
#: The members of QAPI ``ThrottleLimits``, in schema order.
NAMES: Final = (
    *(f"{kind}{suffix}" for kind in (*KINDS[3:], *KINDS[:3]) for suffix in _PARTS),
    "iops-size",
)


class _Bucket:
    """The state of one limit.

    Attributes:
        capacity: What it may hold.
        level: What it holds.
        burst_capacity: What the second one may hold.
        burst_level: What that one holds; it is not used without ``long_burst``.
        long_burst: Whether there is a second one.
    """

    __slots__ = (
        "burst", "burst_capacity", "burst_level", "capacity", "level", "long_burst", "rate",
    )  # fmt: skip

    def __init__(self, limit: Limit) -> None:
        self.rate = limit.rate
        self.burst = limit.burst
        self.long_burst = limit.burst_s > 1
        self.capacity = limit.burst * limit.burst_s if limit.burst else limit.rate * _SLACK_S
        self.burst_capacity = limit.burst * _SLACK_S
        self.level = 0.0
        self.burst_level = 0.0

    def leak(self, seconds: float) -> None:
        self.level = max(0.0, self.level - self.rate * seconds)
        if self.long_burst:
            self.burst_level = max(0.0, self.burst_level - self.burst * seconds)

    def pour(self, units: float) -> None:
        self.level += units
        if self.long_burst:
            self.burst_level += units

    def wait_s(self) -> float:
        if (extra := self.level - self.capacity) > 0:
            return extra / self.rate
        if self.long_burst and (extra := self.burst_level - self.burst_capacity) > 0:
            return extra / self.burst
        return 0.0


class Buckets:
    """The buckets of a group, empty at first.

    Args:
        limits: They have been checked.
        now: Seconds of any clock that never goes backwards.
    """

    __slots__ = ("_all", "_checked", "_iops_size", "_leaked", "_poured")

    def __init__(self, limits: Limits, now: float) -> None:
        # What is not limited has no bucket.
        buckets = [_Bucket(limit) if limit.rate else None for limit in limits.each]
        self._poured = tuple(
            tuple(tuple(b for i in kind if (b := buckets[i]) is not None) for kind in kinds)
            for kinds in _POURS
        )
        self._checked = tuple(
            (*of_bytes, *of_operations) for of_bytes, of_operations in self._poured
        )
        self._all = tuple(bucket for bucket in buckets if bucket is not None)
        self._iops_size = limits.iops_size
        self._leaked = now

    def wait_s(self, now: float, *, write: bool) -> float:
        """Return how long the next request has to wait, in seconds, 0 for not at all."""
        self._leak(now)
        return max((bucket.wait_s() for bucket in self._checked[write]), default=0.0)

    def account(self, length: int, now: float, *, write: bool) -> None:
        """Count a request of ``length`` bytes that is let through."""
        self._leak(now)
        of_bytes, of_operations = self._poured[write]
        for bucket in of_bytes:
            bucket.pour(length)
        operations = length / self._iops_size if 0 < self._iops_size < length else 1
        for bucket in of_operations:
            bucket.pour(operations)

    def _leak(self, now: float) -> None:
        elapsed = now - self._leaked
        if elapsed > 0:
            self._leaked = now
            for bucket in self._all:
                bucket.leak(elapsed)

"""What a disk's user has asked for: how many requests of which kind, and their bytes.

Requests are counted when they begin, by additions to plain integers; who sees one fail moves it
to the failed ones. So what is in flight counts already. Times are only known of requests whose
user measures them.

Source: QEMU, ``BlockAcctStats``: of devices' requests, not of their nodes.
"""

import time
from typing import Final

#: Kinds of requests.
READ: Final = "rd"
WRITE: Final = "wr"
FLUSH: Final = "flush"
UNMAP: Final = "unmap"


#: What is told as it is.
_COUNTERS: Final = (
    "failed_flush_operations",
    "failed_rd_operations",
    "failed_unmap_operations",
    "failed_wr_operations",
    "flush_operations",
    "flush_total_time_ns",
    "invalid_flush_operations",
    "invalid_rd_operations",
    "invalid_unmap_operations",
    "invalid_wr_operations",
    "rd_bytes",
    "rd_operations",
    "rd_total_time_ns",
    "unmap_bytes",
    "unmap_operations",
    "unmap_total_time_ns",
    "wr_bytes",
    "wr_operations",
    "wr_total_time_ns",
)


class Accounting:
    """The counters of one handle on a disk, named as in QAPI ``BlockDeviceStats``.

    Attributes:
        last_access_ns: When a request has ended whose user measures time; 0: never yet.
    """

    __slots__ = (*_COUNTERS, "last_access_ns")

    def __init__(self) -> None:
        self.rd_bytes = self.wr_bytes = self.unmap_bytes = 0
        self.rd_operations = self.wr_operations = 0
        self.flush_operations = self.unmap_operations = 0
        self.failed_rd_operations = self.failed_wr_operations = 0
        self.failed_flush_operations = self.failed_unmap_operations = 0
        self.invalid_rd_operations = self.invalid_wr_operations = 0
        self.invalid_flush_operations = self.invalid_unmap_operations = 0
        self.rd_total_time_ns = self.wr_total_time_ns = 0
        self.flush_total_time_ns = self.unmap_total_time_ns = 0
        self.last_access_ns = 0

    def counters(self) -> dict[str, int]:
        """Return all counters that are told as they are, by their names."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def idle_ns(self) -> int | None:
        """Return for how long no request has ended, None if that is not known."""
        return time.monotonic_ns() - self.last_access_ns if self.last_access_ns else None

    def begin(self, kind: str, length: int) -> None:
        """Count a request of ``length`` bytes; the NBD server does so itself, in place."""
        self._add(f"{kind}_operations", 1)
        if kind != FLUSH:
            self._add(f"{kind}_bytes", length)

    def failed(self, kind: str, length: int) -> None:
        """Count a request, which has begun, as failed."""
        self._add(f"{kind}_operations", -1)
        if kind != FLUSH:
            self._add(f"{kind}_bytes", -length)
        self._add(f"failed_{kind}_operations", 1)

    def invalid(self, kind: str) -> None:
        """Count a request that was refused before it began."""
        self._add(f"invalid_{kind}_operations", 1)

    def took(self, kind: str, began_ns: int) -> None:
        """Note the end of a request that began at a time of the monotonic clock."""
        self.last_access_ns = time.monotonic_ns()
        self._add(f"{kind}_total_time_ns", self.last_access_ns - began_ns)

    def _add(self, name: str, number: int) -> None:
        setattr(self, name, getattr(self, name) + number)

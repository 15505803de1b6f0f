"""What is counted of host files."""

from collections.abc import Awaitable


class Discards:
    """How discards have ended, and how many bytes of them ended well.

    Source: QAPI ``BlockStatsSpecificFile``.
    """

    __slots__ = ("bytes_ok", "failed", "ok")

    def __init__(self) -> None:
        self.ok = 0
        self.failed = 0
        self.bytes_ok = 0

    async def count(self, length: int, call: Awaitable[None]) -> None:
        """Await a discard of ``length`` bytes and count it."""
        try:
            await call
        except OSError:
            self.failed += 1
            raise
        self.ok += 1
        self.bytes_ok += length

    def to_wire(self) -> dict[str, int]:
        """Return the members of ``BlockStatsSpecificFile``."""
        return {
            "discard-nb-ok": self.ok,
            "discard-nb-failed": self.failed,
            "discard-bytes-ok": self.bytes_ok,
        }

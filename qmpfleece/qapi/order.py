"""The order in which QEMU visits and prints the members of an object.

QEMU keeps an object in a hash table of 512 buckets; members of one bucket come newest first.
Clients compare texts, so the order is part of the behaviour.
"""

from collections.abc import Iterable
from functools import lru_cache

_BUCKETS = 512
_U32 = 0xFFFFFFFF


@lru_cache(maxsize=4096)
def bucket(key: str) -> int:
    """Return the hash bucket of a member name."""
    raw = key.encode("utf-8", "surrogatepass")
    value = 0x238F13AF * len(raw)
    for index, byte in enumerate(raw):
        value += byte << (index * 5 % 24)
    return (1103515243 * (value & _U32) + 12345 & _U32) % _BUCKETS


@lru_cache(maxsize=1024)
def _order(keys: tuple[str, ...]) -> tuple[str, ...]:
    newest_first = keys[::-1]
    return tuple(sorted(newest_first, key=bucket))


def ordered(members: Iterable[str]) -> tuple[str, ...]:
    """Return member names, given in the order of insertion, in the order that QEMU prints."""
    return _order(tuple(members))
